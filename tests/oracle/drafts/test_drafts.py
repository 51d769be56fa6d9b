"""Verified drafts change no token: the engine that drafts equals the slow decoder, whatever the drafts are."""

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.row import RowWork
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.drafts import WINDOW, build_draft_adapter, count_accepted, draft_by_hand, drafting_engine, propose
from tests.support.engines import Answer, oracle_answer, random_requests, run
from tests.support.matrix import matrix
from tests.support.models.checkpoints import build_checkpoint
from tests.support.models.grammars import SCHEMAS, build_json_checkpoint
from tests.support.oracle.network import hidden_states
from tests.support.structured import constrained

AXIS = "autoregressive_without_mask"
BACKENDS = ["sdpa", pytest.param("triton", marks=pytest.mark.slow)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return build_checkpoint(tmp_path / "base", AXIS, seed=4)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return build_draft_adapter(tmp_path / "drafts", base)


def assert_lossless(base: Path, requests: list[GenerateRequest], answers: dict[str, Answer]) -> None:
    """Tokens, reasons and log-probabilities are those of the slow decoder, one token per step."""
    for request in requests:
        truth, answer = oracle_answer(base, request), answers[request.request_id]
        assert answer.token_ids == truth.token_ids, request
        assert answer.finish_reason == truth.finish_reason, request
        assert answer.step_map == [1] * len(truth.token_ids), request
        if request.logprobs is not None:
            for entry, (scores, _) in zip(answer.logprobs, truth.scores, strict=True):
                assert entry.logprob == pytest.approx(float(scores[entry.token_id]), abs=1e-4)
                assert len(entry.top_ids) == request.logprobs


def truth_of(base: Path, requests: list[GenerateRequest]) -> dict[str, list[int]]:
    """The answers of an engine without drafts."""
    plain = Engine(EngineOptions(model=str(base), page_size=4))
    return {name: answer.token_ids for name, answer in run(plain, requests).items()}


SAMPLED = [
    ("sdpa", "greedy", False, False),
    ("sdpa", "greedy", False, True),
    ("sdpa", "sampled", True, True),
    ("triton", "sampled", False, True),
    ("two ranks", "sampled", True, False),
]
KINDS = {
    "greedy": DecodingParams(),
    "sampled": DecodingParams(temperature=0.9, seed=11),
    "penalties": DecodingParams(frequency_penalty=0.6, repetition_penalty=1.3),
    "sampled penalties": DecodingParams(temperature=1.1, seed=3, presence_penalty=0.5),
    "banned words": DecodingParams(bad_words=[[7], [9, 11], [30, 31]]),
    "bias": DecodingParams(logit_bias={3: 2.0, 4: -100.0}),
    "least": DecodingParams(min_tokens=9),
    "allowed": DecodingParams(allowed_token_ids=[1, 2, 3, 8, 21, 34, 55]),
}


@pytest.mark.parametrize(("kind", "agreement"), matrix(list(KINDS), [0.0, 0.6, 1.0], strength=1))
def test_drafts_change_no_token(
    base: Path, adapter: Path, kind: str, agreement: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [
        msgspec.structs.replace(
            request, params=KINDS[kind], logprobs=2 if index % 2 else None, max_tokens=max(9, request.max_tokens)
        )
        for index, request in enumerate(random_requests(6, seed=2))
    ]
    truth = truth_of(base, requests)
    engine = drafting_engine(base, adapter, page_size=4)
    propose(engine, monkeypatch, truth, agreement)
    counted = count_accepted(engine, monkeypatch)
    assert_lossless(base, requests, run(engine, requests, join_every=2))
    _, drafted, accepted = counted()
    assert drafted > 50
    assert agreement == 0.0 or accepted > 0.4 * agreement * drafted


@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_of_longer_blocks_drafts_as_a_next_token_model(
    tmp_path: Path, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that predicts in place, but for a block's first token: here each block has no other."""
    base = build_checkpoint(tmp_path / "base", "causal_commit", seed=4, block_length=1)
    adapter = build_draft_adapter(tmp_path / "drafts", base, in_place=in_place)
    requests = [msgspec.structs.replace(each, max_tokens=12) for each in random_requests(4, seed=2)]
    engine = drafting_engine(base, adapter, page_size=4)
    propose(engine, monkeypatch, truth_of(base, requests), 0.6)
    counted = count_accepted(engine, monkeypatch)
    assert_lossless(base, requests, run(engine, requests, join_every=2))
    assert counted()[2] > 5


@pytest.mark.parametrize(
    ("backend", "kind", "in_place", "chained"),
    [
        pytest.param(*case, marks=[] if case in SAMPLED else [pytest.mark.whole])
        for case in itertools.product(
            ("sdpa", "triton", "two ranks"), ("greedy", "sampled"), (False, True), (False, True)
        )
    ],
)
def test_masked_rows_draft_what_a_forward_of_their_own_does(
    base: Path, tmp_path: Path, backend: str, kind: str, in_place: bool, chained: bool,
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """On two ranks each has its share of the adapter, and the gate opens on both."""
    adapter = build_draft_adapter(tmp_path / "drafts", base, in_place=in_place, chained=chained)
    options = {"tensor_parallel_size": 2} if backend == "two ranks" else {"attention_backend": backend}
    few = backend == "triton"  # It is interpreted.
    requests = [
        msgspec.structs.replace(each, params=KINDS[kind], max_tokens=4 if few else 16, ignore_eos=True)
        for each in random_requests(2 if few else 5, seed=3)
    ]
    truth = truth_of(base, requests)
    engine = drafting_engine(base, adapter, page_size=4, **options)
    request.addfinalizer(engine.close)
    propose(engine, monkeypatch, truth, 0.6)
    assert engine.runner.drafting is not None
    given, seen = engine.runner.drafting.verifier.propose, 0

    def proposed(work: RowWork, accepted: list[int], drafted: list[int]) -> list[int]:
        nonlocal seen
        (sequence,) = (each for each in engine.scheduler.running if each.row == work.row)
        assert (
            sequence.token_ids == (sequence.request.prompt_ids + truth[sequence.request.request_id])[: work.block_start]
        )
        # The last accepted token has no row yet: masked rows stand behind the one before it.
        known, following = sequence.token_ids + accepted[:-1], accepted[-1] if chained else None
        assert drafted == draft_by_hand(
            base, adapter, known, len(drafted), KINDS[kind], in_place=in_place, following=following
        )
        seen += len(drafted)
        return given(work, accepted, drafted)

    monkeypatch.setattr(engine.runner.drafting.verifier, "propose", proposed)
    assert_lossless(base, requests, run(engine, requests, join_every=3))
    assert seen > (3 if few else 60)


def test_rows_with_a_grammar_are_drafted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft that the grammar refuses is not accepted; the answers are those without drafts."""
    base = build_json_checkpoint(tmp_path / "base", AXIS, seed=6)
    adapter = build_draft_adapter(tmp_path / "drafts", base)
    requests = [
        constrained(name, name, prompt_ids=[5, 9, 2, 30], max_tokens=30, params=params)
        for name, params in zip(list(SCHEMAS)[:4], [*KINDS.values()][:4], strict=True)
    ]
    plain = run(Engine(EngineOptions(model=str(base), page_size=4)), requests)
    truth = {name: answer.token_ids for name, answer in plain.items()}
    engine = drafting_engine(base, adapter, page_size=4)
    propose(engine, monkeypatch, truth, 0.7)
    counted = count_accepted(engine, monkeypatch)
    answers = run(engine, requests, join_every=2)
    for request in requests:
        assert answers[request.request_id].token_ids == truth[request.request_id]
        assert answers[request.request_id].finish_reason == plain[request.request_id].finish_reason
    assert counted()[2] > 10


def test_a_verification_that_raises_in_its_middle_loses_no_token(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [msgspec.structs.replace(each, params=KINDS["penalties"]) for each in random_requests(4, seed=5)]
    truth = truth_of(base, requests)
    engine = drafting_engine(base, adapter, page_size=4)
    propose(engine, monkeypatch, truth, 1.0)
    decide, calls = engine.runner.denoiser.decide, 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise RuntimeError("injected")
        return decide(*args, **kwargs)

    monkeypatch.setattr(engine.runner.denoiser, "decide", failing)
    answers = run(engine, requests)
    ended = [request for request in requests if answers[request.request_id].finish_reason != "error"]
    assert len(ended) >= 2  # Others failed as the first of their step, again when they were tried alone.
    assert_lossless(base, ended, answers)


def test_logits_that_are_not_finite_end_their_own_request(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = 50
    requests = [each for each in random_requests(9, seed=8) if poison not in each.prompt_ids][:3]
    truth = truth_of(base, requests)
    engine = drafting_engine(base, adapter, page_size=4)
    propose(engine, monkeypatch, truth, 0.8)
    engine.runner.transformer.embed_tokens.weight[poison] = float("nan")
    bad = GenerateRequest(request_id="bad", prompt_ids=[3, poison, 4], max_tokens=20)
    whole = [each for each in requests if poison not in truth[each.request_id]]
    assert whole
    monkeypatch.setitem(truth, "bad", [1] * 20)
    answers = run(engine, [*whole, bad])
    assert answers["bad"].finish_reason == "error"
    assert_lossless(base, whole, answers)


def test_a_streamed_canvas_has_the_tokens_of_a_forward_as_one_block(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = GenerateRequest(request_id="r", prompt_ids=[5, 9, 2], max_tokens=20, ignore_eos=True, stream_canvas=True)
    truth = truth_of(base, [request])
    engine = drafting_engine(base, adapter, page_size=4)
    propose(engine, monkeypatch, truth, 1.0)
    engine.add(request)
    outputs = [output for _ in range(20) if engine.busy for output in engine.step().outputs]
    assert [token for output in outputs for token in output.token_ids] == truth["r"]
    for output in outputs:
        assert output.canvas is not None
        assert output.canvas.token_ids == output.token_ids
        assert output.canvas.steps == [1] * len(output.token_ids)
    assert max(len(output.token_ids) for output in outputs) == 1 + WINDOW


def test_a_crowded_step_does_not_draft(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [msgspec.structs.replace(each, max_tokens=12, ignore_eos=True) for each in random_requests(5, seed=1)]
    engine = drafting_engine(base, adapter, page_size=4, draft_rows=16)
    counted = count_accepted(engine, monkeypatch)
    assert_lossless(base, requests, run(engine, requests))
    assert counted() == (0, 0, 0)


def test_draws_of_verified_drafts_have_the_model_s_distribution(base: Path, adapter: Path) -> None:
    """Chi-square of the second drawn token, which follows a draft, against its probabilities by the slow decoder."""
    prompt, draws = [5, 9, 2], 1500
    weights = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    shape = load_checkpoint(base).transformer.config
    head = weights.get("lm_head.weight", weights["embed_tokens.weight"])

    def following(tokens: list[int]) -> torch.Tensor:
        sees = torch.ones(len(tokens), len(tokens)).tril().bool()
        return (head @ hidden_states(weights, shape, torch.tensor(tokens), sees)[-1]).softmax(-1)

    first = following(prompt)
    expected = draws * sum(share * following([*prompt, token]) for token, share in enumerate(first) if share > 1e-6)
    engine = drafting_engine(base, adapter, max_num_seqs=16)
    requests = [
        GenerateRequest(
            request_id=str(seed), prompt_ids=prompt, max_tokens=3, ignore_eos=True,
            params=DecodingParams(temperature=1.0, seed=seed),
        )
        for seed in range(draws)
    ]  # fmt: skip
    found = torch.zeros(len(head))
    for request in requests:
        engine.add(request)
    answers: dict[str, list[int]] = {request.request_id: [] for request in requests}
    while engine.busy:
        for output in engine.step().outputs:
            answers[output.request_id] += output.token_ids
    for tokens in answers.values():
        found[tokens[1]] += 1
    common = expected >= 5  # Rare tokens count as one.
    bins = torch.stack((expected, found))
    bins = torch.cat((bins[:, common], bins[:, ~common].sum(1, keepdim=True)), dim=1)
    statistic = ((bins[1] - bins[0]) ** 2 / bins[0]).sum()
    probability = torch.special.gammaincc(torch.tensor((bins.shape[1] - 1) / 2), statistic / 2)
    assert bins.shape[1] > 10
    assert probability > 1e-3
