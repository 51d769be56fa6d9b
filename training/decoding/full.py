"""Block-wise decoding of a bidirectional model with a full forward of the whole canvas at every step.

The canvas is [prompt | generation_length masks] (LLaDA, arXiv 2502.09992). Its blocks are finished one after another;
every query sees every position, later blocks included. No cache: this is the exact, slow decoder of a teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.decoding.logits.noise import gumbel_noise
from cdlm.model.decoding.logits.sampling import sample
from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.attention import RowAttention
from cdlm.training.decoding.rules import Rule, confidence_rank


@dataclass(frozen=True, slots=True, eq=False)
class FullDecoding:
    """The decoding of one row.

    Attributes:
        tokens: [n] int64, n a multiple of the block length.
        order: [n] int64: ``order[i] == k`` where position i was the (k+1)-th to be finalized. Positions of one step
            are ranked by confidence, ties from left to right.
        steps: forwards of the row.
        hidden: [n, hidden_size] in the dtype of the forward, the last hidden state that predicted each position at
            the step that finalized it (for a shifted model the state before the position); ``None`` if not kept.
    """

    tokens: Tensor
    order: Tensor
    steps: int
    hidden: Tensor | None


@torch.inference_mode()
def decode_full(
    model: Transformer,
    manifest: Manifest,
    prompts: list[list[int]],
    *,
    generation_length: int,
    rule: Rule,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    early_stop: bool,
    keep_hidden: bool = False,
) -> list[FullDecoding]:
    """Decodes a batch of prompts; an answer does not depend on the other prompts.

    Rows are padded on the right to the longest; attention masks the padding.

    Args:
        generation_length: masks on each canvas, a multiple of the manifest's block length.
        rule: which masked positions of the active block are finalized in a step.
        temperature: 0 takes the most probable token. Otherwise a token is argmax(logits / temperature + Gumbel noise)
            with fresh noise at every step that depends on the row's seed and step alone; its confidence is still
            its untempered probability.
        seeds: one per prompt; required with a temperature.
        early_stop: ends a row when its active block is complete and contains a stop token.

    Raises:
        ValueError: an empty prompt, a canvas longer than the model's limit, or lengths that do not fit the blocks.
    """
    _check(manifest, prompts, generation_length)
    canvas = _Canvas(model, manifest, prompts, generation_length)
    decodings: dict[int, FullDecoding] = {}
    while len(canvas.rows):
        hidden = canvas.predicting_states(model)  # [rows, block, hidden_size]
        masked = canvas.active_block() == manifest.mask_token_id
        logits = model.logits(hidden[masked]).float()  # [masked positions, vocab]
        logits[:, manifest.mask_token_id] = float("-inf")
        if temperature > 0:
            assert seeds is not None
            noise = _noise([seeds[row] for row in canvas.rows.tolist()], canvas.step, masked, logits)
            token = sample(logits, noise, temperature=temperature)
        else:
            token = logits.argmax(dim=-1)
        probability = logits.softmax(dim=-1)
        confidence = spread(probability.gather(1, token[:, None])[:, 0], masked)
        entropy = spread(torch.special.entr(probability).sum(dim=-1), masked)
        chosen = rule(confidence, entropy, masked)
        assert not (chosen & ~masked).any(), "the rule chose a position that is not masked"
        assert chosen.any(dim=-1).all(), "the rule chose nothing in a row"
        canvas.place(spread(token, masked), chosen, confidence, hidden if keep_hidden else None)
        decodings.update(canvas.leave(early_stop=early_stop))
    return [decodings[row] for row in range(len(prompts))]


class _Canvas:
    """The rows still running, and the record of all. Every running row takes part in every step.

    Attributes:
        rows: [running] int64, indexes into the prompts.
        step: forwards so far.
        ids: [running, L] int64; a row's canvas ends at ``end``.
        start, end: [running] int64, where the active block begins and where the canvas ends.
        finalized: [running] int64, positions filled so far.
        order, hidden: the record of all rows, by position after the prompt.
    """

    def __init__(
        self, model: Transformer, manifest: Manifest, prompts: list[list[int]], generation_length: int
    ) -> None:
        self.manifest, self.generation_length, self.step = manifest, generation_length, 0
        device = model.embed_tokens.weight.device
        self.rows = torch.arange(len(prompts), device=device)
        self.start = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64, device=device)
        self.end = self.start + generation_length
        self.finalized = torch.zeros_like(self.start)
        length = max((len(prompt) for prompt in prompts), default=0) + generation_length
        ids = torch.full((len(prompts), length), manifest.mask_token_id)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        self.ids = ids.to(device)
        self.order = torch.full((len(prompts), generation_length), -1, device=device)
        self.hidden: Tensor | None = None
        self.stop_ids = torch.tensor(manifest.stop_token_ids, dtype=torch.int64, device=device)
        self._fit()

    def _fit(self) -> None:
        """Removes padding that no running row needs, and masks the rest."""
        length = int(self.end.max()) if len(self.rows) else 0
        self.ids = self.ids[:, :length]
        self.positions = torch.arange(length, device=self.ids.device)[None]
        within = self.positions < self.end[:, None]
        self.attention = RowAttention(None if bool(within.all()) else within[:, None])

    def _active(self) -> tuple[Tensor, Tensor]:
        """Indexes of the active blocks in ``ids``: [running, 1] and [running, block]."""
        offsets = torch.arange(self.manifest.block_length, device=self.ids.device)
        return torch.arange(len(self.rows), device=self.ids.device)[:, None], self.start[:, None] + offsets

    def active_block(self) -> Tensor:
        """The ids of the active blocks, [running, block] int64."""
        return self.ids[self._active()]

    def predicting_states(self, model: Transformer) -> Tensor:
        """Runs one forward; returns the states that predict the active blocks, [running, block, hidden_size]."""
        hidden = model(self.ids, self.positions, self.attention)
        self.step += 1
        row, position = self._active()
        out: Tensor = hidden[row, position - int(self.manifest.shift)]
        return out

    def place(self, token: Tensor, chosen: Tensor, confidence: Tensor, hidden: Tensor | None) -> None:
        """Finalizes the ``chosen`` positions of the active blocks; all [running, block], hidden [..., hidden_size]."""
        row, position = (index.expand_as(chosen)[chosen] for index in self._active())
        self.ids[row, position] = token[chosen]
        record = self.rows[row], position - (self.end[row] - self.generation_length)
        self.order[record] = (self.finalized[:, None] + confidence_rank(confidence, chosen))[chosen]
        self.finalized = self.finalized + chosen.sum(dim=-1)
        if hidden is not None:
            if self.hidden is None:
                self.hidden = hidden.new_zeros(*self.order.shape, hidden.shape[-1])
            self.hidden[record] = hidden[chosen]

    def leave(self, *, early_stop: bool) -> dict[int, FullDecoding]:
        """Advances rows with a complete block; removes finished rows and returns them by prompt index."""
        block = self.active_block()
        complete = (block != self.manifest.mask_token_id).all(dim=-1)
        self.start = self.start + complete * self.manifest.block_length
        done = complete & (self.start == self.end)
        if early_stop:
            done |= complete & torch.isin(block, self.stop_ids).any(dim=-1)
        if not done.any():
            return {}
        decodings = {}
        for index in done.nonzero()[:, 0].tolist():
            row, end = int(self.rows[index]), int(self.start[index])
            first = int(self.end[index]) - self.generation_length
            kept = None if self.hidden is None else self.hidden[row, : end - first]
            decodings[row] = FullDecoding(self.ids[index, first:end], self.order[row, : end - first], self.step, kept)
        self.rows, self.start, self.end = self.rows[~done], self.start[~done], self.end[~done]
        self.ids, self.finalized = self.ids[~done], self.finalized[~done]
        self._fit()
        return decodings


def spread(values: Tensor, masked: Tensor) -> Tensor:
    """values [masked positions] -> [rows, block], zero where not masked."""
    return values.new_zeros(masked.shape).masked_scatter_(masked, values)


def _noise(seeds: list[int], step: int, masked: Tensor, logits: Tensor) -> Tensor:
    """Gumbel noise like logits [masked positions, vocab]; a row's depends on its seed and the step alone."""
    block = masked.shape[1]
    places = range(step * block, (step + 1) * block)
    return torch.stack([gumbel_noise(seed, places, logits.shape[1]) for seed in seeds]).to(logits.device)[masked]


def check_length(generation_length: int, manifest: Manifest) -> None:
    """Raises ``ValueError`` unless ``generation_length`` is a positive multiple of the block length."""
    if generation_length < 1 or generation_length % manifest.block_length:
        raise ValueError(
            f"generation_length {generation_length} is not a positive multiple of the block length "
            f"{manifest.block_length}"
        )


def _check(manifest: Manifest, prompts: list[list[int]], generation_length: int) -> None:
    check_length(generation_length, manifest)
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {index} is empty")
        if len(prompt) + generation_length > manifest.max_model_len:
            raise ValueError(
                f"prompt {index}: {len(prompt)} tokens and {generation_length} to generate exceed the model's "
                f"limit of {manifest.max_model_len}"
            )
