"""Bans words of several tokens, also within one step (docs/sampling.md)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from cdlm.model.decoding.processors.processor import Processor, Step
from cdlm.model.decoding.settings import BlockStart, RowSettings

# Stands in a line for a token that was not generated: no word contains it.
_KNOWN = -1


class _Words:
    """Token sequences that may not be generated; one can begin up to ``reach`` tokens before a block."""

    def __init__(self, words: list[list[int]]) -> None:
        self.reach = max(map(len, words), default=1) - 1
        self._having: dict[int, list[tuple[list[int], int]]] = {}
        for word in words:
            for offset, token in enumerate(word):
                self._having.setdefault(token, []).append((word, offset))

    def missing(self, line: list[int | None]) -> Iterator[tuple[int, int]]:
        """Yields (place, token) for masked places where that token would complete a word."""
        for place, found in enumerate(line):
            for word, start in self._around(line, place, found):
                lacking = [at for at, token in enumerate(word, start) if line[at] != token]
                if len(lacking) == 1 and line[lacking[0]] is None:
                    yield lacking[0], word[lacking[0] - start]

    def complete(self, line: list[int | None], place: int) -> bool:
        """Whether the token at ``place`` is part of a complete word."""
        return any(line[start : start + len(word)] == word for word, start in self._around(line, place, line[place]))

    def _around(self, line: list[int | None], place: int, token: int | None) -> Iterator[tuple[list[int], int]]:
        """Yields (word, start) for words that can contain ``token`` at ``place``."""
        for word, offset in self._having.get(_KNOWN if token is None else token, ()):
            if 0 <= place - offset <= len(line) - len(word):
                yield word, place - offset


@dataclass(slots=True)
class _RowState:
    """A row's words, whether it follows a grammar, and its last tokens before the block, as far as words reach."""

    words: _Words
    constrained: bool
    tail: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Answer:
    """The end of a row's answer, from the earliest token at which a word can begin that reaches its current block.

    Attributes:
        index: the row's index in the step.
        mine: the row's positions in the step.
        line: its tokens, ``None`` at masked positions.
        places: index in ``line`` of each of its positions.
    """

    index: int
    mine: slice
    line: list[int | None]
    places: list[int]


class Words(Processor[_RowState]):
    """Keeps banned words of two or more tokens out of answers."""

    def state(self, settings: RowSettings) -> _RowState | None:
        """The row's words before its first token; ``None`` without any. ``Edits`` bans words of one token."""
        words = [list(word) for word in settings.params.bad_words if len(word) > 1 and not isinstance(word, str)]
        return _RowState(_Words(words), settings.grammar is not None) if words else None

    def open_block(self, row: int, start: BlockStart) -> None:
        """Stores the last tokens of the finished blocks."""
        state, generated = self.states.get(row), start.generated
        if state is not None:
            state.tail = generated[max(0, len(generated) - state.words.reach) :]

    def check(self, row: int, start: BlockStart) -> None:
        """Asserts that the stored tokens are the last of the finished blocks."""
        state, generated = self.states.get(row), start.generated
        if state is not None:
            assert state.tail == generated[len(generated) - len(state.tail) :], f"row {row} has another tail"

    def edit(self, step: Step) -> None:
        """Bans each token that would complete a word together with final tokens."""
        for state, answer in self._answers(step):
            first, places = answer.mine.start, answer.places
            bans = [(first + places.index(at), token) for at, token in state.words.missing(answer.line) if at in places]
            if bans:
                positions, tokens = zip(*bans, strict=True)
                step.logits[torch.tensor(positions), torch.tensor(tokens)] = float("-inf")

    def decide(self, step: Step) -> None:
        """Defers tokens that would complete a banned word together with other tokens of this step."""
        for state, answer in self._answers(step):
            now, tokens = step.now[answer.index], step.token[answer.mine].tolist()
            first, taken = len(answer.line) - len(now), False
            for place, token in zip(answer.places, tokens, strict=True):
                if not now[place - first]:
                    continue
                answer.line[place] = token
                if taken and state.words.complete(answer.line, place):
                    answer.line[place] = None
                    # In a grammar, later tokens depend on the deferred one.
                    now[place - first :] &= not state.constrained
                    now[place - first] = False
                taken = True

    def _answers(self, step: Step) -> Iterator[tuple[_RowState, _Answer]]:
        """The answers of the step's rows that have banned words of two or more tokens."""
        canvas = self.canvas
        for index, work, mine in step.rows():
            state = self.states.get(work.row)
            if state is None:
                continue
            row = work.row
            tokens, masked, known = torch.stack((canvas.tokens[row], canvas.masked[row], canvas.known[row])).tolist()
            line = state.tail + [
                None if empty else _KNOWN if given else token
                for token, empty, given in zip(tokens, masked, known, strict=True)
            ]
            places = [place for place, token in enumerate(line) if token is None][: mine.stop - mine.start]
            yield state, _Answer(index, mine, line, places)
