"""Edits of the logits: penalties, biases and bans, applied before anything is decided on them (docs/sampling.md)."""

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

# Edited in parts of the vocabulary, so that what is held in fp32 stays small.
_VOCABULARY_PART = 16_384


# In the line of an answer, a position whose token was known before: no word goes through it.
_KNOWN = -1


class _Words:
    """Sequences of tokens that may not be written; ``reach`` tokens in front of a block can begin one."""

    def __init__(self, words: list[list[int]]) -> None:
        self.reach = max(map(len, words), default=1) - 1
        self._having: dict[int, list[tuple[list[int], int]]] = {}
        for word in words:
            for offset, token in enumerate(word):
                self._having.setdefault(token, []).append((word, offset))

    def missing(self, line: list[int | None]) -> Iterator[tuple[int, int]]:
        """Each place that has no token yet, with a token that would complete a word there."""
        for place, found in enumerate(line):
            for word, start in self._around(line, place, found):
                lacking = [at for at, token in enumerate(word, start) if line[at] != token]
                if len(lacking) == 1 and line[lacking[0]] is None:
                    yield lacking[0], word[lacking[0] - start]

    def complete(self, line: list[int | None], place: int) -> bool:
        """Whether the token at ``place`` is part of a word."""
        return any(line[start : start + len(word)] == word for word, start in self._around(line, place, line[place]))

    def _around(self, line: list[int | None], place: int, token: int | None) -> Iterator[tuple[list[int], int]]:
        """The words that may have the token at ``place`` in them, and where they begin."""
        for word, offset in self._having.get(_KNOWN if token is None else token, ()):
            if 0 <= place - offset <= len(line) - len(word):
                yield word, place - offset


@dataclass(slots=True)
class _Answer:
    """What is written of a row's answer, from where a word may begin that goes on in its current block.

    Attributes:
        index: of the row in the step.
        mine: which of the step's positions are its own.
        line: its tokens, ``None`` where none is final.
        places: where in the line its positions are.
        constrained: whether it follows a grammar.
    """

    index: int
    mine: slice
    line: list[int | None]
    places: list[int]
    constrained: bool


@dataclass(slots=True)
class _RowState:
    """What one row's edits rest on (V vocabulary size), on the device.

    Attributes:
        bias: [V] fp32, -inf at banned tokens.
        stops: [V] bool, tokens that ``min_tokens`` forbids.
        in_prompt: [V] bool.
        counts: [V] fp32, how often each token stands in the finished blocks.
        words: of more than one token, that may not be written.
        constrained: whether the row follows a grammar.
        counted: generated tokens that ``counts`` holds.
        tail: the last of them, as many as words reach back.
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
    """Edits the logits of the rows that ask for it."""

    def state(self, settings: RowSettings) -> _RowState | None:
        """The edits, with nothing generated so far."""
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
        """Counts what has been finished since the row's last block."""
        state, generated = self.states.get(row), start.generated
        if state is not None and len(generated) > state.counted:
            fresh = self._ids(generated[state.counted :])
            state.counts.index_add_(0, fresh, torch.ones(len(fresh), device=self.device))
            state.counted = len(generated)
        if state is not None and state.words is not None:
            state.tail = generated[max(0, len(generated) - state.words.reach) :]

    def check(self, row: int, start: BlockStart) -> None:
        """Asserts that a row has counted all tokens of its finished blocks, if its logits are edited."""
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
        # [positions of asking rows]: which of the asking rows each belongs to.
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
        """Leaves to a later step what would complete a word with other tokens of this step."""
        for words, answer in self._answers(step):
            now, tokens = step.now[answer.index], step.token[answer.mine].tolist()
            first, taken = len(answer.line) - len(now), False
            for place, token in zip(answer.places, tokens, strict=True):
                if not now[place - first]:
                    continue
                answer.line[place] = token
                if taken and words.complete(answer.line, place):
                    answer.line[place] = None
                    # What follows in a grammar does not stand without it.
                    now[place - first :] &= not answer.constrained
                    now[place - first] = False
                taken = True

    def _answers(self, step: Step) -> Iterator[tuple[_Words, _Answer]]:
        """The answers of a step in which some words may not stand."""
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
        # Where nothing was generated there is no token to count, and a mask token may lie past the vocabulary.
        tokens = tokens.masked_fill(~here, 0)
        return torch.stack([state.counts for state in states]).scatter_add_(1, tokens, here.float())

    def _early(self, works: list[RowWork], states: list[_RowState], owner: Tensor, offsets: Tensor) -> Tensor | None:
        """[positions] bool: those that come before their row's ``min_tokens``; ``None`` when no row has any."""
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
        """[vocab] bool: true at ``ids``; ids outside the vocabulary are no tokens."""
        found = torch.zeros(self.vocab_size, dtype=torch.bool, device=self.device)
        found[self._ids([token for token in ids if 0 <= token < self.vocab_size])] = True
        return found
