"""What a step does with each of its rows."""
