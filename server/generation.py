"""Runs the choices of one HTTP request side by side and turns their blocks into text."""

import asyncio
import hashlib
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from scheduler.errors import EngineDeadError, EngineError
from scheduler.messages import BlockOutput, GenerateRequest
from server.errors import ApiError
from server.protocol.common import GenerationFields, StreamOptions
from server.services import Services
from server.stops import StopMatcher
from server.text import Detokenizer, TextCodec

logger = logging.getLogger(__name__)

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Update:
    """What one block added to one choice."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: Finish | None


class Choice:
    """One answer in the making: its request to the engine and what has come of it."""

    def __init__(self, index: int, request: GenerateRequest, codec: TextCodec, stops: Sequence[str]) -> None:
        self.index = index
        self.request = request
        self.text = ""
        self.token_ids: list[int] = []
        self.finish_reason: Finish | None = None
        self.denoise_steps = 0
        self.forward_passes = 0
        self.cached_tokens = 0
        self.blocks = 0
        self.queue_seconds = 0.0
        self.delivered = 0
        self.discarded = 0
        self._detokenizer = Detokenizer(codec.decode)
        self._stops = StopMatcher(stops)
        self._by_token = bool(stops)

    def take(self, block: BlockOutput) -> Update:
        """Adds a finished block; tokens after a stop string are dropped and the choice ends."""
        self.denoise_steps += block.denoise_steps
        self.forward_passes += block.forward_passes
        self.cached_tokens = block.cached_tokens
        self.queue_seconds = block.queue_seconds
        self.blocks += 1
        kept = len(block.token_ids)
        if self._by_token:
            # Token by token, so that it is known which one completed a stop string.
            text = ""
            for count, token in enumerate(block.token_ids, 1):
                text += self._stops.feed(self._detokenizer.feed([token]))
                if self._stops.matched:
                    kept = count
                    break
        else:
            text = self._detokenizer.feed(block.token_ids)
        if block.finish_reason is not None and not self._stops.matched:
            text += self._stops.feed(self._detokenizer.flush())
            text += self._stops.flush()
        if self._stops.matched:
            self.finish_reason = "stop"
        elif block.finish_reason in ("stop", "length"):
            self.finish_reason = block.finish_reason
        self.discarded = len(block.token_ids) - kept
        self.text += text
        self.token_ids += block.token_ids[:kept]
        return Update(self.index, text, block.token_ids[:kept], self.finish_reason)


@dataclass
class Job:
    """All choices of one HTTP request; choice ``i * n + j`` is answer j to prompt i.

    ``prompts`` are ids; ``label`` is the HTTP request's id, for the log only. A ``streamed`` job's updates reach the
    client one by one, those of another all at the end.
    """

    services: Services
    label: str
    prompts: list[list[int]]
    choices: list[Choice]
    streamed: bool = False
    arrived: float = field(default_factory=time.monotonic)
    first_block: float | None = None

    @classmethod
    def plan(
        cls,
        services: Services,
        codec: TextCodec,
        label: str,
        fields: GenerationFields,
        prompts: list[list[int]],
        budgets: list[int],
    ) -> "Job":
        """Lays out the choices of ``fields``; ``budgets`` are the tokens each prompt may be answered with."""
        seed = secrets.randbits(63) if fields.seed is None else fields.seed
        name = uuid.uuid4().hex
        choices = []
        for index, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True)):
            for j in range(fields.n):
                request = GenerateRequest(
                    request_id=f"{name}-{index * fields.n + j}",
                    prompt_ids=prompt,
                    max_tokens=budget,
                    params=fields.decoding_params(stream_seed(seed, j)),
                    stop_token_ids=list(fields.stop_token_ids),
                    ignore_eos=fields.ignore_eos,
                )
                choices.append(Choice(index * fields.n + j, request, codec, fields.stop))
        return cls(services, label, prompts, choices, fields.stream)

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Every block of every choice as it comes; ends when all choices have finished.

        Closing it early aborts what still runs in the engine. Raises ``ApiError``: 429 or 503 before the
        first update when the request is not admitted; 500, 503 or 504 when the engine fails or is too slow.
        """
        services = self.services
        outcome, status = "cancelled", 499
        queue: asyncio.Queue[Update | ApiError] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []
        try:
            with services.gate.admit(len(self.choices)):
                services.metrics.accepted(sum(map(len, self.prompts)))
                services.gate.cut_listeners.add(queue.put_nowait)
                tasks += [asyncio.create_task(self._run(choice, queue)) for choice in self.choices]
                try:
                    open_choices = len(tasks)
                    while open_choices:
                        item = await self._next(queue)
                        if isinstance(item, ApiError):
                            raise item
                        open_choices -= item.finish_reason is not None
                        yield item
                        if self.streamed:
                            self._deliver(item.index, len(item.token_ids))
                finally:
                    services.gate.cut_listeners.discard(queue.put_nowait)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            outcome, status = "finished", 200
            if not self.streamed:
                for choice in self.choices:
                    self._deliver(choice.index, len(choice.token_ids))
        except ApiError as error:
            outcome, status = "error", error.status
            raise
        finally:
            self._account(outcome, status, admitted=bool(tasks))

    def usage(self) -> dict[str, object]:
        """Tokens and work of the request so far, as the API reports them."""
        prompt = sum(map(len, self.prompts))
        completion = sum(len(choice.token_ids) for choice in self.choices)
        passes = sum(choice.forward_passes for choice in self.choices)
        # A prompt counts once, however many answers it gets: those after the first always find it cached.
        first = self.choices[:: len(self.choices) // len(self.prompts)]
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "denoise_steps": sum(choice.denoise_steps for choice in self.choices),
            "forward_passes": passes,
            "tokens_per_forward": round(completion / passes, 4) if passes else 0.0,
            "prompt_tokens_details": {"cached_tokens": sum(choice.cached_tokens for choice in first)},
        }

    def chunk_usage(self, options: StreamOptions) -> dict[str, object]:
        """The usage field of a chunk that is not the last: the figures so far, null, or none at all."""
        if options.continuous_usage_stats:
            return {"usage": self.usage()}
        return {"usage": None} if options.include_usage else {}

    async def _next(self, queue: asyncio.Queue[Update | ApiError]) -> Update | ApiError:
        limit = self.services.settings.request_timeout_s
        try:
            async with asyncio.timeout(self.arrived + limit - time.monotonic()):
                return await queue.get()
        except TimeoutError:
            raise ApiError(504, f"The request took longer than {limit:g} seconds") from None

    async def _run(self, choice: Choice, queue: asyncio.Queue[Update | ApiError]) -> None:
        try:
            await self._consume(choice, queue)
        except EngineDeadError:
            queue.put_nowait(ApiError(503, "The engine stopped while it worked on the request", retry_after=2))
        except EngineError as error:
            queue.put_nowait(ApiError(500, f"The engine failed on the request: {error}"))
        except Exception:  # A bug: unless the queue hears of it, the client waits for ever.
            logger.exception("unexpected error in %s", choice.request.request_id)
            queue.put_nowait(ApiError(500, "The server had an error while processing the request"))

    async def _consume(self, choice: Choice, queue: asyncio.Queue[Update | ApiError]) -> None:
        metrics = self.services.metrics
        if choice.request.max_tokens == 0:
            choice.finish_reason = "length"
            queue.put_nowait(Update(choice.index, "", [], "length"))
            return
        last = self.arrived
        blocks = self.services.engine.generate(choice.request)
        assert isinstance(blocks, AsyncGenerator)
        async with aclosing(blocks):
            async for block in blocks:
                if block.finish_reason == "error":
                    raise EngineError(block.error or "no reason was given")
                update = choice.take(block)
                now = time.monotonic()
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

    def _deliver(self, index: int, tokens: int) -> None:
        self.choices[index].delivered += tokens
        self.services.metrics.delivered(tokens)

    def _account(self, outcome: str, status: int, *, admitted: bool) -> None:
        elapsed = time.monotonic() - self.arrived
        for choice in self.choices if admitted else []:
            lost = len(choice.token_ids) - choice.delivered
            if lost:
                self.services.metrics.discarded("cancelled" if outcome == "cancelled" else "error", lost)
            if choice.finish_reason is None and outcome == "cancelled":
                self.services.metrics.cancelled(started=bool(choice.token_ids))
            elif choice.finish_reason is None:
                self.services.metrics.finished("error", elapsed)
        line = {
            "request_id": self.label,
            "engine_id": self.choices[0].request.request_id.partition("-")[0],
            "outcome": outcome,
            "status": status,
            "stream": self.streamed,
            "choices": len(self.choices),
            "finish_reasons": sorted({choice.finish_reason or outcome for choice in self.choices}),
            "queue_ms": _ms(max(choice.queue_seconds for choice in self.choices)),
            "ttft_ms": None if self.first_block is None else _ms(self.first_block - self.arrived),
            "e2e_ms": _ms(elapsed),
            "blocks": sum(choice.blocks for choice in self.choices),
            **self.usage(),
        }
        logger.info("%s", json.dumps(line))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def stream_seed(seed: int, choice: int) -> int:
    """The noise stream (63 bits) of answer ``choice`` under ``seed``; the same wherever it runs."""
    digest = hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
