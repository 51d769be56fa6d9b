"""GGUF files, as llama.cpp writes them: configuration, tokenizer and weights of a checkpoint in one file."""
