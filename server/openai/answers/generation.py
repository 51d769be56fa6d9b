"""Runs the choices of one HTTP request concurrently."""

import asyncio
import hashlib
import logging
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.errors import EngineDeadError, EngineError
from cdlm.scheduler.messages import GenerateRequest, ScoreRequest, TokenLogprob
from cdlm.server.errors import ApiError, engine_failed
from cdlm.server.observe.request_log import Outcome, RequestRecord
from cdlm.server.openai.answers.choice import Choice
from cdlm.server.openai.answers.selection import Selection
from cdlm.server.openai.answers.text import TextRules
from cdlm.server.openai.answers.thresholds import choose_threshold
from cdlm.server.openai.answers.vote import Ballot
from cdlm.server.openai.protocol.fields import AnswerFields
from cdlm.server.openai.protocol.response import CachedTokens, Usage
from cdlm.server.services import Services
from cdlm.server.text import TextCodec
from cdlm.server.text.update import Update

if TYPE_CHECKING:
    from cdlm.server.observe.spans import SequenceSpan

logger = logging.getLogger(__name__)


@dataclass
class Job:
    """All choices of one HTTP request; choice ``i * selection.generated + j`` is answer j to prompt i.

    ``prompts`` are token ids; ``record`` gets the outcome; ``selection`` says which answers are returned, and
    ``selected`` has these at the end, unless they are streamed.
    If prompts are scored, ``scoring`` has one request per prompt, and ``prompt_scores`` maps a prompt's number to the
    scores of all tokens but the first, before the first update of its choices. ``streamed`` says whether updates are
    sent as they come.
    """

    services: Services
    record: RequestRecord
    prompts: list[list[int]]
    choices: list[Choice]
    selection: Selection
    scoring: list[ScoreRequest] = field(default_factory=list)
    streamed: bool = False
    prompt_scores: dict[int, list[TokenLogprob]] = field(default_factory=dict)
    arrived: float = field(default_factory=time.monotonic)
    first_block: float | None = None
    selected: list[Choice] = field(default_factory=list)
    threshold: float | None = None  # Of a server whose load chooses it.

    @classmethod
    def plan(
        cls,
        services: Services,
        codec: TextCodec,
        record: RequestRecord,
        fields: AnswerFields,
        params: DecodingParams,
        prompts: list[list[int]],
        budgets: list[int],
        echoes: Sequence[str] = (),
        score_prompts: bool = False,
        grammar: str | None = None,
        pinned: Sequence[int] = (),
    ) -> "Job":
        """Makes the choices of a request.

        ``budgets`` has the most answer tokens per prompt, ``echoes`` the text to return before the answers of each
        prompt, if any; ``score_prompts`` requests log-probabilities of the prompts' tokens; ``grammar`` is the grammar
        of the answers; ``pinned`` are known tokens after the answer.
        """
        seed = secrets.randbits(63) if fields.seed is None else fields.seed
        name = uuid.uuid4().hex
        client = record.key.name if record.key else ""
        rules = TextRules(fields.stop, fields.include_stop_str_in_output, not fields.skip_special_tokens)
        choices = []
        for index, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True)):
            for j in range(fields.candidates):
                number = index * fields.candidates + j
                request = GenerateRequest(
                    request_id=f"{name}-{number}",
                    prompt_ids=prompt,
                    max_tokens=budget,
                    params=params.model_copy(update={"seed": stream_seed(seed, j)}),
                    stop_token_ids=list(fields.stop_token_ids),
                    ignore_eos=fields.ignore_eos,
                    logprobs=fields.engine_logprobs,
                    stream_prefix=fields.stream_granularity == "step",
                    stream_canvas=fields.diffusing,
                    step_map=fields.wants_step_map,
                    grammar=grammar,
                    pinned=list(pinned),
                    client=client,
                    priority=fields.priority,
                    cache_salt=fields.cache_salt,
                )
                choices.append(Choice(number, request, codec, rules, len(echoes[index]) if echoes else 0))
        scoring = [
            ScoreRequest(
                request_id=f"{name}-s{index}",
                prompt_ids=prompt,
                logprobs=fields.engine_logprobs or 0,
                client=client,
                priority=fields.priority,
                cache_salt=fields.cache_salt,
            )
            for index, prompt in enumerate(prompts if score_prompts else [])
        ]
        ballot = None if fields.vote_pattern is None else Ballot(fields.vote_pattern)
        selection = Selection(fields.candidates, fields.returned, ballot)
        return cls(services, record, prompts, choices, selection, scoring, fields.stream)

    async def finish(self) -> list[Choice]:
        """Waits for all choices and returns those that are selected; raises ``ApiError`` as ``updates()`` does."""
        async with aclosing(self.updates()) as updates:
            async for _ in updates:
                pass
        return self.selected

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Yields updates of all choices as they come; ends when all choices have finished.

        Closing it early aborts the running choices. Raises ``ApiError``: 429 or 503 before the first update if the
        request is not admitted; 500, 503 or 504 if the engine fails or is too slow.
        """
        services = self.services
        outcome: Outcome = "cancelled"
        status = 499
        self.threshold = choose_threshold(services, self.choices)
        self.record.asked(self.choices[0].request, len(self.choices), streamed=self.streamed)
        queue: asyncio.Queue[Update | ApiError] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []
        try:
            with services.gate.admit(len(self.choices) + len(self.scoring), self._asked_tokens(), self.record.key):
                services.metrics.accepted(sum(map(len, self.prompts)))
                services.gate.cut_listeners.add(queue.put_nowait)
                scores = [asyncio.create_task(self._score(index)) for index in range(len(self.scoring))]
                tasks += scores
                tasks += [asyncio.create_task(self._run(choice, queue, scores)) for choice in self.choices]
                try:
                    open_choices = len(self.choices)
                    while open_choices:
                        item = await self._next(queue)
                        if isinstance(item, ApiError):
                            raise item
                        open_choices -= item.finish_reason is not None
                        yield item
                        if self.streamed:
                            self._deliver(self.choices[item.index], len(item.token_ids))
                finally:
                    services.gate.cut_listeners.discard(queue.put_nowait)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            if not self.streamed:
                self.selected = await self.selection.select(self.choices)
                for choice in self.selected:
                    self._deliver(choice, len(choice.token_ids))
            outcome, status = "finished", 200
        except ApiError as error:
            outcome, status = "error", error.status
            raise
        finally:
            self._account(outcome, status, admitted=bool(tasks))

    def usage(self) -> Usage:
        """The ``usage`` object for the request so far."""
        prompt = sum(map(len, self.prompts))
        completion = sum(len(choice.token_ids) for choice in self.choices)
        passes = sum(choice.forward_passes for choice in self.choices)
        # A prompt counts once: later answers to it always find it cached.
        first = self.choices[:: self.selection.generated]
        usage = Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            denoise_steps=sum(choice.denoise_steps for choice in self.choices),
            forward_passes=passes,
            tokens_per_forward=round(completion / passes, 4) if passes else 0.0,
            prompt_tokens_details=CachedTokens(cached_tokens=sum(choice.cached_tokens for choice in first)),
        )
        if self.threshold is not None:
            usage.confidence_threshold = self.threshold
        return usage

    async def _next(self, queue: asyncio.Queue[Update | ApiError]) -> Update | ApiError:
        limit = self.services.settings.request_timeout_s
        try:
            async with asyncio.timeout(self.arrived + limit - time.monotonic()):
                return await queue.get()
        except TimeoutError:
            raise ApiError(504, f"The request took longer than {limit:g} seconds") from None

    async def _score(self, prompt: int) -> None:
        scored = await self.services.score(self.scoring[prompt])
        self.prompt_scores[prompt] = scored.logprobs or []

    async def _run(
        self, choice: Choice, queue: asyncio.Queue[Update | ApiError], scores: list[asyncio.Task[None]]
    ) -> None:
        try:
            if scores:
                await asyncio.shield(scores[choice.index * len(self.prompts) // len(self.choices)])
            with self.record.sequence(choice.index) as trace:
                await self._consume(choice, queue, trace)
        except EngineError as error:
            queue.put_nowait(engine_failed(error))
        except Exception:  # A bug; without an entry in the queue, the client would wait forever.
            logger.exception("unexpected error in %s", choice.request.request_id)
            queue.put_nowait(ApiError(500, "The server had an error while processing the request"))

    async def _consume(
        self, choice: Choice, queue: asyncio.Queue[Update | ApiError], trace: "SequenceSpan | None"
    ) -> None:
        metrics = self.services.metrics
        if choice.request.max_tokens == 0:
            choice.finish_reason = "length"
            queue.put_nowait(Update(choice.index, "", [], "length"))
            return
        last = self.arrived
        blocks = self.services.engine.generate(choice.request)
        async with aclosing(blocks):
            async for block in blocks:
                if block.finish_reason == "error":
                    raise EngineError(block.error or "no reason was given")
                update = choice.take(block)
                if trace is not None:
                    trace.block(block, update)
                now = time.monotonic()
                if update.token_ids or not block.partial:
                    metrics.block(now - last, len(update.token_ids), first=last == self.arrived)
                    last = now
                    self.first_block = self.first_block or now
                if update.finish_reason is not None:
                    metrics.finished(update.finish_reason, now - self.arrived)
                    metrics.discarded("stop_string", choice.discarded)
                queue.put_nowait(update)
                if update.finish_reason is not None:
                    return
        raise EngineDeadError("the engine ended the sequence without a reason")

    def _asked_tokens(self) -> int:
        """Most tokens of prompts and answers; a prompt counts once."""
        return sum(map(len, self.prompts)) + sum(choice.request.max_tokens for choice in self.choices)

    def _deliver(self, choice: Choice, tokens: int) -> None:
        choice.delivered += tokens
        self.services.metrics.delivered(tokens)

    @property
    def _loss(self) -> str:
        """Why answers of a finished request were not returned."""
        return "best_of" if self.selection.ballot is None else "vote"

    def _account(self, outcome: Outcome, status: int, *, admitted: bool) -> None:
        elapsed = time.monotonic() - self.arrived
        if admitted and self.record.key is not None:
            used = sum(map(len, self.prompts)) + sum(len(choice.token_ids) for choice in self.choices)
            self.services.gate.quota(self.record.key).give_back(self._asked_tokens() - used)
        for choice in self.choices if admitted else []:
            lost = len(choice.token_ids) - choice.delivered
            if lost:
                self.services.metrics.discarded(self._loss if outcome == "finished" else outcome, lost)
            if choice.finish_reason is None and outcome == "cancelled":
                self.services.metrics.cancelled(started=bool(choice.token_ids))
            elif choice.finish_reason is None:
                self.services.metrics.finished("error", elapsed)
        figures = {
            "engine_id": self.choices[0].request.request_id.partition("-")[0],
            "stream": self.streamed,
            "choices": len(self.choices),
            "finish_reasons": sorted({choice.finish_reason or outcome for choice in self.choices}),
            "queue_ms": _ms(max(choice.queue_seconds for choice in self.choices)),
            "ttft_ms": None if self.first_block is None else _ms(self.first_block - self.arrived),
            "e2e_ms": _ms(elapsed),
            "blocks": sum(choice.blocks for choice in self.choices),
            **self.usage().model_dump(exclude_unset=True),
        }
        self.record.worked(outcome, status, figures)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def stream_seed(seed: int, choice: int) -> int:
    """A 63-bit seed for answer number ``choice`` under ``seed``; deterministic."""
    digest = hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
