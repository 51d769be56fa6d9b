"""Memory and time that loading a checkpoint takes."""
