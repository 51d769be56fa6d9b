"""HTTP around the routes: keys, limits, bodies, errors, event streams."""
