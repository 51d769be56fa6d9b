"""OpenAI's routes, a package each, and what they share."""
