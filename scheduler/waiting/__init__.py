"""Requests before they run: checked, their grammars compiled, in the order of their turns."""
