"""The canvas of joint decisions: a line for each question, with a slot for its answer (docs/decide.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

from cdlm.scheduler.messages import Slot


def joined(questions: Sequence[str]) -> str:
    """All questions as the model reads them."""
    listed = "\n\n".join(f"{number}. {question}" for number, question in enumerate(questions, 1))
    return f"{listed}\n\nAnswer each question on a line of its own, after its number."


def labels(count: int) -> list[str]:
    """The texts before each slot."""
    return [f"{number}." if number == 1 else f"\n{number}." for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class Canvas:
    """A canvas that begins behind a prompt.

    Attributes:
        ids: its tokens; those in slots are never seen.
        slots: its masked positions with their candidates, counted from the beginning of the prompt.
        reads: per question and text, the numbers of the candidates whose log-probabilities are added up.
    """

    ids: list[int]
    slots: list[Slot]
    reads: list[list[list[int]]]

    @classmethod
    def of(
        cls, start: int, labels: Sequence[list[int]], texts: Sequence[Sequence[list[int]]], end: list[int]
    ) -> "Canvas":
        """Lays out a canvas from position ``start`` on.

        A slot has as many positions as the longest of its question's texts. A shorter text is followed by the token
        that stands behind the slot: the first one of the next label, or of ``end``.
        """
        ids: list[int] = []
        slots: list[Slot] = []
        reads: list[list[list[int]]] = []
        known = 0
        for number, (label, own) in enumerate(zip(labels, texts, strict=True)):
            ids += label
            behind = (labels[number + 1] if number + 1 < len(labels) else end)[:1]
            width = max(map(len, own))
            filled = [text + behind * (len(text) < width) for text in own]
            chosen: list[list[int]] = [[] for _ in own]
            for offset in range(width):
                candidates = list(dict.fromkeys(text[offset] for text in filled if offset < len(text)))
                slots.append(Slot(start + len(ids) + offset, candidates))
                for reading, text in zip(chosen, filled, strict=True):
                    if offset < len(text):
                        reading.append(known + candidates.index(text[offset]))
                known += len(candidates)
            ids += next(text for text in own if len(text) == width)
            reads.append(chosen)
        return cls(ids + end, slots, reads)
