"""How fast the engine is, next to what it is made of and to other ways of decoding the same shape."""
