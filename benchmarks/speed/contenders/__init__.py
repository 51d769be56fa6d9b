"""The contenders: the engine, a server, and other decoders of the same shape."""
