"""The blocks being denoised: one row a running request, kept on the device and edited in place."""

import torch

from model.config import Manifest
from model.rules import RULES, FinalisationRule

MAX_STOP_IDS = 32


class Canvas:
    """State of every row's current block.

    Attributes (S rows, B block length, H hidden size):
        tokens: [S, B] int64, the mask token where nothing is finalised.
        masked: [S, B] bool, positions without a token. Kept apart from ``tokens``, since a prompt may
            contain the mask token's id.
        first: [S] int64, where generated positions begin (a prompt's tail may share the block).
        steps: [S] int64, denoise steps the block has taken.
        max_steps: [S] int64, the most it may take.
        rule: [S] int64, how positions are finalised: index into ``model.rules.RULES``.
        limit: [S] fp32, the rule's number.
        stop_ids: [S, MAX_STOP_IDS] int64, padded with -1.
        border: [S, H], for shifted backbones: the hidden state that predicts the block's first position.
    """

    def __init__(
        self, rows: int, manifest: Manifest, hidden_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.block_length = manifest.block_length
        self.mask_token_id = manifest.mask_token_id
        shape = (rows, self.block_length)
        self.tokens = torch.full(shape, self.mask_token_id, device=device)
        self.masked = torch.zeros(shape, dtype=torch.bool, device=device)
        self.first, self.steps, self.max_steps, self.rule = (
            torch.zeros(rows, dtype=torch.long, device=device) for _ in range(4)
        )
        self.limit = torch.full((rows,), manifest.confidence_threshold, device=device)
        self.stop_ids = torch.full((rows, MAX_STOP_IDS), -1, device=device)
        self.border = torch.zeros((rows, hidden_size), dtype=dtype, device=device)

    def open_row(self, row: int, *, rule: FinalisationRule, max_steps: int, stop_ids: list[int]) -> None:
        """Gives a row to a request.

        Raises:
            ValueError: more than ``MAX_STOP_IDS`` stop tokens.
        """
        if len(stop_ids) > MAX_STOP_IDS:
            raise ValueError(f"at most {MAX_STOP_IDS} stop token ids, got {len(stop_ids)}")
        self.rule[row] = RULES.index(rule.name)
        self.limit[row] = rule.limit
        self.max_steps[row] = max_steps
        self.stop_ids[row] = torch.tensor(stop_ids + [-1] * (MAX_STOP_IDS - len(stop_ids)))

    def open_block(self, row: int, given: list[int]) -> None:
        """Starts a block of masks; ``given`` are prompt tokens that lie inside it, at its beginning."""
        self.tokens[row] = self.mask_token_id
        self.masked[row] = True
        if given:
            self.tokens[row, : len(given)] = torch.tensor(given, device=self.tokens.device)
            self.masked[row, : len(given)] = False
        self.first[row] = len(given)
        self.steps[row] = 0
