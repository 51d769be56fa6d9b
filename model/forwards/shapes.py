"""The shapes that forwards are recorded in, and the memory that describes a step of each; needs no kernels."""

from dataclasses import dataclass

ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
_EXTRA_BYTES = 2**16  # For what a step needs beside its layout.


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows, how many of them commit a block first, and among how many programs a row's keys are shared at most."""

    rows: int
    commits: int
    parts: int


def all_shapes(positions: int, part: int) -> list[Shape]:
    """All shapes of requests of at most ``positions``, the largest first; programs read ``part`` keys each."""
    longest = 1 << (-(-positions // part) - 1).bit_length()
    parts = [1 << power for power in range(longest.bit_length())]
    sizes = [(rows, commits) for rows in ROWS for commits in sorted({0, -(-rows // 4), rows})]
    return [Shape(rows, commits, part) for part in reversed(parts) for rows, commits in reversed(sizes)]


def buffer_bytes(shape: Shape, block: int, pages: int) -> int:
    """Bytes on the device that describe a step, for blocks of ``block`` tokens and tables of ``pages`` pages."""
    segments = shape.rows + shape.commits
    return 2 * (64 * segments * (block + 4) + 4 * segments * pages + _EXTRA_BYTES)
