"""The first two stages: a next-token model, and a teacher from it."""
