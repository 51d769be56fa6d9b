"""An error in one request's part of a step ends that request alone, whatever raises; the others get their tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.parallel.followers import LostRank
from cdlm.model.runner import ModelRunner
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import BlockOutput, GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.steps.faults import LostDevice
from cdlm.scheduler.steps.figures import step_figures
from tests.oracle.faults.stages import LONG, ONCE, STAGES, STEPPED, Stage
from tests.support.engines import oracle_answer
from tests.support.models.grammars import SCHEMAS, build_json_checkpoint, json_grammar

GRAMMAR = json_grammar(SCHEMAS["recursive"])


def generate(name: str, first: int, **fields: Any) -> GenerateRequest:
    values = {"prompt_ids": [first, 9, 2, first + 1, 30], "max_tokens": 20, "ignore_eos": True, **fields}
    return GenerateRequest(request_id=name, **values)


# What is asked for decides which parts of a step a row goes through; those that "bad" asks for are all but staging.
SAMPLED = DecodingParams(temperature=0.9, seed=5)
EVERYTHING = DecodingParams(
    temperature=0.7, seed=3, guidance_scale=1.0, presence_penalty=0.5, decoding="entropy_bound", entropy_bound=0.3,
    bad_words=[[90, 91]],
)  # fmt: skip
REQUESTS: list[GenerateRequest | ScoreRequest] = [
    generate("greedy", 5),
    generate("edited", 11, params=DecodingParams(frequency_penalty=0.7, logit_bias={17: 2.0})),
    generate("sampled", 23, params=SAMPLED),
    generate("bad", 31, params=EVERYTHING, grammar=GRAMMAR, ignore_eos=False, logprobs=2, stream_canvas=True),
    generate("scored", 41, logprobs=2),
    generate("ranked", 47, params=DecodingParams(decoding="entropy_bound", entropy_bound=1.0)),
    generate("guided", 53, params=DecodingParams(guidance_scale=1.5)),
    generate("grammar", 61, grammar=GRAMMAR, ignore_eos=False),
    generate("staged", 0, prompt_ids=LONG),
    generate("bad staged", 0, prompt_ids=LONG[::-1]),
    ScoreRequest(request_id="score", prompt_ids=LONG[:11], logprobs=1),
    ScoreRequest(request_id="bad score", prompt_ids=LONG[5:16], logprobs=1),
]
GREEDY = ("greedy", "edited", "scored", "ranked", "guided", "staged")
VICTIMS = ("bad", "bad staged", "bad score")


AXES = ("plain", "absolute_shifted")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    """One engine per axis, which all tests use one after the other."""
    made = {}
    for axis in AXES:
        directory = build_json_checkpoint(tmp_path_factory.mktemp("checkpoint"), axis, seed=2, max_model_len=128)
        options = EngineOptions(model=str(directory), page_size=4, max_prefill_tokens=24, enable_prefix_caching=True)
        made[axis] = Engine(options)
    return made


@pytest.fixture(params=AXES)
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return engines[request.param]


Answers = dict[str, list[BlockOutput]]


def run(engine: Engine, requests: list[GenerateRequest | ScoreRequest], on_step: Callable[[], None]) -> Answers:
    """Serves all, comparing host and device after every step; the cache is emptied first."""
    everything: list[int] = []
    assert engine.cache.allocate(everything, engine.cache.num_pages * engine.cache.page_size)
    engine.cache.pool.release(everything)
    for request in requests:
        engine.add(request)
    outputs: Answers = {request.request_id: [] for request in requests}
    while engine.busy:
        on_step()
        for output in engine.step().outputs:
            outputs[output.request_id].append(output)
        engine.check()
    assert engine.cache.pool.active == 0
    assert not engine.scheduler.running
    assert sorted(engine.scheduler._free_rows) == list(range(engine.runner.rows.size))
    return outputs


def told(outputs: list[BlockOutput]) -> tuple[list[int], list[tuple[int, int]], str | None]:
    """What an answer came to: its tokens, those with a log-probability and the step of it, and how it ended."""
    entries = [(entry.token_id, entry.step) for output in outputs for entry in output.logprobs or []]
    return [token for output in outputs for token in output.token_ids], entries, outputs[-1].finish_reason


Told = dict[str, tuple[list[int], list[tuple[int, int]], str | None]]


@pytest.fixture(scope="module")
def undisturbed(engines: dict[str, Engine]) -> dict[str, Told]:
    """What everybody is told on each axis when nothing fails; the greedy ones by the slow decoder."""
    found = {}
    for engine in engines.values():
        answers = {name: told(outputs) for name, outputs in run(engine, REQUESTS, lambda: None).items()}
        for request in REQUESTS:
            if request.request_id in GREEDY:
                assert isinstance(request, GenerateRequest)
                truth = oracle_answer(Path(engine.options.model), request)
                assert answers[request.request_id][0] == truth.token_ids
        found[engine.options.model] = answers
    return found


@pytest.fixture
def expected(engine: Engine, undisturbed: dict[str, Told]) -> Told:
    return undisturbed[engine.options.model]


def failures() -> list[Any]:
    """An axis and a part of a step; outside of ``make test-all`` each part fails on one axis, where it can."""
    return [
        pytest.param(
            axis,
            stage,
            id=f"{axis}-{getattr(stage[1], '__name__', '')}.{stage[2]}",
            marks=[] if axis == AXES[place % 2 if stage[2] not in ONCE else 0] else [pytest.mark.whole],
        )
        for axis in AXES
        for place, stage in enumerate(STAGES)
    ]


@pytest.mark.parametrize(("engine", "stage"), failures(), indirect=["engine"])
def test_a_failure_in_any_part_of_a_step_ends_one_request(
    engine: Engine, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """At once on one axis; on the other in a later step, when blocks are half written."""
    after = int(engine.manifest.shift)
    victim, owner, attribute, concerns = stage
    original = getattr(owner, attribute)
    steps = hits = 0

    def raising(*arguments: Any, **named: Any) -> Any:
        nonlocal hits
        if steps > after and concerns(engine, victim, *arguments, **named):
            hits += 1
            raise RuntimeError("injected")
        return original(*arguments, **named)

    def on_step() -> None:
        nonlocal steps
        steps += 1

    watched = ModelRunner.step

    def step(self: ModelRunner, works: Any) -> Any:
        STEPPED["works"] = works
        return watched(self, works)

    monkeypatch.setattr(ModelRunner, "step", step)
    monkeypatch.setattr(owner, attribute, raising)
    outputs = run(engine, REQUESTS, on_step)
    monkeypatch.undo()
    if not hits:
        assert after == 1
        assert attribute in ONCE
        return
    assert (outputs[victim][-1].finish_reason, outputs[victim][-1].error) == ("error", "RuntimeError")
    others = {name: told(found) for name, found in outputs.items() if name != victim}
    assert others == {name: answer for name, answer in expected.items() if name != victim}


def test_failures_leave_nothing_behind(engine: Engine, expected: dict[str, Any]) -> None:
    """After all of the above the same requests are answered as before."""
    assert {name: told(found) for name, found in run(engine, REQUESTS, lambda: None).items()} == expected


def test_a_step_that_is_too_large_for_memory_is_taken_in_parts(
    engine: Engine, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ModelRunner.forward

    def limited(self: ModelRunner, layout: Any) -> torch.Tensor:
        if len(layout.rows) > 3:
            raise torch.OutOfMemoryError("no memory for so many rows")
        return forward(self, layout)

    halved = 0

    def counted(*arguments: Any) -> dict[str, Any]:
        nonlocal halved
        found = step_figures(*arguments)
        halved += found["halved_steps"]
        return found

    monkeypatch.setattr(ModelRunner, "forward", limited)
    monkeypatch.setattr("cdlm.scheduler.engine.step_figures", counted)
    outputs = run(engine, REQUESTS, lambda: None)
    assert {name: told(found) for name, found in outputs.items()} == expected
    assert halved > 0


def test_an_error_that_the_gpu_does_not_recover_from_ends_the_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton raises errors of its own; whether the device is lost is what the device says."""

    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")

    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    for name in "ab":
        engine.add(generate(name, 5))
    with monkeypatch.context() as patch:
        patch.setattr(ModelRunner, "forward", broken)
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "synchronize", lost)
        with pytest.raises(LostDevice, match="the GPU is lost after RuntimeError"):
            engine.step()
    for name in "ab":
        engine.abort(name)
    engine.check()


def test_what_fails_for_everybody_ends_everybody(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("no kernel")

    with monkeypatch.context() as patch:
        patch.setattr(ModelRunner, "forward", broken)
        outputs = run(engine, REQUESTS, lambda: None)
    ends = {name: (found[-1].finish_reason, found[-1].error) for name, found in outputs.items()}
    assert {name for name, end in ends.items() if end != ("error", "RuntimeError")} == {"score", "bad score"}


@pytest.mark.parametrize("error", [LostRank("gone"), torch.AcceleratorError("device-side assert")])
def test_after_some_errors_nothing_can_go_on(engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: Any) -> torch.Tensor:
        raise error

    engine.add(generate("a", 5))
    engine.add(generate("b", 6))
    with monkeypatch.context() as patch:
        patch.setattr(ModelRunner, "forward", broken)
        with pytest.raises(type(error)):
            engine.step()
    for name in "ab":
        engine.abort(name)
    engine.check()
