"""A text that ends an answer, and how few tokens write it."""

from dataclasses import dataclass

from cdlm.model.decoding.grammar.vocabulary import Vocabulary

NEVER = 1 << 30


@dataclass(frozen=True, slots=True)
class Ending:
    """A text that ends an answer.

    Attributes:
        text: its bytes.
        costs: entry k is the fewest tokens that write its last k bytes; ``NEVER`` or more if no tokens can.
    """

    text: bytes
    costs: list[int]

    @property
    def tokens(self) -> int:
        """The fewest tokens that write the text, end token excluded."""
        return self.costs[-1]

    def behind(self, length: int) -> "Ending":
        """The ending without its first ``length`` bytes."""
        return Ending(self.text[length:], self.costs[: len(self.costs) - length])


class Speller:
    """Finds the fewest tokens that write a text, without tokens in ``stop_ids``."""

    def __init__(self, vocabulary: Vocabulary, stop_ids: list[int]) -> None:
        self._vocabulary, self._stop_ids = vocabulary, frozenset(stop_ids)

    def ending(self, text: bytes, known: Ending | None = None) -> Ending:
        """Computes the costs of ``text``; reuses those of ``known`` for the bytes at the end that both share."""
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
        """The first token of the shortest way to write ``ending``; of several, the longest token."""
        pieces = self._pieces(ending.text, 0)
        return next(token for token, length in pieces if ending.costs[-1 - length] + 1 == ending.tokens)

    def _pieces(self, text: bytes, start: int) -> list[tuple[int, int]]:
        pieces = self._vocabulary.pieces(text, start)
        return [piece for piece in pieces if piece[0] not in self._stop_ids]
