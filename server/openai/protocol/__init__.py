"""Request bodies and response parts shared by several routes."""
