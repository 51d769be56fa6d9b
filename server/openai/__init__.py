"""OpenAI's routes, one package per route, and shared code."""
