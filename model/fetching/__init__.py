"""Finds a model by its name or id, and brings what of it is not in the package onto this machine."""
