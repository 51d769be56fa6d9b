"""With a guide model a step finalizes what both models would write, and the first token on which they differ."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.torch import load_file

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.row import GUIDE_NOT_FINITE
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import Answer, assert_equal_to_oracle, oracle_answer, random_requests, run
from tests.support.guides import (
    FAVORITES,
    build_guide,
    favor_two_tokens,
    flatten_head,
    guided_engine,
    oracle_guide,
    pair,
)
from tests.support.matrix import matrix
from tests.support.models.checkpoints import MASK, MASKED_AXES, ONE_HALF, VOCAB, build_checkpoint
from tests.support.models.grammars import SCHEMAS, FreshGrammar, build_json_checkpoint
from tests.support.models.grammars import VOCAB as JSON_VOCAB
from tests.support.models.hf_block_checkpoints import build
from tests.support.models.hf_checkpoints import build_dream, build_llada
from tests.support.oracle.decoder import decode
from tests.support.oracle.edits import OracleEdits
from tests.support.structured import VOCABULARY, constrained

AXES = [axis for axis in MASKED_AXES if axis != "autoregressive"]
KINDS = {
    "greedy": DecodingParams(),
    "sampled": DecodingParams(temperature=0.9, seed=11),
    "penalties": DecodingParams(frequency_penalty=0.6, repetition_penalty=1.3),
    "sampled penalties": DecodingParams(temperature=1.1, seed=3, presence_penalty=0.5),
    "banned words": DecodingParams(bad_words=[[7], [FAVORITES[0], FAVORITES[1]], [FAVORITES[1]] * 3]),
    "bias": DecodingParams(logit_bias={FAVORITES[0]: -2.0, 4: -100.0}),
    "least": DecodingParams(min_tokens=9),
    "allowed": DecodingParams(allowed_token_ids=[1, 2, *FAVORITES, 34, 55]),
    "classifier-free": DecodingParams(guidance_scale=0.7),
    "threshold": DecodingParams(confidence_threshold=0.5),
    "entropy": DecodingParams(decoding="entropy_bound", entropy_bound=1.5),
}


def tokens_per_step(answers: dict[str, Answer]) -> float:
    return sum(len(answer.token_ids) for answer in answers.values()) / sum(
        sum(answer.steps) for answer in answers.values()
    )


@pytest.mark.parametrize(("axis", "block"), matrix(AXES, [4, 8], strength=1, first=ONE_HALF))
def test_a_mixed_batch_equals_the_slow_decoder(tmp_path: Path, axis: str, block: int) -> None:
    """Prompts of every length modulo the block, and rows of other rules beside those that are guided."""
    model, guide = pair(tmp_path, axis, block_length=block)
    requests = [
        msgspec.structs.replace(
            request, prompt_ids=(request.prompt_ids * 20)[: 9 + index], max_tokens=min(22, request.max_tokens)
        )
        for index, request in enumerate(random_requests(8, seed=4))
    ]
    answers = run(guided_engine(model, guide, max_num_seqs=6), requests, join_every=2)
    assert_equal_to_oracle(model, requests, answers, oracle_guide(guide))


def test_ranks_share_the_model_and_the_leader_has_the_guide(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model, guide = pair(tmp_path)
    engine = guided_engine(model, guide, tensor_parallel_size=2, max_num_seqs=4, max_prefill_tokens=3)
    request.addfinalizer(engine.close)
    requests = random_requests(6, seed=4)
    for _ in range(2):  # The second time from the prefix cache.
        answers = run(engine, requests, join_every=2)
        assert_equal_to_oracle(model, requests, answers, oracle_guide(guide))


@pytest.mark.parametrize(
    ("axis", "kind"), matrix(["plain", "shifted", "absolute_shifted", "causal_prompt"], list(KINDS), strength=1)
)
def test_draws_and_edits_equal_the_slow_decoder(tmp_path: Path, axis: str, kind: str) -> None:
    model, guide = pair(tmp_path, axis)
    requests = [
        msgspec.structs.replace(
            request,
            params=KINDS[kind if index % 3 else "greedy"],
            logprobs=2 if index % 2 else None,
            max_tokens=min(20, max(9, request.max_tokens)),
        )
        for index, request in enumerate(random_requests(5, seed=2))
    ]
    answers = run(guided_engine(model, guide), requests, join_every=1)
    assert_equal_to_oracle(model, requests, answers, oracle_guide(guide))
    for request in requests:
        if request.logprobs is not None:
            scores = oracle_answer(model, request, oracle_guide(guide)).scores
            for entry, (values, step) in zip(answers[request.request_id].logprobs, scores, strict=True):
                assert entry.logprob == pytest.approx(float(values[entry.token_id]), abs=1e-4)
                assert entry.step == step


@pytest.mark.parametrize(
    ("family", "block", "kind"), matrix(["Dream", "LLaDA"], [4, 8], ["greedy", "sampled"], strength=1)
)
def test_hugging_face_checkpoints_with_a_llama(tmp_path: Path, family: str, block: int, kind: str) -> None:
    """The guide's vocabulary lacks the mask, or is padded."""
    model, guide = tmp_path / "model", tmp_path / "guide"
    (build_dream if family == "Dream" else build_llada)(model)
    vocabulary = {4: 263, 8: 272}[block]
    build(guide, "llama", seed=3, vocab_size=vocabulary, max_position_embeddings=512)
    for file in (path for path in model.iterdir() if path.suffix != ".safetensors" and path.name != "config.json"):
        shutil.copy(file, guide)
    options = {"block_length": block, "confidence_threshold": 0.4, "max_model_len": 128}
    engine = guided_engine(model, guide, **options)
    requests = [
        msgspec.structs.replace(request, params=KINDS[kind], ignore_eos=True, max_tokens=12)
        for request in random_requests(4, seed=1)
    ]
    loaded = load_checkpoint(model, **options)  # type: ignore[arg-type]
    weights = {name: weight.float() for name, weight in loaded.transformer.named_parameters()}
    answers = run(engine, requests)
    for request in requests:
        truth = decode(
            weights, loaded.transformer.config, loaded.manifest, request.prompt_ids, request.max_tokens, rule="guide",
            guide=oracle_guide(guide), ignore_eos=True, temperature=request.params.temperature,
            seed=request.params.seed or 0,
        )  # fmt: skip
        assert answers[request.request_id].token_ids == truth.token_ids
        assert answers[request.request_id].steps == truth.steps


@pytest.mark.slow
@pytest.mark.whole
def test_with_kernels_the_tokens_are_the_same(tmp_path: Path) -> None:
    """In Triton's interpreter, which also draws for both models on what would be the device."""
    model, guide = pair(tmp_path, "shifted")
    requests = [
        msgspec.structs.replace(each, params=KINDS[kind], max_tokens=4, prompt_ids=each.prompt_ids[:4], ignore_eos=True)
        for each, kind in zip(random_requests(2, seed=2), ("sampled", "greedy"), strict=True)
    ]
    answers = run(guided_engine(model, guide, attention_backend="triton"), requests)
    assert_equal_to_oracle(model, requests, answers, oracle_guide(guide))


def test_models_that_agree_now_and_then_write_several_tokens_per_step(tmp_path: Path) -> None:
    """Guards the tests above: guides that never agree would make them vacuous."""
    model, guide = pair(tmp_path)
    requests = [
        msgspec.structs.replace(each, params=DecodingParams(), max_tokens=40, ignore_eos=True)
        for each in random_requests(6, seed=2)
    ]
    assert tokens_per_step(run(guided_engine(model, guide), requests)) > 1.5


@pytest.mark.parametrize("vocabulary", [MASK, VOCAB, VOCAB + 16])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_guide_that_always_agrees_takes_one_step_per_block(
    tmp_path: Path, temperature: float, vocabulary: int
) -> None:
    """Where all logits are alike, the noise of a position decides; it is the same for both models."""
    model = flatten_head(build_checkpoint(tmp_path / "model"))
    guide = flatten_head(build_guide(tmp_path / "guide", vocab_size=vocabulary))
    params = DecodingParams(temperature=temperature, seed=5)
    request = GenerateRequest(request_id="r", prompt_ids=[5, 9, 2], max_tokens=32, ignore_eos=True, params=params)
    answer = run(guided_engine(model, guide), [request])["r"]
    assert answer.steps == [1] * 4
    expected = oracle_answer(model, request, oracle_guide(guide)).token_ids if temperature else [0] * 32
    assert answer.token_ids == expected


def test_a_guide_that_never_agrees_is_one_token_per_step_from_left_to_right(tmp_path: Path) -> None:
    model = build_checkpoint(tmp_path / "model")
    guide = flatten_head(build_guide(tmp_path / "guide"))  # It always says token 0.
    request = GenerateRequest(
        request_id="r", prompt_ids=[5, 9, 2], max_tokens=24, ignore_eos=True, stream_canvas=True,
        params=DecodingParams(logit_bias={0: -100.0}),
    )  # fmt: skip
    engine = guided_engine(model, guide)
    engine.add(request)
    outputs = [output for _ in range(30) if engine.busy for output in engine.step().outputs]
    assert [output.denoise_steps for output in outputs if not output.partial] == [8] * 3
    for output in outputs:
        assert output.canvas is not None
        assert output.canvas.steps == [*range(1, output.canvas.step + 1), *[None] * (8 - output.canvas.step)]


def test_a_filter_that_leaves_one_token_makes_both_models_greedy(tmp_path: Path) -> None:
    model, guide = pair(tmp_path)
    greedy = random_requests(4, seed=2)
    filters: list[dict[str, Any]] = [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"top_k": 2, "top_p": 1e-6}]
    filtered = [
        msgspec.structs.replace(each, params=DecodingParams(temperature=1.5, seed=1, **filtering))
        for each, filtering in zip(greedy, filters, strict=True)
    ]
    greedy = [msgspec.structs.replace(each, params=DecodingParams()) for each in greedy]
    found = run(guided_engine(model, guide), filtered)
    for name, answer in run(guided_engine(model, guide), greedy).items():
        assert (found[name].token_ids, found[name].steps) == (answer.token_ids, answer.steps)


@pytest.mark.parametrize("axis", ["plain", "absolute_shifted"])
def test_most_steps_per_block_are_kept_from_the_left(tmp_path: Path, axis: str) -> None:
    model = build_checkpoint(tmp_path / "model", axis)
    guide = flatten_head(build_guide(tmp_path / "guide"))
    params = DecodingParams(logit_bias={0: -100.0}, max_steps_per_block=3)
    request = GenerateRequest(
        request_id="r", prompt_ids=[5] * 8, max_tokens=8, ignore_eos=True, params=params, stream_canvas=True
    )
    engine = guided_engine(model, guide)
    engine.add(request)
    outputs = [output for _ in range(9) if engine.busy for output in engine.step().outputs]
    canvas = outputs[-1].canvas
    assert canvas is not None
    assert canvas.steps == [1, 1, 1, 2, 2, 2, 3, 3]


def test_rows_with_a_grammar_take_what_both_the_guide_and_the_grammar_admit(tmp_path: Path) -> None:
    model = build_json_checkpoint(tmp_path / "model", "plain", seed=6)
    guide = build_guide(tmp_path / "guide", vocab_size=JSON_VOCAB)
    for file in model.glob("*token*"):
        shutil.copy(file, guide)
    for each in (model, guide):
        favor_two_tokens(each, (30, 31))
    requests = [constrained(name, name, prompt_ids=[5, 9, 2, 30], max_tokens=30) for name in list(SCHEMAS)[:5]]
    answers = run(guided_engine(model, guide), requests, join_every=2)
    checkpoint = load_checkpoint(model)
    weights = {name: tensor.float() for name, tensor in load_file(model / "model.safetensors").items()}
    for request in requests:
        manifest = checkpoint.manifest
        assert request.grammar is not None
        truth = decode(
            weights, checkpoint.transformer.config, manifest, list(request.prompt_ids), request.max_tokens,
            rule="guide", guide=oracle_guide(guide), edits=OracleEdits(),
            grammar=FreshGrammar(request.grammar, VOCABULARY, list(manifest.stop_token_ids), manifest.max_model_len),
        )  # fmt: skip
        answer = answers[request.request_id]
        assert (answer.token_ids, answer.steps) == (truth.token_ids, truth.steps)


def test_tokens_that_the_guide_does_not_know_are_its_last_one(tmp_path: Path) -> None:
    model, guide = tmp_path / "model", tmp_path / "guide"
    build_checkpoint(model)
    build_guide(guide, vocab_size=40)
    request = GenerateRequest(
        request_id="r", prompt_ids=[5, MASK, 50, 41, 7], max_tokens=24, ignore_eos=True, params=DecodingParams()
    )
    answers = run(guided_engine(model, guide, max_prefill_tokens=1), [request])
    assert_equal_to_oracle(model, [request], answers, oracle_guide(guide))


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_a_guide_that_is_not_finite_ends_its_own_request_and_leaves_nothing(
    tmp_path: Path, threshold: float | None, staged: bool
) -> None:
    model, guide = pair(tmp_path)
    engine = guided_engine(model, guide, max_prefill_tokens=2 if staged else 512)
    assert engine.runner.guiding is not None
    poison = 50
    engine.runner.guiding.transformer.embed_tokens.weight[poison] = float("nan")
    params = DecodingParams(confidence_threshold=threshold)
    bad = GenerateRequest(request_id="bad", prompt_ids=[3, 4, poison, *range(1, 12)], max_tokens=20, params=params)
    outputs = []
    engine.add(bad)
    while engine.busy:
        outputs += engine.step().outputs
        engine.check()
    assert [output.error for output in outputs] == [GUIDE_NOT_FINITE]
    assert engine.runner.guiding.cache.keys.isfinite().all()
    assert engine.runner.guiding.cache.values.isfinite().all()
    good = GenerateRequest(request_id="good", prompt_ids=[3, 4, *range(1, 12)], max_tokens=20, ignore_eos=True)
    truth = oracle_answer(model, good, oracle_guide(guide))
    assert poison not in truth.token_ids
    answers = run(engine, [good])
    assert answers["good"].token_ids == truth.token_ids


def test_without_a_guide_the_rule_is_refused(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path))))
    request = GenerateRequest(request_id="r", prompt_ids=[1], max_tokens=2, params=DecodingParams(decoding="guide"))
    with pytest.raises(RequestError, match="decoding: the rule guide needs a guide model"):
        engine.add(request)
