"""The base of teacher decoders: prompts in; answers and the work that they took out."""

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.decoding.logits.confidence import confidence_and_best, entropy
from cdlm.model.network.transformer import Transformer
from cdlm.training.decoding.full import check_length, decode_full, spread
from cdlm.training.decoding.rules import EngineRule, Rule


@dataclass(frozen=True, slots=True)
class Decoding:
    """One answer of a teacher decoder.

    Attributes:
        tokens: ids before the first stop token.
        steps: denoise steps, each one forward.
        filled: finalized positions, those after the stop token included.
        computed: positions computed by the model, summed over the steps.
    """

    tokens: list[int]
    steps: int
    filled: int
    computed: int


@dataclass
class TeacherDecoder(ABC):
    """Greedy block-wise decoding of a bidirectional model.

    Attributes:
        generation_length: masks on each canvas, a multiple of the manifest's block length.
        early_stop: ends a row when its active block is complete and contains a stop token.
        rule: which masked positions of the active block are finalized in a step.

    Raises:
        ValueError: ``generation_length`` is not a positive multiple of the block length.
    """

    model: Transformer
    manifest: Manifest
    generation_length: int = field(kw_only=True)
    early_stop: bool = field(kw_only=True)
    rule: Rule = field(kw_only=True, default=EngineRule("fixed_steps"))

    def __post_init__(self) -> None:
        check_length(self.generation_length, self.manifest)

    @abstractmethod
    def __call__(self, prompts: list[list[int]]) -> list[Decoding]:
        """Returns one answer per prompt, in order; an answer does not depend on the other prompts."""


class FullDecoder(TeacherDecoder):
    """A forward of the whole canvas at every step (LLaDA, arXiv 2502.09992)."""

    def __call__(self, prompts: list[list[int]]) -> list[Decoding]:
        decodings = decode_full(
            self.model,
            self.manifest,
            prompts,
            generation_length=self.generation_length,
            rule=self.rule,
            early_stop=self.early_stop,
        )
        return [
            Decoding(
                before_stop(decoding.tokens.tolist(), self.manifest),
                decoding.steps,
                len(decoding.tokens),
                decoding.steps * (len(prompt) + self.generation_length),
            )
            for prompt, decoding in zip(prompts, decodings, strict=True)
        ]


class CanvasForward(Protocol):
    """The forwards for one group of equally long prompts, with their cache.

    Attributes:
        hidden: [rows, L, hidden_size], last hidden states of the canvas; current at the active block.
    """

    hidden: Tensor

    def advance(self, ids: Tensor, start: int, step: int) -> Tensor | int:
        """Runs one forward.

        Args:
            ids: [rows, L] int64, the canvas.
            start: where the active block begins.
            step: steps that the block has taken.

        Returns:
            How many positions were computed: per row, [rows] int64, or one number for all rows.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Keeps only the rows with these indices, [kept] int64, in this order."""
        ...


@dataclass
class CachedDecoder(TeacherDecoder):
    """Decoding with a cache; subclasses define the forwards. Prompts of equal length share a batch."""

    @abstractmethod
    def forward(self, prompt_length: int) -> CanvasForward:
        """Makes the forwards for a new group of prompts."""

    @torch.inference_mode()
    def __call__(self, prompts: list[list[int]]) -> list[Decoding]:
        """Raises ``ValueError`` for an empty prompt, or one that leaves no room for the generation."""
        groups: dict[int, list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            groups[len(prompt)].append(index)
        found: dict[int, Decoding] = {}
        for length, members in groups.items():
            if not 1 <= length <= self.manifest.max_model_len - self.generation_length:
                raise ValueError(
                    f"a prompt of {length} tokens and {self.generation_length} more do not fit into "
                    f"1..{self.manifest.max_model_len}"
                )
            found.update(zip(members, self._decode([prompts[i] for i in members]), strict=True))
        return [found[index] for index in range(len(prompts))]

    def _decode(self, prompts: list[list[int]]) -> list[Decoding]:
        """``prompts`` are equally long."""
        manifest, block = self.manifest, self.manifest.block_length
        first = len(prompts[0])
        device = self.model.embed_tokens.weight.device
        ids = torch.full((len(prompts), first + self.generation_length), manifest.mask_token_id, device=device)
        ids[:, :first] = torch.tensor(prompts, device=device)
        forward = self.forward(first)
        running = list(range(len(prompts)))
        work = torch.zeros((len(prompts), 2), dtype=torch.long, device=device)  # Steps and positions computed.
        done: dict[int, Decoding] = {}
        for start in range(first, ids.shape[1], block):
            self._complete_block(ids, start, forward, work)
            last = start + block == ids.shape[1]
            stay = []
            for row, (tokens, (steps, computed)) in enumerate(zip(ids[:, first:].tolist(), work.tolist(), strict=True)):
                filled = tokens[: start + block - first]
                if last or (self.early_stop and set(filled[-block:]) & set(manifest.stop_token_ids)):
                    done[running[row]] = Decoding(before_stop(filled, manifest), steps, len(filled), computed)
                else:
                    stay.append(row)
            if not stay:
                break
            if len(stay) < len(running):
                kept = torch.tensor(stay, device=device)
                ids, work, running = ids[kept], work[kept], [running[row] for row in stay]
                forward.keep(kept)
        return [done[row] for row in range(len(prompts))]

    def _complete_block(self, ids: Tensor, start: int, forward: CanvasForward, work: Tensor) -> None:
        """Denoises one block of all rows; ``ids`` and ``work`` change in place. Complete rows wait for the others."""
        block = ids[:, start : start + self.manifest.block_length]
        first = start - int(self.manifest.shift)  # Where the block's first position is predicted.
        step = 0
        while bool((masked := block == self.manifest.mask_token_id).any()):
            computed = forward.advance(ids, start, step)
            hidden = forward.hidden[:, first : first + self.manifest.block_length]
            logits = self.model.logits(hidden[masked])  # [masked, vocab]
            confidence, token = confidence_and_best(logits, self.manifest.mask_token_id)
            chosen = self.rule(spread(confidence, masked), spread(entropy(logits), masked), masked)
            block[chosen] = spread(token, masked)[chosen]
            open_rows = masked.any(dim=-1)
            work[:, 0] += open_rows
            work[:, 1] += computed * open_rows
            step += 1


def before_stop(tokens: list[int], manifest: Manifest) -> list[int]:
    """The tokens before the first stop token, or all."""
    end = next((index for index, token in enumerate(tokens) if token in manifest.stop_token_ids), len(tokens))
    return tokens[:end]
