"""What is measured: the engine, a server, and other ways to decode the same shape."""
