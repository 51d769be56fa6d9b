"""Answers in progress: their work in the engine, their text, their events."""
