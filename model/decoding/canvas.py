"""The blocks being denoised: one row per running request, kept on the device and updated in place."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.decoding.rules import RULES, FinalizationRule
from cdlm.model.decoding.settings import RowSettings
from cdlm.model.row import RowResult, RowWork
from cdlm.model.uploads import Place, place_on

MAX_STOP_IDS = 32

# Most steps of a block after its last mask, in rows that replace decided tokens (LLaDA 2.1, arXiv 2602.08676).
SETTLING_STEPS = 16
# No confidence exceeds it: nothing is replaced.
_NEVER = float("inf")

# Rules that decide each position by its own confidence.
BY_THRESHOLD = ("threshold", "fixed_steps")


class Canvas:
    """State of the current block of every row.

    Attributes (S rows, B block length, H hidden size), on the device, with one row more that belongs to nobody:
        tokens: [S, B] int64, the mask token where nothing is finalized.
        masked: [S, B] bool, positions without a token. Kept apart from ``tokens``, since a prompt may
            contain the mask token's id.
        known: [S, B] bool, positions whose token was known before the block's first step.
        rule: [S] int64, how positions are finalized: index into ``rules.RULES``.
        limit: [S] fp32, the rule's number (``FinalizationRule.limit``).
        replace_above: [S] fp32, the confidence above which another prediction replaces a decided token; infinite in
            rows that replace none.
        stop_ids: [S, MAX_STOP_IDS] int64, padded with -1.
        border: [2 * S, H], if the manifest has borders: the hidden state that predicts the block's first position; the
            second half is for the unconditional passes of guided rows.

    What is opened is written to the device when the next step begins (``write_new``), for all rows at once.

    On the host, a list entry a row, so that a step can be prepared without asking the device:
        left: positions without a token.
        generated: positions whose token was not known before the block's first step.
        first: offset of the first generated position (the end of the prompt may share the block).
        steps: denoise steps the block has taken.
        pace: positions that the row's last step finalized.
        max_steps: most denoise steps until the block has no masks.
        last_step: most denoise steps per block, those after the last mask included.
        settling: steps that found no masks in the block.
        replaces: whether the row may replace decided tokens of the block.
        by_threshold: whether ``choose_by_threshold`` implements the rule.
        stop_tokens: the stop ids.
    """

    def __init__(
        self, rows: int, manifest: Manifest, hidden_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.rows = rows
        self.block_length = manifest.block_length
        self.mask_token_id = manifest.mask_token_id
        shape = (rows + 1, self.block_length)  # Recorded steps have rows that belong to nobody.
        self.tokens = torch.full(shape, self.mask_token_id, device=device)
        self.masked, self.known = (torch.zeros(shape, dtype=torch.bool, device=device) for _ in range(2))
        self.rule = torch.zeros(rows + 1, dtype=torch.long, device=device)
        self.limit = torch.full((rows + 1,), manifest.confidence_threshold, device=device)
        self.replace_above = torch.full((rows + 1,), _NEVER, device=device)
        self.stop_ids = torch.full((rows + 1, MAX_STOP_IDS), -1, device=device)
        self.border = torch.zeros((2 * rows + 1, hidden_size), dtype=dtype, device=device)
        self.left, self.generated, self.first, self.steps, self.pace = ([0] * rows for _ in range(5))
        self.max_steps, self.last_step, self.settling = ([0] * rows for _ in range(3))
        self.stop_tokens: list[list[int]] = [[] for _ in range(rows)]
        self.by_threshold, self.replaces = [True] * rows, [False] * rows
        self._new_rows: dict[int, tuple[FinalizationRule, float, list[int]]] = {}
        self._new_blocks: dict[int, dict[int, int]] = {}

    def open_row(self, row: int, settings: RowSettings) -> None:
        """Assigns a row to a request.

        Without ``max_steps_per_block``, a row with ``replace_above`` has ``SETTLING_STEPS`` after ``max_steps``.

        Raises:
            ValueError: more than ``MAX_STOP_IDS`` stop tokens.
        """
        if len(settings.stop_ids) > MAX_STOP_IDS:
            raise ValueError(f"at most {MAX_STOP_IDS} stop token ids, got {len(settings.stop_ids)}")
        # As a stop id, the mask token would match every position that is not finalized.
        stop_ids = [token for token in settings.stop_ids if token != self.mask_token_id]
        if settings.border is not None:
            self.border[row] = settings.border
        above, last_step = settings.replace_above, settings.params.max_steps_per_block
        self._new_rows[row] = settings.rule, _NEVER if above is None else above, stop_ids
        self.max_steps[row], self.stop_tokens[row] = settings.max_steps, stop_ids
        self.last_step[row] = settings.max_steps + SETTLING_STEPS if last_step is None else last_step
        self.replaces[row] = above is not None
        self.by_threshold[row] = settings.rule.name in BY_THRESHOLD

    def open_block(self, row: int, given: list[int], pinned: Mapping[int, int] | None = None) -> None:
        """Starts a block: all masks except known tokens.

        ``given`` are the prompt tokens at its beginning; ``pinned`` maps offsets to known tokens after the end of the
        answer.
        """
        known = {**dict(enumerate(given)), **(pinned or {})}
        self._new_blocks[row] = known
        self.left[row] = self.generated[row] = self.block_length - len(known)
        self.first[row], self.steps[row], self.settling[row] = len(given), 0, 0

    def write_new(self, place: Place) -> Callable[[], None]:
        """Brings what was opened since the last time to the device; what is returned writes it, once it is there."""
        rows, blocks = self._new_rows, self._new_blocks
        writes: list[tuple[Tensor, Tensor, Tensor]] = []
        if rows:
            at = place(np.array(list(rows)))
            stop_ids = np.full((len(rows), MAX_STOP_IDS), -1)
            for line, (_, _, ids) in zip(stop_ids, rows.values(), strict=True):
                line[: len(ids)] = ids
            rules = np.array([RULES.index(rule.name) for rule, _, _ in rows.values()])
            limits = np.array([rule.limit for rule, _, _ in rows.values()], dtype=np.float32)
            above = np.array([confidence for _, confidence, _ in rows.values()], dtype=np.float32)
            writes += [(self.rule, at, place(rules)), (self.limit, at, place(limits))]
            writes += [(self.replace_above, at, place(above)), (self.stop_ids, at, place(stop_ids))]
        if blocks:
            at = place(np.array(list(blocks)))
            known = np.zeros((len(blocks), self.block_length), dtype=bool)
            tokens = np.full(known.shape, self.mask_token_id)
            for line, own, given in zip(known, tokens, blocks.values(), strict=True):
                line[list(given)], own[list(given)] = True, list(given.values())
            writes += [(self.tokens, at, place(tokens)), (self.known, at, place(known))]
            writes.append((self.masked, at, place(~known)))

        def write() -> None:
            for target, where, what in writes:
                target.index_copy_(0, where, what)
            rows.clear()
            blocks.clear()

        return write

    @property
    def opened(self) -> bool:
        """Whether a row or block was opened that the device does not have yet."""
        return bool(self._new_rows or self._new_blocks)

    def write(self, rows: Tensor, tokens: Tensor, masked: Tensor) -> None:
        """Stores a step's outcome: tokens and masked [R, block], at canvas rows ``rows`` [R]."""
        self.tokens.index_copy_(0, rows, tokens)
        self.masked.index_copy_(0, rows, masked)

    def count(self, works: list[RowWork], results: list[RowResult]) -> None:
        """Brings what the host remembers up to a step's results, in the order of ``works``."""
        for work, result in zip(works, results, strict=True):
            self.settling[work.row] += not self.left[work.row]
            self.left[work.row] -= result.finalized
            self.steps[work.row], self.pace[work.row] = result.steps, result.finalized

    def check(self) -> None:
        """Asserts that what the host remembers is what the device holds."""
        self.write_new(place_on(self.tokens.device))()
        held = self.tokens, self.masked, self.known, self.stop_ids, self.rule, self.replace_above
        tokens, masked, known, stop_ids, rules, above = (each.cpu().numpy() for each in held)
        columns = (
            masked.sum(1), (~known).sum(1), known.cumprod(1).sum(1), (stop_ids >= 0).sum(1), rules, np.isfinite(above)
        )  # fmt: skip
        for row, (left, open_, first, stops, rule, replacing) in enumerate(np.stack(columns, 1)[: self.rows].tolist()):
            assert self.left[row] == left, f"row {row} has {left} masked positions, not {self.left[row]}"
            generates = self.generated[row]
            assert not replacing or generates == open_, f"row {row} generates {open_} positions, not {generates}"
            assert self.replaces[row] == bool(replacing), f"row {row} differs in whether it replaces tokens"
            assert self.first[row] == first, f"row {row} begins with {first} known tokens, not {self.first[row]}"
            own = len(self.stop_tokens[row])
            assert own == stops, f"row {row} has {stops} stop tokens, not {own}"
            assert self.by_threshold[row] == (RULES[rule] in BY_THRESHOLD), f"row {row} has the rule {RULES[rule]}"
        assert not (masked & known).any(), "a known position is masked"
        assert not (masked & (tokens != self.mask_token_id)).any(), "a masked position has a token"

    def at_least(self, row: int) -> int:
        """Fewest positions that the next step must finalize to finish the block within ``max_steps``."""
        return max(1, -(-self.left[row] // self.steps_left(row)))

    def finished(self, row: int, left: int, replaced: int) -> bool:
        """Whether a block is finished by the next step: one that leaves so many masks, and replaces so many tokens.

        A row that replaces tokens goes on after the last mask, until a step changes nothing.
        """
        if left or not self.replaces[row]:
            return not left
        settling = self.settling[row] + (not self.left[row])
        settled = settling > 0 and not replaced
        return settled or settling >= SETTLING_STEPS or self.steps[row] + 1 >= self.last_step[row]

    def goes_on(self, row: int) -> bool:
        """Whether a block will probably need another step after the next one; sure where tokens are replaced."""
        left = self.left[row]
        if self.replaces[row]:
            return left > 0 and self.steps[row] + 1 < self.last_step[row]
        return left > 2 * self.pace[row] and self.at_least(row) < left

    def steps_left(self, row: int) -> int:
        """Denoise steps in which the block may still have masks; at least one."""
        return max(1, self.max_steps[row] - self.steps[row])
