"""What an answer must be: schemas, expressions and grammars of requests, made ready for the engine."""
