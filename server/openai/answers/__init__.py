"""The answers to a request as they grow: their work in the engine, their text, their events."""
