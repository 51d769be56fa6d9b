"""Runs one engine step: a forward over all segments, then the finalization of each row's block."""

from collections.abc import Callable

import torch
from torch import Tensor

from cdlm.model.attention.backends import find_attention
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory
from cdlm.model.config import AttentionBackend
from cdlm.model.decoding.confidence import confidence_and_best, confidence_and_best_of_head, entropy
from cdlm.model.decoding.draws import replace_drawn
from cdlm.model.decoding.finalize import choose, choose_by_threshold, first_stop
from cdlm.model.decoding.processors.guidance import second_places, without_prompt
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.decoding.rows import Rows
from cdlm.model.forwards.layout import StepLayout, build_layout, layout_key
from cdlm.model.forwards.scoring import ScoreWork, score
from cdlm.model.forwards.staged import StagedForward
from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.row import NOT_FINITE, RowResult, RowWork, Span, TokenScore


class ModelRunner:
    """Owns the transformer, the KV cache and the rows."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        num_pages: int,
        page_size: int,
        max_rows: int,
        attention_backend: AttentionBackend = "sdpa",
        cuda_graphs: bool = False,
    ) -> None:
        self.transformer, self.manifest = checkpoint.transformer, checkpoint.manifest
        self.transformer.fuse()
        weight = self.transformer.embed_tokens.weight
        self.device, self.dtype = weight.device, weight.dtype
        config = self.transformer.config
        self.followers = checkpoint.followers
        factory = find_attention(
            attention_backend,
            device=self.device,
            dtype=self.dtype,
            page_size=page_size,
            cuda_graphs=cuda_graphs,
            shared=self.followers is not None,
        )
        self.transformer.kernels = None
        if attention_backend == "triton":
            from cdlm.model.forwards.kernel_layers import KernelLayers  # Triton exists on Linux only.

            block = self.manifest.block_length
            self.transformer.kernels = KernelLayers(self.transformer, self.manifest.max_model_len + block)
        # CUDA graphs have padding rows, which write to a page of their own.
        self.cache = PagedCache(
            config, num_pages=num_pages + cuda_graphs, page_size=page_size, device=self.device, dtype=self.dtype
        )
        self.attention: AttentionFactory = factory
        if self.followers is not None:
            self.followers.open_pool(num_pages, page_size, attention_backend)
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
        self.graphs: Callable[[list[RowWork], StepLayout], Tensor] | None = None
        if cuda_graphs:
            from cdlm.model.forwards.graphs import ForwardGraphs  # Older versions of torch lack varlen attention.

            self.graphs = ForwardGraphs(
                self.forward,
                self.cache,
                block_length=self.manifest.block_length,
                max_model_len=self.manifest.max_model_len,
            )
        self._layout: tuple[tuple[object, ...], StepLayout] | None = None

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
        layout = self.layout(works + second)
        rows = layout.rows[: len(works)]
        recorded = self.graphs if not second and layout_key(works) else None
        predicting = recorded(works, layout) if recorded else self.forward(layout)  # [rows and second * block, hidden]
        # Known on the host: no transfer from the device.
        counts = [self.canvas.left[work.row] if work.denoise else 1 for work in works]
        tokens, masked = self.canvas.tokens.index_select(0, rows), self.canvas.masked.index_select(0, rows)
        predictable = self._predictable(masked, layout)
        chosen = torch.nonzero_static(predictable.view(-1), size=sum(counts))[:, 0]
        step, wanted = Step(works, counts, chosen), self.rows.wanted(works)
        asked = predicting.index_select(0, chosen)  # [masked, hidden]
        if self.followers is None and not wanted and all(work.plain for work in works):
            head, mask = self.transformer.lm_head, self.manifest.mask_token_id
            confidence, step.token = confidence_and_best_of_head(asked, head, mask)
            step.now, broken = self._rules(step, rows, confidence, None)
        else:
            step.logits = self.transformer.logits(asked)  # [masked, vocab]
            if second:
                places = second_places(step, self.canvas.block_length)
                step.unprompted = self.transformer.logits(predicting.index_select(0, places))
            for processor in wanted:
                processor.edit(step)
            confidence, step.token = confidence_and_best(step.logits, self.manifest.mask_token_id)
            entropies = entropy(step.logits) if any(work.needs_entropy for work in works) else None
            replace_drawn(works, counts, chosen, step.logits, step.token, self.canvas.block_length)
            step.now, broken = self._rules(step, rows, confidence, entropies)
            for processor in wanted:
                processor.decide(step)
        # ``now`` is a subset of ``masked``.
        predicted = tokens.view(-1).index_copy(0, chosen, step.token).view_as(tokens)
        tokens, masked = torch.where(step.now, predicted, tokens), masked ^ step.now
        results = self._results(works, rows, tokens, masked, broken, step.failed)
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
        layout = build_layout(works, self.canvas.block_length, self.cache, self.attention, self.canvas.rows)
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

    def _rules(self, step: Step, rows: Tensor, confidence: Tensor, entropies: Tensor | None) -> tuple[Tensor, Tensor]:
        """Positions to finalize by the rules, [rows, block] bool, and rows with logits that are not finite, [rows]
        bool.
        """
        canvas, works, chosen = self.canvas, step.works, step.chosen
        shape = len(works), canvas.block_length

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(shape).view(-1).index_copy_(0, chosen, values).view(shape)

        sure, limit = spread(confidence), canvas.limit.index_select(0, rows)
        broken = sure.sum(-1).isnan()  # NaN if a logit is NaN or +inf, or all are -inf.
        counts = [canvas.at_least(work.row) for work in works]
        at_least = counts[0] if min(counts) == max(counts) else torch.tensor(counts, device=self.device)
        if all(canvas.by_threshold[work.row] for work in works):
            return choose_by_threshold(sure, limit, at_least), broken
        predicted = spread(torch.ones_like(chosen, dtype=torch.bool))
        at_least = torch.full_like(rows, at_least) if isinstance(at_least, int) else at_least
        wide_entropies = None if entropies is None else spread(entropies)
        return choose(sure, predicted, canvas.rule[rows], limit, at_least, wide_entropies), broken

    def _results(
        self,
        works: list[RowWork],
        rows: Tensor,
        tokens: Tensor,
        masked: Tensor,
        broken: Tensor,
        failed: dict[int, str],
    ) -> list[RowResult]:
        """Copies the rows to the host, in the step's only transfer, and returns their results.

        tokens and masked [rows, block] are what the canvas will hold, broken [rows] bool is from ``_rules``; ``failed``
        maps an index in ``works`` to why that row cannot continue.
        """
        canvas, block = self.canvas, self.canvas.block_length
        figures = [broken[:, None], masked, tokens]
        width = max(canvas.stops[work.row] for work in works)
        if width:
            first = torch.tensor([canvas.first[work.row] for work in works], device=self.device)
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
