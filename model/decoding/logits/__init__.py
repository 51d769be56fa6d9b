"""What is read off a step's logits: the most probable tokens, how sure they are, draws, log-probabilities."""
