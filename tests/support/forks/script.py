"""Python code of a test in a process of its own, which may be forked."""

import sys

from cdlm.scheduler import child

MODULE = __name__


def command(code: str, *arguments: str) -> list[str]:
    """The command that runs code as ``python -c`` does; for code whose imports are not what a test is about."""
    return child.command(MODULE, code, *arguments)


def main() -> None:
    """Entry point: runs the first argument among the names of ``__main__``, which live as long as the process."""
    exec(sys.argv.pop(1), vars(sys.modules["__main__"]))
