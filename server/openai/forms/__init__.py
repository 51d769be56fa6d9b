"""Output formats: converts schemas, expressions and grammars of requests to grammars for the engine."""
