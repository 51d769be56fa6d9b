"""A text that ends an answer, and how few tokens write it."""

from dataclasses import dataclass

from cdlm.model.decoding.grammar.vocabulary import Vocabulary

NEVER = 1 << 30


@dataclass(frozen=True, slots=True)
class Ending:
    """A text that ends an answer.

    Attributes:
        text: its bytes.
        costs: by k, the fewest tokens that write its last k bytes; ``NEVER`` or more where none do.
    """

    text: bytes
    costs: list[int]

    @property
    def tokens(self) -> int:
        """The fewest tokens that write it, without the end token."""
        return self.costs[-1]

    def behind(self, length: int) -> "Ending":
        """What is left of it behind so many bytes."""
        return Ending(self.text[length:], self.costs[: len(self.costs) - length])


class Speller:
    """Writes texts with the fewest tokens of a vocabulary, none of them of ``stop_ids``."""

    def __init__(self, vocabulary: Vocabulary, stop_ids: list[int]) -> None:
        self._vocabulary, self._stop_ids = vocabulary, frozenset(stop_ids)

    def ending(self, text: bytes, known: Ending | None = None) -> Ending:
        """``text`` with its costs; those of bytes at its end that ``known`` ends with too are not counted again."""
        same, most = 0, 0 if known is None else min(len(text), len(known.text))
        while same < most and known is not None and text[-1 - same] == known.text[-1 - same]:
            same += 1
        costs = [0] if known is None else known.costs[: same + 1]
        for start in range(len(text) - len(costs), -1, -1):
            left = len(text) - start
            behind = [left - length for _, length in self._pieces(text, start)]
            costs.append(min((costs[place] + 1 for place in behind), default=NEVER))
        return Ending(text, costs)

    def first(self, ending: Ending) -> int:
        """The first of the fewest tokens that write ``ending``, the longest of several."""
        pieces = self._pieces(ending.text, 0)
        return next(token for token, length in pieces if ending.costs[-1 - length] + 1 == ending.tokens)

    def _pieces(self, text: bytes, start: int) -> list[tuple[int, int]]:
        pieces = self._vocabulary.pieces(text, start)
        return [piece for piece in pieces if piece[0] not in self._stop_ids]
