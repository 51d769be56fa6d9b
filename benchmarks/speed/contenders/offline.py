"""The engine in this process, without a server."""

import time
from collections.abc import Callable

from benchmarks.speed.contenders.load import Load, Prompts, Sample, sample
from benchmarks.speed.contenders.raw import Recording, recorded
from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.messages import EngineStats, GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions

StepCallback = Callable[[EngineStats], None]


def decoding(load: Load) -> DecodingParams:
    """No confidence exceeds 1, so a step finalizes exactly the share that ``steps_per_block`` leaves to it."""
    return DecodingParams(confidence_threshold=1.0, max_steps_per_block=load.steps_per_block)


class Offline:
    """An engine and the loads put on it."""

    def __init__(self, options: EngineOptions) -> None:
        self.llm = OfflineEngine(options)
        ready = self.llm.describe()
        self.prompts, self.max_model_len = Prompts(ready.vocab_size), ready.max_model_len

    def requests(self, load: Load) -> list[GenerateRequest]:
        """The load's requests, with new prompts."""
        prompts = self.prompts.draw_all(load)
        return [
            GenerateRequest(
                request_id=str(index), prompt_ids=ids, max_tokens=tokens, params=decoding(load), ignore_eos=True
            )
            for index, (ids, tokens) in enumerate(zip(prompts, load.new_tokens, strict=True))
        ]

    def run(self, load: Load) -> Sample:
        """All requests together, or as many at a time as the load has streams."""
        return self._timed([self.requests(load)]) if load.streams is None else self._steady(load, load.streams)

    def run_one_by_one(self, load: Load) -> Sample:
        """Each request when the one before it is finished."""
        return self._timed([[request] for request in self.requests(load)])

    def record(self, load: Load, *, one_by_one: bool = False) -> Recording:
        """The forwards of a run. Those of another run differ in tokens alone, not in number or size."""
        with recorded(self.llm) as recording:
            (self.run_one_by_one if one_by_one else self.run)(load)
        recording.tokens = load.tokens
        recording.verify()
        return recording

    def record_blocks(self, load: Load) -> list[Recording]:
        """The forwards of a single request, cut at its blocks."""
        ends: list[int] = []
        with recorded(self.llm) as recording:

            def step(stats: EngineStats) -> None:
                if stats.steps_per_block:
                    ends.append(len(recording.forwards))

            self.generate(self.requests(load), step)
        recording.verify()
        starts = [0, *ends[:-1]]
        return [
            Recording(recording.transformer, forwards=recording.forwards[start:end])
            for start, end in zip(starts, ends, strict=True)
        ]

    def block_seconds(self, load: Load) -> list[float]:
        """Seconds that each block of a single request took."""
        marks = [time.perf_counter()]

        def step(stats: EngineStats) -> None:
            if stats.steps_per_block:
                marks.append(time.perf_counter())

        self.generate(self.requests(load), step)
        return [end - start for start, end in zip(marks, marks[1:], strict=False)]

    def generate(self, requests: list[GenerateRequest], on_step: StepCallback | None = None) -> int:
        """Runs the requests and checks that each got its tokens; returns how many all got."""
        done = self.llm.generate(requests, on_step)
        counts = [len(completion.token_ids) for completion in done]
        if counts != [request.max_tokens for request in requests]:
            raise RuntimeError("the engine generated another number of tokens than it was asked for")
        return sum(counts)

    def _steady(self, load: Load, streams: int) -> Sample:
        engine, waiting = self.llm, self.requests(load)[::-1]
        generated = forwards = running = 0
        started = time.perf_counter()
        while waiting or running:
            while waiting and running < streams:
                engine.add(waiting.pop())
                running += 1
            forwards += 1
            for output in engine.step().outputs:
                if output.error is not None:
                    raise RuntimeError(f"request {output.request_id} failed: {output.error}")
                generated += len(output.token_ids)
                running -= output.finish_reason is not None
        seconds = time.perf_counter() - started
        if generated != load.tokens:
            raise RuntimeError("the engine generated another number of tokens than it was asked for")
        return sample(seconds, generated, forwards)

    def _timed(self, groups: list[list[GenerateRequest]]) -> Sample:
        forwards = 0

        def step(_stats: EngineStats) -> None:
            nonlocal forwards
            forwards += 1

        started = time.perf_counter()
        tokens = sum(self.generate(group, step) for group in groups)
        seconds = time.perf_counter() - started
        return sample(seconds, tokens, forwards)
