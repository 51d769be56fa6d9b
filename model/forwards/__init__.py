"""Forwards of the transformer: a step's rows in one flat list, pieces of long prompts, scored tokens, CUDA graphs."""
