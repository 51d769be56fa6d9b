"""Edits logits before tokens are chosen: penalties, biases and bans (docs/sampling.md)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.processors.processor import Processor, Step
from cdlm.model.decoding.rules import BAN
from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.row import RowWork

# Tokens edited at once, so that the fp32 copy stays small.
_VOCABULARY_PART = 16_384


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
class _Answer:
    """The end of a row's answer, from the earliest token at which a word can begin that reaches its current block.

    Attributes:
        index: the row's index in the step.
        mine: the row's positions in the step.
        line: its tokens, ``None`` at masked positions.
        places: index in ``line`` of each of its positions.
        constrained: whether it follows a grammar.
    """

    index: int
    mine: slice
    line: list[int | None]
    places: list[int]
    constrained: bool


@dataclass(slots=True)
class _RowState:
    """Data for one row's edits (V vocabulary size); tensors are on the device.

    Attributes:
        bias: [V] fp32, -inf at banned tokens.
        stops: [V] bool, tokens that ``min_tokens`` forbids.
        in_prompt: [V] bool, tokens of the prompt.
        counts: [V] fp32, how often each token occurs in the finished blocks.
        words: banned sequences of two or more tokens.
        constrained: whether the row follows a grammar.
        counted: how many generated tokens ``counts`` covers.
        tail: the last of those tokens, as many as words can reach back.
    """

    params: DecodingParams
    prompt_length: int
    bias: Tensor
    stops: Tensor
    in_prompt: Tensor
    counts: Tensor
    words: _Words | None
    constrained: bool
    counted: int = 0
    tail: list[int] = field(default_factory=list)


class Edits(Processor[_RowState]):
    """Edits the logits of rows with penalties, biases or bans."""

    def state(self, settings: RowSettings) -> _RowState | None:
        """The row's edits before its first token; ``None`` if it has none."""
        params, prompt_ids = settings.params, settings.prompt_ids
        if not params.edits_logits:
            return None
        bias = torch.zeros(self.vocab_size, device=self.device)
        if params.allowed_token_ids:
            bias.masked_fill_(~self._set(params.allowed_token_ids), float("-inf"))
        if params.logit_bias:
            ids, values = zip(*params.logit_bias.items(), strict=True)
            added = torch.tensor([float("-inf") if value <= BAN else value for value in values])
            bias[self._ids(ids)] += added.to(bias)
        bad = [list(word) for word in params.bad_words if not isinstance(word, str)]
        bias[self._ids([word[0] for word in bad if len(word) == 1])] = float("-inf")
        longer = [word for word in bad if len(word) > 1]
        words = _Words(longer) if longer else None
        in_prompt, stops = self._set(prompt_ids), self._set(settings.stop_ids)
        constrained = settings.grammar is not None
        return _RowState(params, len(prompt_ids), bias, stops, in_prompt, torch.zeros_like(bias), words, constrained)

    def open_block(self, row: int, start: BlockStart) -> None:
        """Counts the tokens of blocks finished since the row's last block."""
        state, generated = self.states.get(row), start.generated
        if state is not None and len(generated) > state.counted:
            fresh = self._ids(generated[state.counted :])
            state.counts.index_add_(0, fresh, torch.ones(len(fresh), device=self.device))
            state.counted = len(generated)
        if state is not None and state.words is not None:
            state.tail = generated[max(0, len(generated) - state.words.reach) :]

    def check(self, row: int, start: BlockStart) -> None:
        """Asserts that an edited row has counted all tokens of its finished blocks."""
        state, generated = self.states.get(row), start.generated
        if state is not None:
            counts = torch.bincount(self._ids(generated), minlength=self.vocab_size)
            assert state.counted == len(generated), f"row {row} has counted {state.counted} of {len(generated)} tokens"
            assert bool((state.counts == counts).all()), f"row {row} has counted other tokens than it generated"
            assert state.tail == generated[len(generated) - len(state.tail) :], f"row {row} has another tail"

    def edit(self, step: Step) -> None:
        """Edits the logits in place."""
        works, logits = step.works, step.logits
        mine = [work.row in self.states for work in works]
        asking = [index for index, edited in enumerate(mine) if edited]
        at = step.positions(mine)
        states = [self.states[works[index].row] for index in asking]
        # [positions of edited rows]: index of the edited row that each belongs to.
        owner = torch.from_numpy(np.repeat(np.arange(len(asking)), np.array(step.counts)[asking])).to(self.device)
        written = self._written(states, [works[index].row for index in asking])

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=self.device)[:, None]

        present = written > 0
        added = torch.stack([state.bias for state in states])
        added = added - column([state.params.frequency_penalty for state in states]) * written
        added -= column([state.params.presence_penalty for state in states]) * present
        seen = present | torch.stack([state.in_prompt for state in states])
        divisor = torch.where(seen, column([state.params.repetition_penalty for state in states]), 1.0)
        offsets = step.chosen[at] % self.canvas.block_length
        banned = self._early([works[index] for index in asking], states, owner, offsets)
        stops = torch.stack([state.stops for state in states]) if banned is not None else None
        for start in range(0, logits.shape[-1], _VOCABULARY_PART):
            part = slice(start, start + _VOCABULARY_PART)
            values = logits[:, part].index_select(0, at).float()
            by = divisor[:, part].index_select(0, owner)
            values = torch.where(values > 0, values / by, values * by)
            values += added[:, part].index_select(0, owner)
            if banned is not None and stops is not None:
                values.masked_fill_(banned[:, None] & stops[:, part].index_select(0, owner), float("-inf"))
            logits[:, part].index_copy_(0, at, values.to(logits.dtype))
        for words, answer in self._answers(step):
            first, places = answer.mine.start, answer.places
            bans = [(first + places.index(at), token) for at, token in words.missing(answer.line) if at in places]
            if bans:
                positions, tokens = zip(*bans, strict=True)
                logits[self._ids(positions), self._ids(tokens)] = float("-inf")

    def decide(self, step: Step) -> None:
        """Defers tokens that would complete a banned word together with other tokens of this step."""
        for words, answer in self._answers(step):
            now, tokens = step.now[answer.index], step.token[answer.mine].tolist()
            first, taken = len(answer.line) - len(now), False
            for place, token in zip(answer.places, tokens, strict=True):
                if not now[place - first]:
                    continue
                answer.line[place] = token
                if taken and words.complete(answer.line, place):
                    answer.line[place] = None
                    # In a grammar, later tokens depend on the deferred one.
                    now[place - first :] &= not answer.constrained
                    now[place - first] = False
                taken = True

    def _answers(self, step: Step) -> Iterator[tuple[_Words, _Answer]]:
        """The answers of the step's rows that have banned words of two or more tokens."""
        canvas = self.canvas
        for index, work, mine in step.rows():
            state = self.states.get(work.row)
            if state is None or state.words is None:
                continue
            row = work.row
            tokens, masked, known = torch.stack((canvas.tokens[row], canvas.masked[row], canvas.known[row])).tolist()
            line = state.tail + [
                None if empty else _KNOWN if given else token
                for token, empty, given in zip(tokens, masked, known, strict=True)
            ]
            places = [place for place, token in enumerate(line) if token is None][: mine.stop - mine.start]
            yield state.words, _Answer(index, mine, line, places, state.constrained)

    def _written(self, states: list[_RowState], rows: list[int]) -> Tensor:
        """[rows, vocab] fp32: how often each token was generated, in finished blocks and in the current one."""
        where = torch.tensor(rows, device=self.device)
        canvas = self.canvas
        tokens = canvas.tokens.index_select(0, where)
        here = ~(canvas.masked | canvas.known).index_select(0, where)
        # A mask token may lie past the vocabulary; masked positions are not counted.
        tokens = tokens.masked_fill(~here, 0)
        return torch.stack([state.counts for state in states]).scatter_add_(1, tokens, here.float())

    def _early(self, works: list[RowWork], states: list[_RowState], owner: Tensor, offsets: Tensor) -> Tensor | None:
        """[positions] bool: whether a position is among its row's first ``min_tokens``; ``None`` if no row sets it."""
        until = [
            state.prompt_length + state.params.min_tokens - work.block_start
            for work, state in zip(works, states, strict=True)
        ]
        if max(until) <= 0:
            return None
        return offsets < torch.tensor(until, device=self.device)[owner]

    def _ids(self, ids: "list[int] | tuple[int, ...]") -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.device)

    def _set(self, ids: list[int]) -> Tensor:
        """[vocab] bool: true at ``ids``; ignores ids outside the vocabulary."""
        found = torch.zeros(self.vocab_size, dtype=torch.bool, device=self.device)
        found[self._ids([token for token in ids if 0 <= token < self.vocab_size])] = True
        return found
