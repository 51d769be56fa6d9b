"""Measures the time between blocks of short requests while long prompts join."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator

from benchmarks.speed.contenders.load import BLOCK, Load, Prompts, Sample, sample
from benchmarks.speed.contenders.offline import Offline, decoding
from benchmarks.speed.contenders.served import Served
from benchmarks.speed.settings import Settings
from cdlm.cli.bench.client import complete
from cdlm.scheduler.messages import GenerateRequest

SHORT_PROMPT = 32
_BLOCKS = (2, 3, 4)  # Blocks per short request, in turn, so that requests do not run in lockstep.


class SteadyLoad:
    """Keeps ``streams`` short requests running until ``gaps`` gaps between blocks of one request were seen.

    Args:
        joins: how many prompts of ``long_prompt`` tokens join, spread evenly.
    """

    def __init__(self, settings: Settings, steps_per_block: int, *, joins: int) -> None:
        self.streams, self.gaps, self.joins = settings.streams, settings.gaps, joins
        self.steps_per_block, self.long_prompt = steps_per_block, settings.long_prompt

    def offline(self, contender: Offline) -> Sample:
        """Runs the load on an engine in this process."""
        engine = contender.llm
        shorts = _shorts(contender.prompts)
        names = (f"short-{index}" for index in itertools.count())
        last: dict[str, float] = {}
        gaps: list[float] = []
        blocks = forwards = joined = 0
        running: set[str] = set()

        def join(name: str, ids: list[int], tokens: int) -> None:
            engine.add(self._request(name, ids, tokens))
            running.add(name)

        started = time.perf_counter()
        for _ in range(self.streams):
            join(next(names), *next(shorts))
        while len(gaps) < self.gaps:
            if joined < self._due(len(gaps)):
                join(f"long-{joined}", contender.prompts.draw(self.long_prompt), BLOCK)
                joined += 1
            report = engine.step()
            now = time.perf_counter()
            forwards += 1
            for output in report.outputs:
                if output.error is not None:
                    raise RuntimeError(f"request {output.request_id} failed: {output.error}")
                short = output.request_id.startswith("short")
                if output.finish_reason is not None:
                    running.remove(output.request_id)
                    if short:
                        join(next(names), *next(shorts))
                if not short:
                    continue
                blocks += 1
                if output.request_id in last:
                    gaps.append(now - last[output.request_id])
                last[output.request_id] = now
        seconds = time.perf_counter() - started
        for name in running:
            engine.abort(name)
        return sample(seconds, blocks * BLOCK, forwards, **_summary(gaps, joined))

    def served(self, contender: Served) -> Sample:
        """Runs the load over HTTP: one client per stream, each sends its next request after its answer."""
        return contender.wait_for(self._serve(contender))

    async def _serve(self, contender: Served) -> Sample:
        shorts = _shorts(contender.prompts)
        gaps: list[float] = []
        joining: list[asyncio.Task[object]] = []
        blocks = 0

        def body(ids: list[int], tokens: int) -> dict[str, object]:
            return contender.body(Load((), (), self.steps_per_block), ids, tokens)

        async def client() -> None:
            nonlocal blocks
            while len(gaps) < self.gaps:
                done = await complete(contender.client, body(*next(shorts)))
                blocks += len(done.chunks)
                gaps.extend(later - earlier for earlier, later in itertools.pairwise(done.chunks))
                if len(joining) < self._due(len(gaps)):
                    ids = contender.prompts.draw(self.long_prompt)
                    joining.append(asyncio.create_task(complete(contender.client, body(ids, BLOCK))))

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(self.streams)))
        seconds = time.perf_counter() - started
        await asyncio.gather(*joining)
        return sample(seconds, blocks * BLOCK, 0, **_summary(gaps, len(joining)))

    def _due(self, seen: int) -> int:
        """Long prompts that should have joined after ``seen`` gaps."""
        return min(self.joins, int(seen * self.joins / self.gaps + 0.5))

    def _request(self, name: str, ids: list[int], tokens: int) -> GenerateRequest:
        params = decoding(Load((), (), self.steps_per_block))
        return GenerateRequest(request_id=name, prompt_ids=ids, max_tokens=tokens, params=params, ignore_eos=True)


def _shorts(prompts: Prompts) -> Iterator[tuple[list[int], int]]:
    """Short requests without end: prompt and number of tokens."""
    for blocks in itertools.cycle(_BLOCKS):
        yield prompts.draw(SHORT_PROMPT), blocks * BLOCK


def _summary(gaps: list[float], joined: int) -> dict[str, float]:
    """Percentiles in seconds."""
    cuts = statistics.quantiles(gaps, n=100, method="inclusive")
    return {"gap_p50_s": cuts[49], "gap_p99_s": cuts[98], "gap_max_s": max(gaps), "gaps": len(gaps), "joined": joined}
