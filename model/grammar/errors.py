"""What can be wrong with a grammar."""


class GrammarError(ValueError):
    """A grammar cannot be compiled, or cannot be followed any further; the message says why."""
