"""The work for a request of decisions: texts that the engine scores."""

import asyncio
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdlm.scheduler.errors import EngineError
from cdlm.scheduler.messages import ScoreRequest
from cdlm.server.errors import ApiError, engine_failed
from cdlm.server.observe.request_log import Outcome, RequestRecord
from cdlm.server.openai.decisions.canvas import Canvas
from cdlm.server.openai.decisions.response import DecisionUsage
from cdlm.server.openai.protocol.response import InputDetails, OutputDetails
from cdlm.server.services import Services


@dataclass
class DecisionJob:
    """The texts of all questions of one HTTP request.

    ``prompts`` has the ids of each question's prompt, ``texts`` those of each text that may follow it. At most
    ``width`` texts are with the engine at once. With a ``canvas``, which is the only text of the only prompt, all
    questions are answered on it. ``logs`` gets the log-probability of each text, ``cached`` the number
    of each prompt's tokens that the prefix cache had.
    """

    services: Services
    record: RequestRecord
    prompts: Sequence[list[int]]
    texts: Sequence[Sequence[list[int]]]
    priority: int = 0
    cache_salt: str = ""
    canvas: Canvas | None = None
    arrived: float = field(default_factory=time.monotonic)
    cached: dict[int, int] = field(default_factory=dict)
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.logs: list[list[float]] = [[0.0] * len(texts) for texts in self.texts]
        self.width = min(sum(map(len, self.texts)), self.services.rows)

    async def finish(self) -> list[list[float]]:
        """Waits for the log-probabilities of all texts.

        Raises ``ApiError``: 429 or 503 if the request is not admitted; 500, 503 or 504 if the engine fails or is too
        slow.
        """
        services, admitted = self.services, False
        outcome: Outcome = "cancelled"
        status = 499
        try:
            with services.gate.admit(self.width, self._tokens, self.record.key, "input"):
                admitted = True
                services.metrics.accepted(self._tokens)
                await self._until_cut()
            outcome, status = "finished", 200
            return self.logs
        except ApiError as error:
            outcome, status = "error", error.status
            raise
        finally:
            self._account(outcome, status, admitted=admitted)

    def usage(self) -> DecisionUsage:
        """The ``usage`` object."""
        return DecisionUsage(
            input_tokens=self._tokens,
            input_tokens_details=InputDetails(cached_tokens=sum(self.cached.values()), cache_write_tokens=0),
            output_tokens=0,
            output_tokens_details=OutputDetails(reasoning_tokens=0),
            total_tokens=self._tokens,
        )

    @property
    def _tokens(self) -> int:
        """Tokens of all prompts and texts; a prompt counts once."""
        return sum(map(len, self.prompts)) + sum(len(ids) for texts in self.texts for ids in texts)

    async def _until_cut(self) -> None:
        """Scores all texts, unless time runs out or the server stops."""
        gate, limit = self.services.gate, self.services.settings.request_timeout_s
        cut: asyncio.Future[ApiError] = asyncio.get_running_loop().create_future()

        def stop(error: ApiError) -> None:
            if not cut.done():
                cut.set_result(error)

        gate.cut_listeners.add(stop)
        working = asyncio.create_task(self._work())
        try:
            left = max(0.0, self.arrived + limit - time.monotonic())
            either: set[asyncio.Future[Any]] = {working, cut}
            await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            elif cut.done():
                raise cut.result()
            else:
                raise ApiError(504, f"The request took longer than {limit:g} seconds")
        finally:
            gate.cut_listeners.discard(stop)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _work(self) -> None:
        """Scores first one text, whose prompt begins like the others; then one per question, whose other texts share
        its prompt; then all others: what texts have in common is then cached.
        """
        firsts = [(question, 0) for question in range(1, len(self.texts))]
        others = [(question, text) for question, texts in enumerate(self.texts) for text in range(1, len(texts))]
        try:
            for turn in ([(0, 0)], firsts, others):
                todo = iter(turn)
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.width, len(turn))):
                        group.create_task(self._score_all(todo))
        except ExceptionGroup as failed:
            error = failed.exceptions[0]
            raise (engine_failed(error) if isinstance(error, EngineError) else error) from failed

    async def _score_all(self, todo: Iterator[tuple[int, int]]) -> None:
        for question, text in todo:
            prompt, ids = self.prompts[question], self.texts[question][text]
            request = ScoreRequest(
                request_id=f"{self.name}-{question}-{text}",
                prompt_ids=prompt + ids,
                start=len(prompt),
                slots=[] if self.canvas is None else self.canvas.slots,
                client=self.record.key.name if self.record.key else "",
                priority=self.priority,
                cache_salt=self.cache_salt,
            )
            scored = await self.services.score(request)
            found = [entry.logprob for entry in scored.logprobs or []]
            if self.canvas is None:
                self.logs[question][text] = sum(found)
            else:
                self.logs = [[sum(found[read] for read in reads) for reads in each] for each in self.canvas.reads]
            if text == 0:
                self.cached[question] = min(len(prompt), scored.cached_tokens)

    def _account(self, outcome: Outcome, status: int, *, admitted: bool) -> None:
        elapsed, metrics = time.monotonic() - self.arrived, self.services.metrics
        for _ in self.prompts if admitted else []:
            if outcome == "cancelled":
                metrics.cancelled(started=bool(self.cached))
            else:
                metrics.finished("stop" if outcome == "finished" else "error", elapsed)
        usage = self.usage()
        figures = {
            "engine_id": self.name,
            "questions": len(self.prompts if self.canvas is None else self.canvas.reads),
            "texts": sum(map(len, self.texts)),
            "e2e_ms": round(elapsed * 1000, 1),
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": 0,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.input_tokens_details.cached_tokens},
        }
        self.record.worked(outcome, status, figures)
