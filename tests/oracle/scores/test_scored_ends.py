"""Scores of a text's end equal the slow chain rule, whatever the prefix cache has of its beginning."""

import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import BlockOutput, GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions
from tests.oracle.scores.test_scoring import run
from tests.support.models.checkpoints import EOS, OTHER_HALF, axes, build_checkpoint
from tests.support.oracle.scoring import score_prompt


def scores(output: BlockOutput) -> list[float]:
    return [entry.logprob for entry in output.logprobs or []]


def truth(directory: Path, ids: list[int], start: int) -> list[float]:
    checkpoint = load_checkpoint(directory)
    weights = {name: tensor.float() for name, tensor in load_file(directory / "model.safetensors").items()}
    found = score_prompt(weights, checkpoint.transformer.config, checkpoint.manifest, ids)
    return [float(line[token]) for line, token in zip(found, ids[1:], strict=True)][start - 1 :]


@axes(sample=OTHER_HALF)
def test_ends_of_texts_share_what_is_before_them(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=5)
    rng = random.Random(3)
    for page_size in (4, 32):
        engine = Engine(EngineOptions(model=str(directory), max_num_seqs=8, page_size=page_size))
        shared = [rng.randrange(EOS) for _ in range(67)]
        texts = [shared + [rng.randrange(EOS) for _ in range(length)] for length in (1, 2, 3, 9, 21)]
        wanted = [truth(directory, ids, len(shared)) for ids in texts]
        first = run(engine, ScoreRequest(request_id="first", prompt_ids=texts[0], start=len(shared)))["first"]
        assert first.cached_tokens == 0
        assert scores(first) == pytest.approx(wanted[0], abs=1e-4)
        # An answer to the same prompt beside them has keys and values that may or may not be the same.
        others = [
            ScoreRequest(request_id=str(number), prompt_ids=ids, start=len(shared)) for number, ids in enumerate(texts)
        ]
        generated = GenerateRequest(request_id="g", prompt_ids=shared, max_tokens=9, ignore_eos=True)
        outputs = run(engine, *others, generated)
        for number, expected in enumerate(wanted):
            assert outputs[str(number)].cached_tokens >= 32
            assert scores(outputs[str(number)]) == pytest.approx(expected, abs=1e-4)
            assert [entry.token_id for entry in outputs[str(number)].logprobs or []] == texts[number][len(shared) :]


@pytest.mark.parametrize(
    "axis", ["plain", "absolute", "absolute_shifted", "causal_commit", "autoregressive_without_mask"]
)
def test_answers_and_scores_read_the_cache_of_each_other(tmp_path: Path, axis: str) -> None:
    """Texts whose prompts are computed alike share entries; those of other checkpoints do not meet."""
    directory = build_checkpoint(tmp_path, axis, seed=5)
    ids = list(range(1, 49))
    asked = GenerateRequest(request_id="g", prompt_ids=ids, max_tokens=8, ignore_eos=True)
    scored = ScoreRequest(request_id="s", prompt_ids=[*ids, 5], start=len(ids))
    alone = run(Engine(EngineOptions(model=str(directory), page_size=4)), asked)["g"].token_ids
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    alike = load_checkpoint(directory).manifest.prompt_attention != "full"
    assert scores(run(engine, scored)["s"]) == pytest.approx(truth(directory, scored.prompt_ids, len(ids)), abs=1e-4)
    answer = run(engine, asked)["g"]
    assert answer.token_ids == alone
    assert (answer.cached_tokens > 0) == alike
    other = Engine(EngineOptions(model=str(directory), page_size=4))
    run(other, asked)
    found = run(other, scored)["s"]
    assert (found.cached_tokens > 0) == alike
    assert scores(found) == pytest.approx(truth(directory, scored.prompt_ids, len(ids)), abs=1e-4)


def test_other_salts_and_no_prefix_caching_share_nothing(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=5)
    ids = list(range(1, 49))
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    for salt in ("", "a", "b"):
        asked = ScoreRequest(request_id="s", prompt_ids=ids, start=40, cache_salt=salt)
        assert run(engine, asked)["s"].cached_tokens == 0
        assert run(engine, asked)["s"].cached_tokens > 0
    closed = Engine(EngineOptions(model=str(directory), page_size=4, enable_prefix_caching=False))
    for _ in range(2):
        assert run(closed, ScoreRequest(request_id="s", prompt_ids=ids, start=40))["s"].cached_tokens == 0


def test_scores_that_are_aborted_leave_the_cache_as_it_was(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=5)
    engine = Engine(EngineOptions(model=str(directory), page_size=4, max_num_batched_tokens=64, max_prefill_tokens=24))
    ids = list(range(1, 49))
    asked = ScoreRequest(request_id="s", prompt_ids=ids, start=40)
    before = scores(run(engine, asked)["s"])
    longer = ScoreRequest(request_id="t", prompt_ids=ids + ids, start=90)
    engine.add(longer)
    engine.step()
    engine.abort("t")
    engine.check()
    after = run(engine, asked)["s"]
    assert after.cached_tokens > 0
    assert scores(after) == pytest.approx(before, abs=1e-5)


def test_the_figures_count_what_is_found(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=5)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    ids = list(range(1, 49))
    for cached in (False, True):
        engine.add(ScoreRequest(request_id="s", prompt_ids=ids, start=40))
        stats = engine.step().stats
        assert stats.admitted_prompt_tokens == len(ids)
        assert (stats.cached_prompt_tokens > 0) == cached
        while engine.busy:
            assert engine.step().stats.admitted_prompt_tokens == 0


@pytest.mark.parametrize("start", [-1, 0, 3, 4])
def test_a_start_outside_the_text_is_refused(tmp_path: Path, start: int) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4))
    with pytest.raises(RequestError, match="start"):
        engine.add(ScoreRequest(request_id="a", prompt_ids=[1, 2, 3], start=start))
    assert not engine.busy
