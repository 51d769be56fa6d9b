"""Runs one engine step: a forward over all segments, then the finalization of each row's block."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cdlm.model.attention.backends import find_attention, resolve_attention, resolve_graphs
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory
from cdlm.model.config import AttentionBackend
from cdlm.model.decoding.finalize import choose, choose_by_threshold, first_stop
from cdlm.model.decoding.processors.guidance import second_places, without_prompt
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.decoding.reader import LogitReader
from cdlm.model.decoding.rows import Rows
from cdlm.model.forwards.layout import StepLayout, build_layout, layout_key
from cdlm.model.forwards.scoring import ScoreWork, score
from cdlm.model.forwards.staged import StagedForward
from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.row import NOT_FINITE, RowResult, RowWork, Span, TokenScore
from cdlm.model.uploads import Place, Uploads, place_on

if TYPE_CHECKING:
    from cdlm.model.forwards.graphs import ForwardGraphs


class ModelRunner:
    """Owns the transformer, the KV cache and the rows."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        num_pages: int,
        page_size: int,
        max_rows: int,
        attention_backend: AttentionBackend = "auto",
        cuda_graphs: bool | None = None,
    ) -> None:
        self.transformer, self.manifest = checkpoint.transformer, checkpoint.manifest
        self.transformer.fuse()
        weight = self.transformer.embed_tokens.weight
        self.device, self.dtype = weight.device, weight.dtype
        config = self.transformer.config
        self.followers = checkpoint.followers
        backend = resolve_attention(attention_backend, self.device)
        recorded = resolve_graphs(cuda_graphs, backend, self.device, shared=self.followers is not None)
        factory = find_attention(backend, device=self.device, page_size=page_size)
        self.transformer.kernels = None
        self.reader = LogitReader()
        if backend == "triton":
            # Triton is there on Linux only.
            from cdlm.model.decoding.kernel_reader import KernelLogitReader
            from cdlm.model.forwards.kernel_layers import KernelLayers

            block = self.manifest.block_length
            self.transformer.kernels = KernelLayers(self.transformer, self.manifest.max_model_len + block)
            self.reader = KernelLogitReader()
        self.uploads = Uploads(self.device) if self.device.type == "cuda" else None
        # Graphs have rows that belong to nobody, and those write to a page of their own.
        self.cache = PagedCache(
            config, num_pages=num_pages + recorded, page_size=page_size, device=self.device, dtype=self.dtype
        )
        self.attention: AttentionFactory = factory
        if self.followers is not None:
            self.followers.open_pool(num_pages, page_size, backend)
            self.attention = self.followers.attend_with(factory)
        self.rows = Rows(
            max_rows,
            self.manifest,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            device=self.device,
            dtype=self.dtype,
        )
        self.canvas = self.rows.canvas
        self.graphs: ForwardGraphs | None = None
        if recorded:
            self.graphs = self._make_graphs()
        self._layout: tuple[tuple[object, ...], StepLayout] | None = None

    @torch.inference_mode()
    def record_graphs(self) -> int:
        """Records all steps that may be replayed; returns how many."""
        return 0 if self.graphs is None else self.graphs.record_all()

    def _make_graphs(self, *, record: bool = True) -> "ForwardGraphs":
        from cdlm.model.forwards.graphs import ForwardGraphs

        assert self.uploads is not None
        return ForwardGraphs(
            self.forward,
            self.cache,
            self.uploads,
            block_length=self.manifest.block_length,
            scratch=(self.canvas.rows, 2 * self.canvas.rows),
            max_model_len=self.manifest.max_model_len,
            record=record,
        )

    @property
    def _place(self) -> Place:
        return place_on(self.device) if self.uploads is None else self.uploads.place

    def border(self, row: int) -> Tensor:
        """Copies the hidden state [hidden] that predicts the first position of a row's block."""
        return self.canvas.border[row].clone()

    def copy_page(self, source: int, target: int) -> None:
        """Copies keys and values of all layers from one page to another."""
        if self.followers is not None:
            self.followers.copy_page(source, target)
        self.cache.copy_page(source, target)

    def clear(self, pages: list[int], start: int) -> None:
        """Zeroes keys and values from position ``start`` of the page table ``pages``, on every rank.

        A NaN left in a page would spoil the attention of its next owner, even if masked.
        """
        if self.followers is not None:
            self.followers.clear(pages, start)
        self.cache.clear(pages, start)

    @torch.inference_mode()
    def step(self, works: list[RowWork]) -> list[RowResult]:
        """Runs one forward and finalizes positions; returns results in the order of ``works``.

        If it raises, the canvas is unchanged: the same rows, or some of them, can be stepped again.
        """
        second = [without_prompt(work, self.manifest.mask_token_id) for work in works if work.guidance]
        shape = self.graphs.shape(works) if self.graphs is not None else None
        if self.graphs is not None and shape is not None:
            layout = self.graphs.begin(shape, works)
        else:
            if self.uploads is not None:
                self.uploads.begin()
            layout = self.layout(works + second)
        place = self._place
        write_new = self.canvas.write_new(place)
        at_least = place(np.array([self.canvas.at_least(work.row) for work in works]))
        first = place(np.array([self.canvas.first[work.row] for work in works]))
        if self.uploads is not None:
            self.uploads.send()
        write_new()
        rows = layout.rows[: len(works)]
        # [rows and second * block, hidden]
        predicting = self.forward(layout) if self.graphs is None or shape is None else self.graphs.run(shape)
        # How many positions have a prediction is known here, so the device need not be asked for it.
        counts = [self.canvas.left[work.row] if work.denoise else 1 for work in works]
        tokens, masked = self.canvas.tokens.index_select(0, rows), self.canvas.masked.index_select(0, rows)
        predictable = self._predictable(masked, layout)
        chosen = torch.nonzero_static(predictable.view(-1), size=sum(counts))[:, 0]
        step, wanted = Step(works, counts, chosen), self.rows.wanted(works)
        asked = predicting.index_select(0, chosen)  # [masked, hidden]
        if self.followers is None and not wanted and all(work.plain for work in works):
            head, mask = self.transformer.lm_head, self.manifest.mask_token_id
            confidence, step.token = self.reader.best_of_head(asked, head, mask)
            step.now, broken = self._rules(step, rows, at_least, confidence, None)
        else:
            step.logits = self.transformer.logits(asked)  # [masked, vocab]
            if second:
                places = second_places(step, self.canvas.block_length)
                step.unprompted = self.transformer.logits(predicting.index_select(0, places))
            for processor in wanted:
                processor.edit(step)
            ranked = any(work.needs_entropy for work in works)
            confidence, step.token, entropies = self.reader.statistics(
                step.logits, self.manifest.mask_token_id, needs_entropy=ranked
            )
            self.reader.draw(works, counts, chosen, step.logits, step.token, self.canvas.block_length)
            step.now, broken = self._rules(step, rows, at_least, confidence, entropies)
            for processor in wanted:
                processor.decide(step)
        # ``now`` is a subset of ``masked``.
        predicted = tokens.view(-1).index_copy(0, chosen, step.token).view_as(tokens)
        tokens, masked = torch.where(step.now, predicted, tokens), masked ^ step.now
        results = self._results(works, rows, first, tokens, masked, broken, step.failed)
        for processor in wanted:
            processor.report(step, results)
        self.canvas.close_step(works, rows, tokens, masked, results)
        return results

    @torch.inference_mode()
    def stage(self, spans: list[Span], pages: list[int], *, piece: float) -> StagedForward:
        """A forward over known tokens of one request, to be run in pieces (see ``StagedForward`` for ``piece``)."""
        return StagedForward(spans, pages, self.transformer, self.cache, self.attention, piece=piece)

    @torch.inference_mode()
    def score(self, works: list[ScoreWork]) -> list[list[TokenScore]]:
        """Runs one forward over known tokens; returns the scores of each work's targets."""
        return score(works, self.transformer, self.cache, self.attention, self.manifest.mask_token_id)

    def layout(self, works: list[RowWork]) -> StepLayout:
        """The layout of the step's forward; reused while the same rows denoise the same blocks."""
        key = layout_key(works)
        if key is not None and self._layout is not None and self._layout[0] == key:
            return self._layout[1]
        layout = build_layout(
            works, self.canvas.block_length, self.cache, self.attention, self.canvas.rows, self._place
        )
        self._layout = None if key is None else (key, layout)
        return layout

    @torch.inference_mode()
    def forward(self, layout: StepLayout) -> Tensor:
        """Runs the forward; returns the hidden states that predict each row's block, [rows * block, hidden].

        In rows that are not denoised, only the first position is valid.
        """
        canvas, rows = self.canvas, layout.rows
        ids = canvas.tokens.index_select(0, rows if layout.denoised is None else rows[layout.denoised]).view(-1)
        if layout.blanks is not None:
            ids[layout.blanks] = self.manifest.mask_token_id
        if layout.clean_ids is not None:
            ids = torch.cat((layout.clean_ids, ids))
        if layout.attention is None:  # No row has tokens to compute.
            hidden = canvas.border[:0]
        else:
            hidden = self.transformer(ids, layout.attention.positions, layout.attention)
        if not self.manifest.shift:
            return hidden[layout.clean_count :]
        if layout.bordered is not None and layout.border_tokens is not None:
            canvas.border.index_copy_(0, layout.bordered, hidden.index_select(0, layout.border_tokens))
        blocks = hidden[layout.clean_count :].view(-1, canvas.block_length, hidden.shape[-1])
        border = canvas.border.index_select(0, layout.borders)[:, None]
        if layout.denoised is None:
            return torch.cat((border, blocks[:, :-1]), dim=1).flatten(0, 1)
        predicting = hidden.new_empty((len(rows), canvas.block_length, hidden.shape[-1]))
        predicting[:, :1] = border
        predicting[layout.denoised, 1:] = blocks[:, :-1]
        return predicting.flatten(0, 1)

    def _predictable(self, masked: Tensor, layout: StepLayout) -> Tensor:
        """Which of the ``masked`` positions have a prediction in this step; both [rows, block] bool."""
        if layout.denoised is None:
            return masked
        denoised = torch.zeros(len(layout.rows), dtype=torch.bool, device=self.device)
        denoised[layout.denoised] = True
        predictable = masked.clone()
        predictable[:, 1:] &= denoised[: len(masked), None]
        return predictable

    def _rules(
        self, step: Step, rows: Tensor, at_least: Tensor, confidence: Tensor, entropies: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The positions that each row's rule finalizes, [rows, block] bool, and whose logits are not finite, [rows].

        at_least [rows] int64 is what each must finalize.
        """
        canvas, works, chosen = self.canvas, step.works, step.chosen
        shape = len(works), canvas.block_length

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(shape).view(-1).index_copy_(0, chosen, values).view(shape)

        sure, limit = spread(confidence), canvas.limit.index_select(0, rows)
        broken = sure.sum(-1).isnan()  # NaN if a logit is NaN or +inf, or all are -inf.
        counts = [canvas.at_least(work.row) for work in works]
        if all(canvas.by_threshold[work.row] for work in works):
            same = counts[0] if min(counts) == max(counts) else at_least
            return choose_by_threshold(sure, limit, same), broken
        predicted = spread(torch.ones_like(chosen, dtype=torch.bool))
        wide_entropies = None if entropies is None else spread(entropies)
        return choose(sure, predicted, canvas.rule[rows], limit, at_least, wide_entropies), broken

    def _results(
        self,
        works: list[RowWork],
        rows: Tensor,
        first: Tensor,
        tokens: Tensor,
        masked: Tensor,
        broken: Tensor,
        failed: dict[int, str],
    ) -> list[RowResult]:
        """Copies the rows to the host, in the step's only transfer, and returns their results.

        tokens and masked [rows, block] are what the canvas will hold, first [rows] int64 is where generated positions
        begin, broken [rows] bool is from ``_rules``; ``failed`` has, by index in ``works``, why a row cannot go on.
        """
        canvas, block = self.canvas, self.canvas.block_length
        figures = [broken[:, None], masked, tokens]
        width = max(canvas.stops[work.row] for work in works)
        if width:
            figures.insert(0, first_stop(tokens, canvas.stop_ids[rows, :width], first, masked)[:, None])
        results = []
        for index, (work, line) in enumerate(zip(works, torch.cat(figures, dim=1).tolist(), strict=True)):
            still, stop = line[-2 * block : -block], line[0] if width else block
            left = sum(still)
            reached, finalized = still.index(1) if left else block, canvas.left[work.row] - left
            error = NOT_FINITE if line[-2 * block - 1] else failed.get(index)
            if error is None and not finalized:
                error = "a step finalized none of its tokens"  # The row would loop forever.
            steps = canvas.steps[work.row] + 1
            results.append(RowResult(line[-block:], reached, stop, finalized, steps, error=error))
        return results
