"""The engine: takes requests and produces blocks, step by step. Runs in its own process or in the caller's."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cdlm.model.config import CheckpointError
from cdlm.model.device import keep_freed_memory
from cdlm.model.row import RowResult
from cdlm.model.runner import ModelRunner
from cdlm.scheduler.errors import EngineStartError, RequestError
from cdlm.scheduler.kv.cache import KVCache
from cdlm.scheduler.loading import check_edit_threshold, check_step_size, rows_and_pages
from cdlm.scheduler.messages import BlockOutput, EngineReady, EngineStats, GenerateRequest, ScoreRequest, StepReport
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.ranks.leader import leave, load
from cdlm.scheduler.scheduler import Scheduler
from cdlm.scheduler.scoring.queue import ScoreQueue
from cdlm.scheduler.sequence import Sequence
from cdlm.scheduler.steps.batch import Batch, StepResult
from cdlm.scheduler.steps.draft_times import RowChoice
from cdlm.scheduler.steps.drafts import DraftPlanner, most_rows
from cdlm.scheduler.steps.faults import Fault, attempt
from cdlm.scheduler.steps.figures import step_figures
from cdlm.scheduler.steps.row_steps import RowSteps
from cdlm.scheduler.steps.staging import Staging
from cdlm.scheduler.steps.threads import Threads
from cdlm.scheduler.waiting.grammars import GrammarCompiler
from cdlm.scheduler.waiting.validation import check_request

logger = logging.getLogger(__name__)

StepObserver = Callable[[Sequence, RowResult], None]


class Engine:
    """Owns the model runner, the KV cache and the scheduler.

    Args:
        options: what to load and how much memory to use.
        observer: called for each row after each step, for tools that visualize decoding.

    Raises:
        EngineStartError: the checkpoint cannot be loaded, or the settings do not fit it.
    """

    def __init__(self, options: EngineOptions, observer: StepObserver | None = None) -> None:
        self.threads = Threads(options)
        checkpoint = load(options)
        self.manifest = checkpoint.manifest
        if self.manifest.bidirectional:
            logger.warning(
                "%s: as far as its files tell these are the weights of a bidirectional teacher; "
                "unless a student is merged into them, answers decoded block by block will be poor",
                options.model,
            )
        check_step_size(options, self.manifest)
        check_edit_threshold(options, self.manifest)
        options, num_pages = rows_and_pages(options, checkpoint)
        self.options = options
        try:
            self.runner = ModelRunner(
                checkpoint,
                num_pages=num_pages,
                page_size=options.page_size,
                max_rows=options.rows,
                attention_backend=options.attention_backend,
                cuda_graphs=options.cuda_graphs,
            )
        except CheckpointError as error:
            raise EngineStartError(str(error)) from error
        recorded = self.runner.record_graphs()
        if recorded:
            logger.info("recorded %d graphs", recorded)
        if self.runner.device.type == "cpu":
            keep_freed_memory()  # After loading, whose temporary memory is not needed again.
        self.cache = KVCache(
            self.manifest,
            num_pages,
            options.page_size,
            share=options.enable_prefix_caching,
            keeps_texts=checkpoint.guide is None,
        )
        drafts = None
        if self.runner.drafting is not None:
            window = options.draft_window or self.runner.drafting.window
            rows, choice = options.draft_rows, None
            if rows is None:
                rows, choice = most_rows(self.runner.device), RowChoice()
            drafts = DraftPlanner(window, rows, self.cache, in_place=self.runner.drafting.in_place, choice=choice)
        self.rows = RowSteps(self.runner, self.threads)
        self.scheduler = Scheduler(
            self.manifest,
            self.cache,
            self.rows,
            max_num_seqs=options.rows,
            max_num_batched_tokens=options.max_num_batched_tokens,
            max_prefill_tokens=options.max_prefill_tokens,
            drafts=drafts,
        )
        self.staging = Staging(self.runner, options.max_prefill_tokens)
        self.scores = ScoreQueue(self.manifest, self.cache, self.runner, options.max_num_batched_tokens)
        vocab_size = checkpoint.transformer.config.vocab_size
        self.grammars = GrammarCompiler(Path(options.model), vocab_size, self.manifest.max_model_len)
        self.sequences: dict[str, Sequence] = {}
        self._observer = observer

    @property
    def max_guided_len(self) -> int:
        """Most tokens of a guided request, prompt plus answer: both passes must fit into one step and into the KV
        cache.
        """
        options, size = self.options, self.cache.page_size
        step = options.max_num_batched_tokens - options.max_prefill_tokens
        room = min(step, self.cache.num_pages * size) // 2 // size * size
        return min(self.manifest.max_model_len, room - self.manifest.block_length)

    @property
    def busy(self) -> bool:
        """Whether there is work for a step."""
        return bool(self.sequences) or self.scores.busy

    def describe(self) -> EngineReady:
        """Describes the loaded checkpoint for the front end."""
        manifest, runner = self.manifest, self.runner
        return EngineReady(
            max_model_len=manifest.max_model_len,
            max_guided_len=self.max_guided_len,
            block_length=manifest.block_length,
            can_replace=manifest.can_replace,
            confidence_threshold=manifest.confidence_threshold,
            vocab_size=runner.transformer.config.vocab_size,
            mask_token_id=manifest.mask_token_id,
            stop_token_ids=list(manifest.stop_token_ids),
            page_size=self.cache.page_size,
            num_pages=self.cache.num_pages,
            max_num_seqs=runner.rows.size,
            device=str(runner.device),
            dtype=str(runner.dtype).removeprefix("torch."),
            parameters=self.rows.parameters,
        )

    def add(self, request: GenerateRequest | ScoreRequest) -> None:
        """Queues a request.

        Raises:
            RequestError: the engine can never serve it; it was not queued.
        """
        if request.request_id in self.sequences or request.request_id in self.scores:
            raise RequestError(f"request_id {request.request_id!r} is already in flight")
        if isinstance(request, ScoreRequest):
            self.scores.add(request)
            return
        check_request(
            request,
            self.manifest,
            self.runner.transformer.config.vocab_size,
            self.cache,
            self.max_guided_len,
            self.options,
        )
        sequence = Sequence.from_request(request, self.manifest, self.options)
        if request.grammar is not None:
            self.grammars.start(sequence, request.grammar)
        self.sequences[request.request_id] = sequence
        self.scheduler.add(sequence)

    def abort(self, request_id: str) -> None:
        """Drops a request and frees its pages and row; ignores an unknown id."""
        sequence = self.sequences.pop(request_id, None)
        if sequence is not None:
            self.scheduler.remove(sequence)
        self.scores.abort(request_id)

    def step(self) -> StepReport:
        """Schedules and runs the next step."""
        return self.run(self.schedule())

    def schedule(self) -> Batch:
        """Chooses the work of the next step; computes nothing."""
        refused = self._take_grammars()
        batch = self.scheduler.schedule(self.scores.reserve(self.options.max_num_batched_tokens))
        scoring, failed = ([], []) if batch.resuming else self.scores.admit()
        batch.begun = [sequence.request.request_id for sequence in batch.admitted] + scoring
        batch.ended = refused + failed
        return batch

    def run(self, batch: Batch) -> StepReport:
        """Runs a scheduled step: one forward over its rows, then pieces of the staged request, then scored prompts.

        A request ends with finish reason ``error`` if its work raises, its grammar cannot be compiled or followed, or
        its logits are not finite; the others continue.
        """
        result = self._forward(batch)
        outputs = self.scheduler.update(batch, result)
        for output in outputs:
            if output.finish_reason is not None:
                self.sequences.pop(output.request_id, None)
        figures = step_figures(batch, result, outputs, self.manifest.block_length)
        return StepReport(outputs=outputs, stats=self.stats(**figures))

    def stats(self, **figures: object) -> EngineStats:
        """The state of queue and pages, plus ``figures`` of a step."""
        return EngineStats(
            running=len(self.scheduler.running) + len(self.scores.running),
            waiting=len(self.scheduler.waiting) + len(self.scores.waiting),
            pages_free=self.cache.pool.free,
            pages_active=self.cache.pool.active,
            pages_cached=self.cache.pool.cached,
            **figures,  # type: ignore[arg-type]
        )

    def check(self) -> None:
        """Asserts that each page is owned by a running request or the prefix cache, and that host and device agree.

        Waits for transfers from the device.
        """
        tables = [table for sequence in self.scheduler for table in sequence.tables]
        self.cache.check([*tables, *self.scores.tables])
        self.rows.check(self.scheduler.running)

    def check_ranks(self) -> None:
        """Raises ``LostRank`` if a follower rank has exited."""
        if self.runner.followers is not None:
            self.runner.followers.check()

    def close(self) -> None:
        """Ends the follower ranks, if there are any."""
        if self.runner.followers is not None:
            self.runner.followers.close()
            leave()

    def _take_grammars(self) -> list[BlockOutput]:
        """Gives waiting requests their compiled grammars; ends and returns those with an invalid grammar.

        Waits a moment if there is no other work.
        """
        idle = not self.scheduler.running and self.scheduler.waiting.first() is None and not self.scores.busy
        wrong = []
        for sequence in self.grammars.finished(wait=idle):
            if self.sequences.get(sequence.request.request_id) is not sequence:
                continue  # Aborted meanwhile.
            assert sequence.compiling is not None
            error = sequence.compiling.exception()
            if error is not None:
                wrong.append((sequence, error))
            else:
                sequence.grammar, sequence.compiling = sequence.compiling.result(), None
                self.scheduler.waiting.put_back(sequence)
        return [self.scheduler.fail(sequence, f"grammar: {error}") for sequence, error in wrong]

    def _forward(self, batch: Batch) -> StepResult:
        """Runs the forwards of a step: its rows, then pieces of the staged request, then scored prompts."""
        started = time.monotonic()
        for sequence in batch.admitted:
            sequence.queued = started - sequence.arrival
        for sequence, (source, target) in batch.copies:
            copied = attempt("copying a page", partial(self.runner.copy_page, source, target))
            if isinstance(copied, Fault):
                batch.drop(sequence, copied)
        rows = self.rows.step(batch.rows, batch.drafts)
        tokens = 0
        for sequence, done in rows:
            if not isinstance(done, Fault):
                work, result = done
                tokens += work.tokens(self.manifest.block_length)
                if self._observer is not None:
                    for each in (result, *result.following):
                        self._observer(sequence, each)
        staged: int | Fault = 0
        if batch.staged is not None:
            staged = attempt("a staged forward", partial(self.staging.advance, batch.staged, tokens))
            tokens += 0 if isinstance(staged, Fault) else staged
        scored = self.scores.step(self.options.max_num_batched_tokens - tokens)
        return StepResult(
            rows=rows,
            staged=staged,
            scored=scored,
            score_rows=self.scores.rows,
            score_prompt_tokens=self.scores.looked_up,
            score_cached_tokens=self.scores.found,
            tokens=tokens + self.scores.tokens,
            seconds=time.monotonic() - started,
            halved=self.rows.halved,
        )
