"""The engine's process and those that share its layers: how they start, talk and end."""
