"""The least time that a device takes for a forward: its peak rates, and what a forward multiplies and moves."""
