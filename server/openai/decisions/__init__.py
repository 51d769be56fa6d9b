"""The route of decisions: questions about an input, each answered with the probabilities of its choices."""
