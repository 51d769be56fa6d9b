"""Runs one engine step: the forward over all segments, and the finalisation of every row's block."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.attention.paged import PagedAttention, PagedCache
from model.canvas import Canvas
from model.checkpoint import Checkpoint
from model.finalise import choose, confidence_and_best, entropy, first_stop, frontier
from model.sampling import gumbel_noise, sample
from model.segments import Segment, build_batch


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a row draws tokens; a row without it takes the most probable one."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int


@dataclass(frozen=True, slots=True)
class Span:
    """Known tokens whose keys and values are still to be computed: positions start, start + 1, ..."""

    start: int
    token_ids: list[int]
    causal: bool = False


@dataclass(frozen=True, slots=True)
class RowWork:
    """What one request needs in one step.

    Attributes:
        row: its row of the canvas.
        pages: its page table, long enough for the block.
        clean: spans to compute, in order, ending where the block begins (or none).
        block_start: position of the current block.
        denoise: whether the block's rows join the forward; false only where the block's first token is
            taken from the commit pass alone.
        sampling: ``None`` for greedy decoding.
        needs_entropy: whether its finalisation rule ranks by entropy.
    """

    row: int
    pages: list[int]
    clean: list[Span]
    block_start: int
    denoise: bool = True
    sampling: Sampling | None = None
    needs_entropy: bool = False


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row's block after the step.

    Attributes:
        tokens: the block's ids, the mask token where nothing is finalised.
        frontier: length of the finalised left prefix.
        stop: offset of the first stop token, the block length if there is none.
        finalised: positions finalised in this step.
        steps: denoise steps the block has taken.
    """

    tokens: list[int]
    frontier: int
    stop: int
    finalised: int
    steps: int


@dataclass(slots=True)
class _NoiseCache:
    """Gumbel noise of the blocks in flight, so that a block draws it once: row -> (seed, start, noise)."""

    rows: dict[int, tuple[int, int, Tensor]] = field(default_factory=dict)

    def get(
        self, work: RowWork, sampling: Sampling, block_length: int, vocab_size: int, device: torch.device
    ) -> Tensor:
        kept = self.rows.get(work.row)
        if kept is None or kept[:2] != (sampling.seed, work.block_start):
            noise = gumbel_noise(sampling.seed, work.block_start, block_length, vocab_size, device)
            kept = self.rows[work.row] = (sampling.seed, work.block_start, noise)
        return kept[2]


class ModelRunner:
    """Owns the transformer, the key-value pool and the canvas."""

    def __init__(self, checkpoint: Checkpoint, *, num_pages: int, page_size: int, max_rows: int) -> None:
        self.transformer, self.manifest = checkpoint.transformer, checkpoint.manifest
        weight = self.transformer.embed_tokens.weight
        self.device, self.dtype = weight.device, weight.dtype
        config = self.transformer.config
        self.cache = PagedCache(
            config, num_pages=num_pages, page_size=page_size, device=self.device, dtype=self.dtype
        )
        self.canvas = Canvas(max_rows, self.manifest, config.hidden_size, self.device, self.dtype)
        self._noise = _NoiseCache()

    def release(self, row: int) -> None:
        """Forgets what was kept for a row that its request has left."""
        self._noise.rows.pop(row, None)

    @torch.inference_mode()
    def step(self, works: list[RowWork]) -> list[RowResult]:
        """One forward and one round of finalisation; results come in the order of ``works``."""
        rows = torch.tensor([work.row for work in works], device=self.device)
        hidden = self._forward(works, rows)
        predictable, source = self._sources(works, rows)
        chosen = predictable.nonzero()  # [masked, 2]
        flat = source[chosen[:, 0], chosen[:, 1]]
        logits = self.transformer.logits(hidden[flat])  # [masked, vocab]
        confidence, token = confidence_and_best(logits, self.manifest.mask_token_id)
        entropies = entropy(logits) if any(work.needs_entropy for work in works) else None
        self._sample(works, chosen, logits, token)
        finalised = self._finalise(rows, predictable, chosen, confidence, token, entropies)
        return self._results(rows, finalised)

    def _forward(self, works: list[RowWork], rows: Tensor) -> Tensor:
        """Hidden states [T + rows, hidden]: T tokens of all segments, then each row's border state."""
        block = self.canvas.block_length
        canvas_tokens = self.canvas.tokens[rows]
        segments: list[Segment] = []
        ids: list[Tensor] = []
        borders: list[tuple[int, int]] = []  # (canvas row, flat index of its last clean token)
        total = 0
        for index, work in enumerate(works):
            for span in work.clean:
                segments.append(Segment(span.start, len(span.token_ids), work.pages, span.causal))
                ids.append(torch.tensor(span.token_ids, device=self.device))
                total += len(span.token_ids)
            if work.clean:
                borders.append((work.row, total - 1))
            if work.denoise:
                segments.append(Segment(work.block_start, block, work.pages))
                ids.append(canvas_tokens[index])
                total += block
        batch = build_batch(segments, self.cache.page_size, self.device)
        hidden = self.transformer(torch.cat(ids), batch.positions, PagedAttention(self.cache, batch))
        if self.manifest.shift and borders:
            where = torch.tensor(borders, device=self.device)
            self.canvas.border[where[:, 0]] = hidden[where[:, 1]]
        return torch.cat((hidden, self.canvas.border[rows]))

    def _sources(self, works: list[RowWork], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which positions have a prediction in this step [rows, block] bool, and in which hidden row [rows, block]."""
        block, count = self.canvas.block_length, len(works)
        starts, total = [], 0
        for work in works:
            total += sum(len(span.token_ids) for span in work.clean)
            starts.append(total)
            total += block if work.denoise else 0
        offsets = torch.arange(block, device=self.device)[None]
        source = torch.tensor(starts, device=self.device)[:, None] + offsets
        predictable = self.canvas.masked[rows]
        if self.manifest.shift:
            source = source - 1
            source[:, 0] = total + torch.arange(count, device=self.device)
            if not all(work.denoise for work in works):
                denoise = torch.tensor([work.denoise for work in works], device=self.device)
                predictable = predictable & (denoise[:, None] | (offsets == 0))
        return predictable, source

    def _sample(self, works: list[RowWork], chosen: Tensor, logits: Tensor, token: Tensor) -> None:
        """Replaces the most probable token by a drawn one in rows that ask for it; ``token`` changes in place."""
        if all(work.sampling is None for work in works):
            return
        block, vocab = self.canvas.block_length, logits.shape[-1]
        for index, work in enumerate(works):
            if work.sampling is None:
                continue
            mine = (chosen[:, 0] == index).nonzero()[:, 0]
            how = work.sampling
            noise = self._noise.get(work, how, block, vocab, self.device)[chosen[mine, 1]]
            token[mine] = sample(
                logits[mine], noise, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p, min_p=how.min_p
            )

    def _finalise(
        self,
        rows: Tensor,
        predictable: Tensor,
        chosen: Tensor,
        confidence: Tensor,
        token: Tensor,
        entropies: Tensor | None,
    ) -> Tensor:
        """Applies each row's rule to the canvas; returns how many positions each row finalised, [rows] int64."""
        canvas = self.canvas
        block = predictable.shape
        wide_confidence = _spread(confidence, chosen, block)
        wide_token = _spread(token, chosen, block)
        wide_entropies = None if entropies is None else _spread(entropies, chosen, block)
        left = predictable.sum(-1)
        steps_left = (canvas.max_steps[rows] - canvas.steps[rows]).clamp_min(1)
        at_least = ((left + steps_left - 1) // steps_left).clamp_min(1)
        now = choose(wide_confidence, predictable, canvas.rule[rows], canvas.limit[rows], at_least, wide_entropies)
        canvas.tokens[rows] = torch.where(now, wide_token, canvas.tokens[rows])
        canvas.masked[rows] = canvas.masked[rows] & ~now
        canvas.steps[rows] += 1
        return now.sum(-1)

    def _results(self, rows: Tensor, finalised: Tensor) -> list[RowResult]:
        """Brings the rows to the host: the step's only transfer."""
        canvas = self.canvas
        tokens, masked = canvas.tokens[rows], canvas.masked[rows]
        stop = first_stop(tokens, canvas.stop_ids[rows], canvas.first[rows], masked)
        figures = torch.stack((frontier(masked), stop, finalised, canvas.steps[rows]), dim=1)
        return [
            RowResult(line[4:], *line[:4]) for line in torch.cat((figures, tokens), dim=1).tolist()
        ]


def _spread(values: Tensor, chosen: Tensor, shape: torch.Size) -> Tensor:
    """Puts values [masked] at their places chosen [masked, 2] of a rectangle, zero elsewhere."""
    wide = values.new_zeros(shape)
    wide[chosen[:, 0], chosen[:, 1]] = values
    return wide
