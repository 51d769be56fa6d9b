"""Measures the engine's speed against its bare forwards and against other decoders of the same shape."""
