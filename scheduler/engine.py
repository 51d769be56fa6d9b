"""The engine: requests in, blocks out, one step at a time. Runs in its own process or in the caller's."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from model.config import CheckpointError
from model.device import keep_freed_memory
from model.parallel.followers import LostRank
from model.row import Guidance, RowResult, RowWork
from model.runner import ModelRunner
from scheduler.blocks import clean_spans
from scheduler.errors import EngineStartError, RequestError
from scheduler.grammars import GrammarCompiler
from scheduler.loading import page_count, set_threads
from scheduler.messages import (
    BlockOutput,
    EngineReady,
    EngineStats,
    FinishReason,
    GenerateRequest,
    ScoreRequest,
    StepReport,
    TokenLogprob,
)
from scheduler.options import EngineOptions
from scheduler.outputs import block_canvas, block_output
from scheduler.page_pool import PagePool
from scheduler.prefix_cache import PrefixCache
from scheduler.ranks import leave, load
from scheduler.scheduler import Scheduler
from scheduler.score_queue import ScoreQueue
from scheduler.sequence import Sequence
from scheduler.staging import Staging
from scheduler.step_work import step_phase, work_tokens
from scheduler.validation import check_request

logger = logging.getLogger(__name__)

StepObserver = Callable[[Sequence, RowResult], None]


class Engine:
    """Owns the model runner, the page pool and the scheduler.

    Args:
        options: what to load and how much memory to use.
        observer: called for every row after every step, for tools that show decoding happen.

    ``on_begin`` is called with the ids of requests right before the first step that works on them.

    Raises:
        EngineStartError: the checkpoint cannot be loaded, or the settings do not fit it.
    """

    def __init__(self, options: EngineOptions, observer: StepObserver | None = None) -> None:
        set_threads(options)
        checkpoint = load(options)
        self.options = options
        self.manifest = checkpoint.manifest
        if self.manifest.bidirectional:
            logger.warning(
                "%s: as far as its files tell these are the weights of a bidirectional teacher; "
                "unless a student is merged into them, answers decoded block by block will be poor",
                options.model,
            )
        block = self.manifest.block_length
        # Of what it has to compute before its block, a request takes no more than one of the two into a step.
        largest = max(options.max_prefill_tokens, block) + block
        if options.max_num_batched_tokens - options.max_prefill_tokens < largest:
            raise EngineStartError(
                f"max_num_batched_tokens {options.max_num_batched_tokens} has no room for {largest} tokens of a request"
                f" beside a staged one of max_prefill_tokens {options.max_prefill_tokens}"
            )
        num_pages = page_count(options, checkpoint)
        try:
            self.runner = ModelRunner(
                checkpoint,
                num_pages=num_pages,
                page_size=options.page_size,
                max_rows=options.max_num_seqs,
                attention_backend=options.attention_backend,
                cuda_graphs=options.cuda_graphs,
            )
        except CheckpointError as error:
            raise EngineStartError(str(error)) from error
        if self.runner.device.type == "cpu":
            keep_freed_memory()  # Not earlier: what loading takes for a moment is not needed again.
        self.pool = PagePool(num_pages, options.page_size)
        self.prefix_cache = PrefixCache(
            self.manifest, self.pool, self.runner.copy_page, enabled=options.enable_prefix_caching
        )
        self.scheduler = Scheduler(
            self.manifest,
            self.pool,
            self.prefix_cache,
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
            max_prefill_tokens=options.max_prefill_tokens,
        )
        self.staging = Staging(self.runner, options.max_prefill_tokens)
        self.scores = ScoreQueue(self.manifest, self.pool, self.runner, lambda begun: self.on_begin(begun))
        vocab_size = checkpoint.transformer.config.vocab_size
        self.grammars = GrammarCompiler(Path(options.model), vocab_size, self.manifest.max_model_len)
        self.sequences: dict[str, Sequence] = {}
        self._observer = observer
        self.on_begin: Callable[[list[str]], None] = lambda _: None

    @property
    def max_guided_len(self) -> int:
        """Most tokens of a guided request, prompt and answer: both its passes fit into one step, and into the pool."""
        options = self.options
        step = options.max_num_batched_tokens - options.max_prefill_tokens
        room = min(step, self.pool.num_pages * self.pool.page_size) // 2 // self.pool.page_size * self.pool.page_size
        return min(self.manifest.max_model_len, room - self.manifest.block_length)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.sequences) or self.scores.busy

    def describe(self) -> EngineReady:
        """What the front end needs to know about the loaded checkpoint."""
        return EngineReady(
            max_model_len=self.manifest.max_model_len,
            max_guided_len=self.max_guided_len,
            block_length=self.manifest.block_length,
            confidence_threshold=self.manifest.confidence_threshold,
            vocab_size=self.runner.transformer.config.vocab_size,
            mask_token_id=self.manifest.mask_token_id,
            stop_token_ids=list(self.manifest.stop_token_ids),
            page_size=self.pool.page_size,
            num_pages=self.pool.num_pages,
            device=str(self.runner.device),
            dtype=str(self.runner.dtype).removeprefix("torch."),
            parameters=sum(shape.numel() for shape in self.runner.transformer.stored_shapes().values()),
        )

    def add(self, request: GenerateRequest | ScoreRequest) -> None:
        """Queues a request.

        Raises:
            RequestError: it can never be served; nothing was queued.
        """
        if request.request_id in self.sequences or request.request_id in self.scores:
            raise RequestError(f"request_id {request.request_id!r} is already in flight")
        if isinstance(request, ScoreRequest):
            self.scores.add(request)
            return
        check_request(request, self.manifest, self.runner.transformer.config.vocab_size, self.pool, self.max_guided_len)
        sequence = Sequence.from_request(request, self.manifest, self.options)
        if request.grammar is not None:
            sequence.compiling = self.grammars.compile(request.grammar)
        self.sequences[request.request_id] = sequence
        self.scheduler.add(sequence)

    def abort(self, request_id: str) -> None:
        """Drops a request and frees what it holds; an unknown id is no error."""
        sequence = self.sequences.pop(request_id, None)
        if sequence is not None:
            self._leave(sequence)
        self.scores.abort(request_id)

    def step(self) -> StepReport:
        """One forward over everything scheduled for generation, and a part of what is staged and of what is scored.

        A forward that raises ends the requests it carried with finish reason ``error``; the others go on. So do they
        when a grammar of one of them cannot be compiled or followed.
        """
        refused = self._take_grammars()
        preemptions = self.scheduler.preemptions
        self.scheduler.admitted.clear()
        budget = self.options.max_num_batched_tokens
        chosen = self.scheduler.schedule(self.scores.reserve(budget))
        recomputed = sum(sequence.recompute for sequence in chosen)
        started = time.monotonic()
        for sequence in self.scheduler.admitted:
            sequence.queued = started - sequence.arrival
        if self.scheduler.admitted:
            self.on_begin([sequence.request.request_id for sequence in self.scheduler.admitted])
        try:
            works = [self._work(sequence) for sequence in chosen]
            results = self.runner.step(works) if works else []
        except LostRank:
            raise
        except Exception as error:
            logger.exception("the step failed with %d requests", len(chosen))
            refused += [self._fail(sequence, type(error).__name__) for sequence in chosen]
            return StepReport(outputs=refused, stats=self.stats())
        finished: list[BlockOutput] = []
        saved = 0
        for sequence, result in zip(chosen, results, strict=True):
            if result.error is not None:
                refused.append(self._fail(sequence, result.error))
                continue
            output = self._advance(sequence, result)
            if output is not None:
                finished.append(output)
                if output.finish_reason == "stop":
                    saved += max(0, -(-sequence.wanted // self.manifest.block_length) - 1)
        tokens = sum(work_tokens(work, self.manifest.block_length) for work in works)
        failed, staged_tokens = self._stage(tokens)
        tokens += staged_tokens
        # A preempted request waits for pages: what becomes free is for it.
        preempted = self.scheduler.waiting.resuming
        scored = self.scores.step(budget - tokens, admit=not preempted)
        stats = self.stats(
            forward_seconds=time.monotonic() - started,
            phase=step_phase(works, staging=staged_tokens > 0, scoring=self.scores.rows > 0),
            batch_rows=len(works) + (staged_tokens > 0) + self.scores.rows,
            batch_tokens=tokens + self.scores.tokens,
            finalized_tokens=sum(result.finalised for result in results),
            steps_per_block=[output.denoise_steps for output in finished if not output.partial],
            queue_seconds=[sequence.queued for sequence in self.scheduler.admitted],
            admitted_prompt_tokens=sum(sequence.prompt_length for sequence in self.scheduler.admitted),
            cached_prompt_tokens=sum(sequence.cached for sequence in self.scheduler.admitted),
            preemptions=self.scheduler.preemptions - preemptions,
            recomputed_tokens=recomputed,
            early_stop_saved_blocks=saved,
        )
        return StepReport(outputs=refused + finished + failed + scored, stats=stats)

    def stats(self, **figures: object) -> EngineStats:
        """The state of queue and pages, with the figures of a step if there was one."""
        return EngineStats(
            running=len(self.scheduler.running) + len(self.scores.running),
            waiting=len(self.scheduler.waiting) + len(self.scores.waiting),
            pages_free=self.pool.free,
            pages_active=self.pool.active,
            pages_cached=self.pool.cached,
            **figures,  # type: ignore[arg-type]
        )

    def check(self) -> None:
        """Asserts that every held page belongs to a running request, and every kept one to the prefix cache."""
        tables = [table for sequence in self.scheduler for table in sequence.tables]
        self.pool.check([*tables, *self.scores.tables], self.prefix_cache.kept)

    def check_ranks(self) -> None:
        """Raises ``LostRank`` if a process that shares the layers has ended."""
        if self.runner.followers is not None:
            self.runner.followers.check()

    def close(self) -> None:
        """Ends the processes that share the layers; without any there is nothing to do."""
        if self.runner.followers is not None:
            self.runner.followers.close()
            leave()

    def _work(self, sequence: Sequence) -> RowWork:
        """Opens the block if it is new, and lists what the forward has to compute for this request."""
        assert sequence.row is not None
        if not sequence.block_open:
            if not sequence.row_open:
                self.runner.canvas.open_row(
                    sequence.row,
                    rule=sequence.rule,
                    max_steps=sequence.max_steps,
                    stop_ids=sequence.stop_ids,
                    border=sequence.border,
                )
                self.runner.editor.open_row(
                    sequence.row, sequence.edits, sequence.request.prompt_ids, sequence.stop_ids
                )
                self.runner.constrained.open_row(sequence.row, sequence.grammar, sequence.stop_ids)
                sequence.row_open, sequence.border = True, None
            pinned = sequence.pinned(self.manifest.block_length)
            self.runner.canvas.open_block(sequence.row, sequence.given, pinned)
            if sequence.edits is not None:
                self.runner.editor.open_block(sequence.row, sequence.token_ids[sequence.prompt_length :])
            if sequence.grammar is not None:
                generated = sequence.token_ids[sequence.prompt_length :]
                self.runner.constrained.open_block(sequence.row, generated, sequence.wanted)
            sequence.logprobs.clear()
            sequence.finalised_at.clear()
            sequence.block_open = True
        clean = clean_spans(
            sequence.token_ids, sequence.computed, sequence.block_start, sequence.prompt_length, self.manifest
        )
        # The first token taken from the commit pass must be known before the block is looked at.
        committed = bool(clean) or sequence.fresh
        alone = self.manifest.first_token == "autoregressive" and committed and not sequence.given
        return RowWork(
            sequence.row,
            sequence.pages,
            clean,
            sequence.block_start,
            denoise=not alone,
            sampling=sequence.sampling,
            needs_entropy=sequence.rule.name == "entropy_bound",
            edited=sequence.edits is not None,
            logprobs=sequence.request.logprobs,
            constrained=sequence.grammar is not None,
            guidance=(
                Guidance(sequence.guidance_scale, sequence.second_pages, sequence.prompt_length)
                if sequence.guided
                else None
            ),
        )

    def _take_grammars(self) -> list[BlockOutput]:
        """Hands waiting requests the grammars that are compiled by now, and ends those whose grammar is wrong.

        Waits a moment if there is nothing else to do.
        """
        pending = [sequence.compiling for sequence in self.scheduler.waiting if sequence.compiling is not None]
        if pending and len(pending) == len(self.sequences) and not self.scores.busy:
            self.grammars.wait(pending)
        wrong = []
        for sequence in self.scheduler.waiting if pending else ():
            if sequence.compiling is None or not sequence.compiling.done():
                continue
            error = sequence.compiling.exception()
            if error is not None:
                wrong.append((sequence, error))
            else:
                sequence.grammar, sequence.compiling = sequence.compiling.result(), None
                self.scheduler.waiting.put_back(sequence)
        return [self._fail(sequence, f"grammar: {error}") for sequence, error in wrong]

    def _stage(self, beside: int) -> tuple[list[BlockOutput], int]:
        """Advances the staged request: its end if that failed, and how many tokens' work it was."""
        sequence = self.scheduler.staged
        if sequence is None:
            return [], 0
        try:
            return [], self.staging.advance(sequence, beside)
        except LostRank:
            raise
        except Exception as error:
            logger.exception("a staged forward over %d tokens failed", sequence.block_start - sequence.computed)
            return [self._fail(sequence, type(error).__name__)], 0

    def _advance(self, sequence: Sequence, result: RowResult) -> BlockOutput | None:
        """Books a step's result; returns the block if it is finished, or what the request wants to see of it before."""
        if self._observer is not None:
            self._observer(sequence, result)
        row = sequence.row
        assert row is not None
        sequence.computed, sequence.fresh = sequence.block_start, False
        sequence.recompute = 0
        self.prefix_cache.store(sequence, lambda: self.runner.canvas.border[row].clone())
        sequence.forwards += 1
        for offset, score in result.scores.items():
            sequence.logprobs[offset] = TokenLogprob(
                result.tokens[offset], score.logprob, result.steps, score.top_ids, score.top_logprobs
            )
        canvas = block_canvas(sequence, result, self.manifest) if sequence.request.stream_canvas else None
        given, block = len(sequence.given), self.manifest.block_length
        first = given + sequence.sent
        wanted = min(sequence.wanted, block)
        reason: FinishReason | None = None
        if result.stop < min(result.frontier, wanted):
            reason, end = "stop", result.stop
        elif result.frontier >= sequence.wanted:
            reason, end = "length", sequence.wanted
        elif result.frontier >= block:
            end = block
        else:
            end = max(first, result.frontier) if sequence.request.stream_prefix else first
            if end == first and canvas is None:
                return None
            sequence.sent = end - given
            return block_output(sequence, result, first, end, canvas=canvas, partial=True)
        output = block_output(
            sequence, result, first, end, canvas=canvas, reason=reason,
            denoise_steps=result.steps, forward_passes=sequence.forwards,
        )  # fmt: skip
        self.scheduler.waiting.charge(sequence.request.client, answer_tokens=len(output.token_ids))
        sequence.sent = 0
        if reason is not None:
            del self.sequences[sequence.request.request_id]
            self._leave(sequence)
        else:
            sequence.token_ids += result.tokens[given:]
            sequence.block_start += block
            sequence.block_open = False
            sequence.forwards = 0
        return output

    def _leave(self, sequence: Sequence) -> None:
        if sequence.row is not None:
            self.runner.release(sequence.row)
        self.scheduler.remove(sequence)

    def _fail(self, sequence: Sequence, reason: str) -> BlockOutput:
        del self.sequences[sequence.request.request_id]
        self._leave(sequence)
        return BlockOutput(request_id=sequence.request.request_id, token_ids=[], finish_reason="error", error=reason)
