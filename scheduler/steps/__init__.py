"""The parts of an engine step."""
