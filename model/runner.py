"""Runs one engine step: a forward over all segments, then the finalization of each row's block."""

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdlm.model.attention.backends import find_attention, resolve_attention, resolve_graphs
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory
from cdlm.model.config import AttentionBackend
from cdlm.model.decoding.denoiser import Decision, Denoiser, StepInputs
from cdlm.model.decoding.logits.reader import find_reader
from cdlm.model.decoding.processors.guidance import without_prompt
from cdlm.model.decoding.rows import Rows
from cdlm.model.forwards.backend import use_backend
from cdlm.model.forwards.drafting import Drafting
from cdlm.model.forwards.guiding import Guiding
from cdlm.model.forwards.layout import StepLayout, build_layout, layout_key
from cdlm.model.forwards.scoring import ScoreWork, score
from cdlm.model.forwards.staged import StagedForward, StagedForwards
from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.row import RowResult, RowWork, Span, TokenScore
from cdlm.model.uploads import Place, Uploads, place_on

if TYPE_CHECKING:
    from cdlm.model.forwards.graphs import ForwardGraphs
    from cdlm.model.forwards.shapes import Shape

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step that the device has, or had, to compute.

    Attributes:
        shape: of the graph that runs its forward; ``None`` without one.
        since: steps of the same rows since ``inputs`` was placed.
    """

    inputs: StepInputs
    layout: StepLayout
    shape: "Shape | None"
    since: int
    decision: Decision


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
        weight = self.transformer.embed_tokens.weight
        self.device, self.dtype = weight.device, weight.dtype
        config = self.transformer.config
        self.followers = checkpoint.followers
        backend = resolve_attention(attention_backend, self.device)
        shared, guided = self.followers is not None, checkpoint.guide is not None
        recorded = resolve_graphs(cuda_graphs, backend, self.device, shared=shared, guided=guided)
        factory = find_attention(backend, device=self.device, page_size=page_size)
        self.reader = find_reader(backend)
        use_backend(self.transformer, backend, self.manifest.max_model_len + self.manifest.block_length)
        self.uploads = Uploads(self.device) if self.device.type == "cuda" else None
        # Graphs have rows that belong to nobody, and those write to a page of their own.
        pages = num_pages + recorded
        self.cache = PagedCache(config, num_pages=pages, page_size=page_size, device=self.device, dtype=self.dtype)
        self.attention: AttentionFactory = factory
        if self.followers is not None:
            self.followers.open_pool(num_pages, page_size, backend)
            self.attention = self.followers.attend_with(factory)
        self.rows = Rows(
            max_rows, self.manifest, hidden_size=config.hidden_size, vocab_size=config.vocab_size,
            device=self.device, dtype=self.dtype,
        )  # fmt: skip
        self.canvas = self.rows.canvas
        self.guiding = Guiding(checkpoint, self.cache, self.reader, factory, backend) if guided else None
        self._pools = [each for each in (self.followers, self.cache, self.guiding and self.guiding.cache) if each]
        self.denoiser = Denoiser(self.transformer, self.manifest, self.rows, self.reader, self.guiding)
        self.drafting = Drafting(checkpoint, self.denoiser, backend) if checkpoint.drafter else None
        # Only a GPU computes while the host goes on.
        self.run_ahead = self.device.type == "cuda" and not guided
        self._ahead: _Launched | None = None
        self.graphs: ForwardGraphs | None = None
        if recorded:
            self.graphs = self._make_graphs()
        # The last layout on the device, for a step that has the same, and the one that is on its way.
        self._layout: tuple[tuple[object, ...], StepLayout] | None = None
        self._sending: tuple[tuple[object, ...], StepLayout] | None = None

    @torch.inference_mode()
    def record_graphs(self) -> int:
        """Records all steps that may be replayed; returns how many."""
        return 0 if self.graphs is None else self.graphs.record_all()

    def _make_graphs(self, *, record: bool = True) -> "ForwardGraphs":
        from cdlm.model.forwards.graphs import ForwardGraphs

        assert self.uploads is not None
        scratch, manifest = (self.canvas.rows, 2 * self.canvas.rows), self.manifest
        return ForwardGraphs(
            self.forward, self.cache, self.uploads, block_length=manifest.block_length, scratch=scratch,
            max_model_len=manifest.max_model_len, record=record,
        )  # fmt: skip

    def border(self, row: int) -> Tensor:
        """Copies the hidden state [hidden] that predicts the first position of a row's block."""
        return self.canvas.border[row].clone()

    def copy_page(self, source: int, target: int) -> None:
        """Copies keys and values of all layers from one page to another."""
        for pool in self._pools:
            pool.copy_page(source, target)

    def clear(self, pages: list[int], start: int) -> None:
        """Zeroes keys and values from position ``start`` of the page table ``pages``, on every rank.

        A NaN left in a page would spoil the attention of its next owner, even if masked.
        """
        for pool in self._pools:
            pool.clear(pages, start)

    @torch.inference_mode()
    def step(self, works: list[RowWork]) -> list[RowResult]:
        """Runs one forward and finalizes positions; returns results in the order of ``works``.

        If it raises, the canvas is unchanged: the same rows, or some of them, can be stepped again.
        """
        launched, self._ahead = self._ahead, None
        if any(work.draft for work in works):
            return self._step_with_drafts(works)
        if launched is None or self.canvas.opened or launched.inputs.works != works:
            launched = self._launch(works)
        decision = launched.decision
        if self.run_ahead and self._goes_on(launched):
            self.canvas.write(decision.rows, decision.tokens, decision.masked)
            self._ahead = self._launch_ahead(launched)
            results = self.denoiser.results(decision)
        else:
            results = self.denoiser.results(decision)
            self.canvas.write(decision.rows, decision.tokens, decision.masked)
        self.canvas.count(works, results)
        return results

    def _step_with_drafts(self, works: list[RowWork]) -> list[RowResult]:
        """A step in which some rows verify drafts; the others are decided as in any step."""
        assert self.drafting is not None
        verifier = self.drafting.verifier
        others = [work for work in works if work.draft is None]
        drafted = [work for work in works if work.draft is not None]
        second = [without_prompt(work, self.manifest.mask_token_id) for work in others if work.guidance]
        if self.uploads is not None:
            self.uploads.begin()
        place = self._place()
        layout = self._lay_out(others + second + drafted)
        write_new = self.canvas.write_new(place)
        inputs = self.denoiser.inputs(others, place) if others else None
        verified = verifier.inputs(drafted, place)
        if self.uploads is not None:
            self.uploads.send()
        write_new()
        self._layout = None
        hidden = self._hidden(layout)
        predicting = layout.predicting(hidden, self.canvas, self.manifest)
        decision = None if inputs is None else self._decide(inputs, layout, predicting)
        results = [] if decision is None else self.denoiser.results(decision)
        found = verifier.verify(verified, layout.drafts(hidden))
        if decision is not None:  # Only now, since nothing can fail any more.
            self.canvas.write(decision.rows, decision.tokens, decision.masked)
            self.canvas.count(others, results)
        of_row = dict(zip([work.row for work in others + drafted], results + found, strict=True))
        return [of_row[work.row] for work in works]

    def _launch(self, works: list[RowWork], unread: int = 0) -> "_Launched":
        """Launches a step: its upload, its forward, its decision."""
        self._sending = self._layout
        second = [without_prompt(work, self.manifest.mask_token_id) for work in works if work.guidance]
        shape = self.graphs.shape(works) if self.graphs is not None else None
        if self.graphs is not None and shape is not None:
            layout = self.graphs.begin(shape, works)
        else:
            if self.uploads is not None:
                self.uploads.begin()
            layout = self.layout(works + second)
        place = self._place()
        write_new = self.canvas.write_new(place)
        inputs = self.denoiser.inputs(works, place)
        if self.uploads is not None:
            self.uploads.send()
        write_new()
        self._layout = self._sending  # From here on it is on the device.
        return self._run(inputs, layout, shape, unread, unread)

    def _run(
        self, inputs: StepInputs, layout: StepLayout, shape: "Shape | None", unread: int = 0, since: int = 0
    ) -> "_Launched":
        # [rows and second passes * block, hidden]
        predicting = self.forward(layout) if self.graphs is None or shape is None else self.graphs.run(shape)
        return _Launched(inputs, layout, shape, since, self._decide(inputs, layout, predicting, unread, since))

    def _decide(
        self, inputs: StepInputs, layout: StepLayout, predicting: Tensor, unread: int = 0, since: int = 0
    ) -> Decision:
        count, denoised = len(inputs.works), None
        if layout.denoised is not None:
            denoised = torch.zeros(len(layout.rows), dtype=torch.bool, device=self.device)
            denoised = denoised.index_fill_(0, layout.denoised, True)[:count]
        return self.denoiser.decide(inputs, layout.rows[:count], denoised, predicting, unread, since)

    def _goes_on(self, launched: "_Launched") -> bool:
        """Whether the next step will probably have the same rows, and could be launched before this one is read."""
        canvas, works = self.canvas, launched.inputs.works
        return (
            self.followers is None
            and not launched.decision.processors
            and not (self.reader.waits and any(work.sampling for work in works))
            and all(work.denoise and canvas.goes_on(work.row) for work in works)
        )

    def _launch_ahead(self, before: "_Launched") -> "_Launched | None":
        """Launches the next step of the same rows while the host has not read the step ``before`` it.

        If the next step turns out to have other rows, what is returned is dropped: the canvas does not have it yet.
        """
        works = before.inputs.works
        try:
            if any(work.clean for work in works):
                return self._launch([replace(work, clean=[]) for work in works], unread=1)
            return self._run(before.inputs, before.layout, before.shape, 1, before.since + 1)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            # Launched once more behind this step, it fails for all to see.
            logger.warning("a step could not be launched ahead: %r", error)
            return None

    @torch.inference_mode()
    def stage(self, spans: list[Span], pages: list[int], *, piece: float) -> StagedForward | StagedForwards:
        """A forward over known tokens of one request, to be run in pieces (see ``StagedForward`` for ``piece``)."""
        staged = StagedForward(spans, pages, self.transformer, self.cache, self.attention, piece=piece)
        if self.guiding is None:
            return staged
        return StagedForwards((staged, 1.0), self.guiding.stage(spans, pages, piece=piece))

    @torch.inference_mode()
    def score(self, works: list[ScoreWork]) -> list[list[TokenScore]]:
        """Runs one forward over known tokens; returns the scores of each work's targets."""
        return score(works, self.transformer, self.cache, self.attention, self.manifest.mask_token_id)

    def layout(self, works: list[RowWork]) -> StepLayout:
        """The layout of the step's forward; reused while the same rows denoise the same blocks."""
        key = layout_key(works)
        if key is not None and self._layout is not None and self._layout[0] == key:
            self._sending = self._layout
            return self._layout[1]
        layout = self._lay_out(works)
        self._sending = None if key is None else (key, layout)
        return layout

    def _place(self) -> Place:
        return place_on(self.device) if self.uploads is None else self.uploads.place

    def _lay_out(self, works: list[RowWork]) -> StepLayout:
        canvas = self.canvas
        return build_layout(works, canvas.block_length, self.cache, self.attention, canvas.rows, self._place())

    @torch.inference_mode()
    def forward(self, layout: StepLayout) -> Tensor:
        """Runs the forward; returns the hidden states that predict each row's block, [rows * block, hidden].

        In rows that are not denoised, only the first position is valid.
        """
        return layout.predicting(self._hidden(layout), self.canvas, self.manifest)

    def _hidden(self, layout: StepLayout) -> Tensor:
        """Runs the forward; returns the hidden states of its tokens, [T, hidden]."""
        canvas, rows = self.canvas, layout.rows
        ids = canvas.tokens.index_select(0, rows if layout.denoised is None else rows[layout.denoised]).view(-1)
        if layout.blanks is not None:
            ids[layout.blanks] = self.manifest.mask_token_id
        if layout.clean_ids is not None:
            ids = torch.cat((layout.clean_ids, ids))
        if layout.attention is None:  # No row has tokens to compute.
            return canvas.border[:0]
        run = self.transformer if self.drafting is None else self.drafting.with_groups(layout)
        hidden: Tensor = run(ids, layout.attention.positions, layout.attention)
        return hidden
