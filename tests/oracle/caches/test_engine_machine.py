"""The engine under any order of requests, steps, aborts and pool pressure: pages add up, no answer changes."""

import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.row import RowWork
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.drafts import build_draft_adapter
from tests.support.models.checkpoints import AXES, EOS, WITHOUT_MASK, build_checkpoint

# Blocks that are cut by every rule of the scheduler: full prompts, prompts by blocks with a shift, single tokens.
KINDS = ("plain", "absolute_shifted", "autoregressive_without_mask", "causal_commit")
DRAFTED = "autoregressive_without_mask"
CONTEXT = 96


@cache
def directory(axis: str) -> Path:
    return build_checkpoint(Path(tempfile.mkdtemp()) / axis, axis, seed=7, max_model_len=CONTEXT)


@cache
def roomy(axis: str) -> Engine:
    return Engine(EngineOptions(model=str(directory(axis)), page_size=4, enable_prefix_caching=False))


@cache
def tight(axis: str) -> Engine:
    """Few rows, and pages for little more than one full context: preemptions are common."""
    page = roomy(axis).runner.cache.keys[:, :4].numel() * 2 * 4
    options = EngineOptions(
        model=str(directory(axis)), page_size=4, max_num_seqs=4, kv_cache_memory=30 * page, max_prefill_tokens=24,
        max_num_batched_tokens=64,
    )  # fmt: skip
    return Engine(options)


@cache
def drafting() -> Engine:
    """Like ``tight``, with drafts: those of greedy requests agree with their answers now and then."""
    base = directory(DRAFTED)
    adapter = build_draft_adapter(Path(tempfile.mkdtemp()) / "drafts", base)
    options = tight(DRAFTED).options.model_copy(
        update={"draft_adapter": str(adapter), "draft_rows": 24, "dtype": "float32"}
    )
    engine = Engine(options)
    assert engine.runner.drafting is not None
    rng = random.Random(1)

    def propose(work: RowWork, accepted: list[int], drafted: list[int]) -> list[int]:
        (sequence,) = (each for each in engine.scheduler.running if each.row == work.row)
        asked, params = sequence.request, sequence.params
        if params.sampled or params.confidence_threshold is None:
            return drafted
        truth = alone(DRAFTED, tuple(asked.prompt_ids), asked.max_tokens, params.confidence_threshold, asked.ignore_eos)
        known = truth[work.block_start - sequence.prompt_length + len(accepted) :]
        return [token if rng.random() < 0.7 else rng.randrange(EOS) for token in known[: len(drafted)]]

    engine.runner.drafting.verifier.propose = propose  # type: ignore[method-assign]
    return engine


@cache
def alone(axis: str, prompt: tuple[int, ...], max_tokens: int, threshold: float, ignore_eos: bool) -> list[int]:
    """What the request is answered when it has an engine to itself."""
    engine = roomy(axis)
    engine.add(greedy("alone", prompt, max_tokens, threshold, ignore_eos, ""))
    tokens: list[int] = []
    while engine.busy:
        for output in engine.step().outputs:
            tokens += output.token_ids
    return tokens


def greedy(
    name: str, prompt: tuple[int, ...], max_tokens: int, threshold: float, ignore_eos: bool, client: str
) -> GenerateRequest:
    params = DecodingParams(confidence_threshold=threshold)
    return GenerateRequest(
        request_id=name, prompt_ids=list(prompt), max_tokens=max_tokens, params=params, ignore_eos=ignore_eos,
        client=client,
    )  # fmt: skip


PROMPTS = st.lists(st.integers(0, EOS - 1), min_size=1, max_size=50).map(tuple)


class EngineMachine(RuleBasedStateMachine):
    """``requests`` are those that should end with the answer they get alone."""

    axis = "plain"
    drafts = False

    def __init__(self) -> None:
        super().__init__()
        self.engine = drafting() if self.drafts else tight(self.axis)
        self.requests: dict[str, tuple[tuple[int, ...], int, float, bool]] = {}
        self.got: dict[str, list[int]] = {}
        self.ended: dict[str, str] = {}
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"r{self.count}"

    @rule(
        prompt=PROMPTS, max_tokens=st.integers(1, 40), threshold=st.sampled_from((0.2, 0.4, 0.9)),
        ignore_eos=st.booleans(), client=st.sampled_from(("", "a", "b")),
    )  # fmt: skip
    def ask(self, prompt: tuple[int, ...], max_tokens: int, threshold: float, ignore_eos: bool, client: str) -> None:
        name = self.name()
        self.requests[name] = (prompt, max_tokens, threshold, ignore_eos)
        self.got[name] = []
        self.engine.add(greedy(name, prompt, max_tokens, threshold, ignore_eos, client))

    @rule(prompt=PROMPTS, temperature=st.sampled_from((0.5, 1.5)), guidance=st.sampled_from((0.0, 1.0)))
    def ask_for_something_else(self, prompt: tuple[int, ...], temperature: float, guidance: float) -> None:
        """Sampled and guided requests, which share steps and pages with the others."""
        guidance = 0.0 if self.axis in WITHOUT_MASK else guidance
        params = DecodingParams(
            temperature=temperature, seed=self.count, guidance_scale=guidance, frequency_penalty=0.5
        )
        budget = min(20, self.engine.max_guided_len - len(prompt)) if guidance else 20
        if budget > 0:
            request = GenerateRequest(
                request_id=self.name(), prompt_ids=list(prompt), max_tokens=budget, params=params, logprobs=2
            )
            self.engine.add(request)

    @rule(prompt=PROMPTS)
    def score(self, prompt: tuple[int, ...]) -> None:
        self.engine.add(ScoreRequest(request_id=self.name(), prompt_ids=list(prompt), logprobs=1))

    @rule(number=st.integers(0, 50))
    def abort(self, number: int) -> None:
        name = f"r{number}"
        self.engine.abort(name)
        if name not in self.ended:
            self.requests.pop(name, None)

    @rule(times=st.integers(1, 8))
    def step(self, times: int) -> None:
        for _ in range(times):
            if not self.engine.busy:
                return
            for output in self.engine.step().outputs:
                assert output.error is None
                if output.request_id in self.requests:
                    self.got[output.request_id] += output.token_ids
                    if output.finish_reason:
                        self.ended[output.request_id] = output.finish_reason

    @invariant()
    def pages_add_up_and_the_host_knows_what_the_device_holds(self) -> None:
        self.engine.check()
        pool = self.engine.cache.pool
        assert pool.free + pool.active + pool.cached == pool.num_pages

    def teardown(self) -> None:
        for _ in range(5000):
            if not self.engine.busy:
                break
            self.step(1)
        assert not self.engine.busy, "somebody waits for ever"
        self.engine.check()
        assert self.engine.cache.pool.active == 0
        for name, asked in self.requests.items():
            assert self.got[name] == alone(self.axis, *asked), asked
            assert name in self.ended


def machine(axis: str, examples: int, *, drafts: bool = False) -> Any:
    made: Any = type(f"Engine_{axis}", (EngineMachine,), {"axis": axis, "drafts": drafts})
    case = made.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return case


assert set(KINDS) <= set(AXES)
TestPlain, TestAbsoluteShifted, TestWithoutMask, TestCausalCommit = (machine(axis, 7) for axis in KINDS)
TestDrafting = machine(DRAFTED, 4, drafts=True)
TestDraftingLong = pytest.mark.whole(machine(DRAFTED, 60, drafts=True))
TestPlainLong, TestAbsoluteShiftedLong, TestWithoutMaskLong, TestCausalCommitLong = (
    pytest.mark.whole(machine(axis, 60)) for axis in KINDS
)
