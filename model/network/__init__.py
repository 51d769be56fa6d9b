"""The transformer: layers, LM head, rotary positions, parameter counts."""
