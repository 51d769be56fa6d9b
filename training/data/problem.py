"""One verifiable exercise: what is asked, a worked reference answer, and how to check a candidate."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["words", "functions", "chat"]


@dataclass(frozen=True, slots=True)
class Problem:
    """An exercise drawn from a generator.

    ``check`` is what verification needs: for ``words`` the final number as text, for ``functions``
    newline-separated ``assert`` statements over the defined function, for ``chat`` the empty string.
    """

    task: Task
    prompt: str
    completion: str
    check: str
