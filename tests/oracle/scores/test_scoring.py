"""Scores of prompts equal the slow chain rule on every axis, whatever runs beside them, and leave nothing behind."""

import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import BlockOutput, GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.models.checkpoints import EOS, MASK, ONE_HALF, VOCAB, axes, build_checkpoint
from tests.support.oracle.scoring import score_prompt


def prompts(count: int, seed: int, longest: int = 40) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(EOS + 1) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def run(engine: Engine, *requests: GenerateRequest | ScoreRequest) -> dict[str, BlockOutput]:
    """Adds requests; returns the last output of each that the engine had or got."""
    for request in requests:
        engine.add(request)
    last = {}
    while engine.busy:
        for output in engine.step().outputs:
            assert output.error is None
            last[output.request_id] = output
        engine.check()
    assert engine.cache.pool.active == 0
    return last


def assert_scores(directory: Path, prompt: list[int], output: BlockOutput, top: int) -> None:
    checkpoint = load_checkpoint(directory)
    weights = {name: tensor.float() for name, tensor in load_file(directory / "model.safetensors").items()}
    truth = score_prompt(weights, checkpoint.transformer.config, checkpoint.manifest, prompt)
    assert (output.token_ids, output.finish_reason) == ([], "length")
    assert output.logprobs is not None
    assert [entry.token_id for entry in output.logprobs] == prompt[1:]
    for entry, expected in zip(output.logprobs, truth, strict=True):
        assert entry.logprob == pytest.approx(float(expected[entry.token_id]), abs=1e-4)
        assert entry.top_logprobs == pytest.approx(expected.topk(top).values.tolist(), abs=1e-4)
        assert dict(zip(entry.top_ids, entry.top_logprobs, strict=True)).get(entry.token_id, entry.logprob) == (
            entry.logprob
        )
        assert entry.step == 0


@axes(sample=ONE_HALF)
def test_scores_equal_the_slow_chain_rule_beside_generation(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=5)
    # Pages smaller than a block, and pages in which several blocks begin.
    for page_size in (4, 32):
        engine = Engine(EngineOptions(model=str(directory), max_num_seqs=8, page_size=page_size))
        wanted = prompts(5, seed=page_size)
        for index, prompt in enumerate(wanted):
            engine.add(ScoreRequest(request_id=f"s{index}", prompt_ids=prompt, logprobs=index))
            engine.add(GenerateRequest(request_id=f"g{index}", prompt_ids=prompt, max_tokens=9, ignore_eos=True))
        outputs = run(engine)
        assert len(outputs) == 10
        for index, prompt in enumerate(wanted):
            assert_scores(directory, prompt, outputs[f"s{index}"], index)


@pytest.mark.parametrize("axis", ["plain", "absolute_shifted"])
def test_scores_in_little_room_and_few_tokens_a_step(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=5, max_model_len=48)
    roomy = Engine(EngineOptions(model=str(directory), page_size=4))
    page = roomy.runner.cache.keys[:, :4].numel() * 2 * 4
    options = EngineOptions(
        model=str(directory), page_size=4, kv_cache_memory=15 * page,
        max_num_batched_tokens=64, max_prefill_tokens=24,
    )  # fmt: skip
    engine = Engine(options)
    wanted = prompts(6, seed=1, longest=48)
    for index, prompt in enumerate(wanted):
        engine.add(ScoreRequest(request_id=str(index), prompt_ids=prompt, logprobs=1))
        engine.add(GenerateRequest(request_id=f"g{index}", prompt_ids=[1, 2], max_tokens=30, ignore_eos=True))
    outputs = run(engine)
    for index, prompt in enumerate(wanted):
        assert_scores(directory, prompt, outputs[str(index)], 1)


def test_scores_do_not_wait_for_ever(tmp_path: Path) -> None:
    """Generation that fills every step leaves a part of every other one."""
    directory = build_checkpoint(tmp_path, "plain", seed=5, max_model_len=48)
    options = EngineOptions(
        model=str(directory), page_size=4, max_num_seqs=8, max_num_batched_tokens=64, max_prefill_tokens=24
    )
    engine = Engine(options)
    for index in range(40):
        request = GenerateRequest(request_id=f"g{index}", prompt_ids=[1, 2], max_tokens=40, ignore_eos=True)
        engine.add(request)
    engine.add(ScoreRequest(request_id="s", prompt_ids=list(range(30))))
    ended = []
    while engine.busy:
        ended += [output.request_id for output in engine.step().outputs if output.finish_reason]
    assert ended.index("s") < 10


def test_scores_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=5)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    wanted = prompts(6, seed=3)
    for index, prompt in enumerate(wanted):
        engine.add(ScoreRequest(request_id=str(index), prompt_ids=prompt))
    together = run(engine)
    for index, prompt in enumerate(wanted):
        engine.add(ScoreRequest(request_id="a", prompt_ids=prompt))
        alone = [entry.logprob for entry in run(engine)["a"].logprobs or []]
        assert [entry.logprob for entry in together[str(index)].logprobs or []] == pytest.approx(alone, abs=1e-5)


def test_an_abort_frees_the_pages(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4, max_num_seqs=2))
    for index in range(4):
        engine.add(ScoreRequest(request_id=str(index), prompt_ids=list(range(30))))
    engine.step()
    assert engine.cache.pool.active > 0
    for index in range(4):
        engine.abort(str(index))
    engine.check()
    assert not engine.busy
    assert engine.cache.pool.active == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_ids": []}, "prompt is empty"),
        ({"prompt_ids": [1, VOCAB]}, "outside"),
        ({"prompt_ids": [-1]}, "outside"),
        ({"prompt_ids": [1, MASK]}, "mask token"),
        ({"prompt_ids": [1] * 257}, "exceeds the context"),
        ({"prompt_ids": [1], "logprobs": 21}, "logprobs"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path: Path, fields: dict, message: str) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4))
    with pytest.raises(RequestError, match=message):
        engine.add(ScoreRequest(request_id="a", **fields))
    assert not engine.busy
