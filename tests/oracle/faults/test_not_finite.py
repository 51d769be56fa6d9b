"""Logits that are NaN or infinite end the rows that have them, and no others, whatever they are asked for."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.row import NOT_FINITE
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import BlockOutput, GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import oracle_answer
from tests.support.models.checkpoints import AXES, MASK, axes, build_checkpoint

POISON = 50  # Its embedding is not finite in the checkpoints of these tests, and it is never the likeliest.


def poisoned(directory: Path, axis: str = "plain", value: float = math.nan, **manifest: Any) -> Path:
    """A checkpoint in which whoever sees the token ``POISON`` sees ``value``."""
    build_checkpoint(directory, axis, seed=4, **manifest)
    path = directory / "model.safetensors"
    weights = load_file(path)
    weights["embed_tokens.weight"][POISON, 3] = value
    weights["lm_head.weight"][POISON] = 0.0
    save_file(weights, path)
    return directory


def generate(name: str, prompt: list[int], **fields: Any) -> GenerateRequest:
    values = {"max_tokens": 20, "ignore_eos": True, **fields}
    return GenerateRequest(request_id=name, prompt_ids=prompt, **values)


def run(engine: Engine, requests: list[GenerateRequest | ScoreRequest]) -> tuple[dict[str, list[BlockOutput]], int]:
    """All outputs, and how many sequences the figures say had logits that are not finite."""
    for request in requests:
        engine.add(request)
    outputs: dict[str, list[BlockOutput]] = {request.request_id: [] for request in requests}
    counted = 0
    for _ in range(2000):
        if not engine.busy:
            break
        report = engine.step()
        counted += report.stats.nonfinite_sequences
        for output in report.outputs:
            outputs[output.request_id].append(output)
        engine.check()
    assert not engine.busy, "somebody waits for ever"
    assert engine.cache.pool.active == 0
    return outputs, counted


def assert_ended(outputs: list[BlockOutput]) -> None:
    assert [(output.finish_reason, output.error, output.token_ids) for output in outputs] == [("error", NOT_FINITE, [])]


ASKED = (
    {},
    {"params": DecodingParams(max_steps_per_block=3)},  # Several positions a step whatever their confidence.
    {"params": DecodingParams(decoding="fixed_steps", steps_per_block=2)},
    {"params": DecodingParams(decoding="factor")},
    {"params": DecodingParams(decoding="entropy_bound")},
    {"params": DecodingParams(temperature=0.8, top_p=0.9, top_k=9, min_p=0.01)},
    {"params": DecodingParams(repetition_penalty=1.4, presence_penalty=1.0)},
    {"params": DecodingParams(confidence_threshold=1.0), "logprobs": 3},
    {"stream_canvas": True, "stream_prefix": True},
)


@axes(*(axis for axis, (shape, _) in AXES.items() if not shape.get("tie_word_embeddings")))
def test_rows_that_see_a_nan_end_and_the_others_equal_the_oracle(tmp_path: Path, axis: str) -> None:
    directory = poisoned(tmp_path, axis)
    engine = Engine(EngineOptions(model=str(directory), page_size=4, max_num_seqs=32, max_prefill_tokens=24))
    sound = [generate(f"good{index}", [index + 1] * (index + 1)) for index in range(6)]
    sound.append(generate("good long", [(5 * place) % 40 for place in range(50)]))
    broken = [generate(f"bad{index}", [index + 1, POISON, 7], **fields) for index, fields in enumerate(ASKED)]
    # One that is taken in pieces, and one whose other tokens lie in other blocks.
    broken += [generate("bad long", [(5 * place) % 40 for place in range(49)] + [POISON])]
    broken += [generate("bad early", [POISON] + [(5 * place) % 40 for place in range(17)])]
    mixed = [request for pair in zip(broken, sound, strict=False) for request in pair] + broken[len(sound) :]
    for _ in range(2):  # Pages, rows and the prefix cache keep nothing for the second time.
        outputs, counted = run(engine, [*mixed, ScoreRequest(request_id="bad score", prompt_ids=[3, POISON, 4])])
        for request in broken:
            assert_ended(outputs[request.request_id])
        assert_ended(outputs["bad score"])
        assert counted == len(broken) + 1
        for request in sound:
            tokens = [token for output in outputs[request.request_id] for token in output.token_ids]
            assert tokens == oracle_answer(directory, request).token_ids


@pytest.mark.parametrize("guided", [False, True])
def test_a_nan_in_one_pass_of_a_guided_row_ends_it(tmp_path: Path, guided: bool) -> None:
    """The second pass alone sees masks in the place of the prompt."""
    directory = build_checkpoint(tmp_path, seed=4)
    weights = load_file(directory / "model.safetensors")
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    assert engine.runner.manifest.mask_token_id == MASK
    request = generate("a", [1, POISON if guided else 2, 3], params=DecodingParams(guidance_scale=1.0))
    weights["embed_tokens.weight"][POISON if guided else MASK] = math.inf
    engine.runner.transformer.embed_tokens.weight.copy_(weights["embed_tokens.weight"])
    assert_ended(run(engine, [request])[0]["a"])


@pytest.mark.parametrize("params", [{}, {"presence_penalty": 1.0}, {"max_steps_per_block": 2}])
@pytest.mark.parametrize(
    ("tokens", "value"), [(slice(9, 10), math.nan), (slice(None), math.inf), (slice(None), -math.inf)]
)
def test_a_broken_head_ends_every_row(tmp_path: Path, tokens: slice, value: float, params: dict[str, Any]) -> None:
    """In every row the logit of one token is NaN, or all logits are infinite, up or down."""
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path, seed=4)), page_size=4))
    head = engine.runner.transformer.lm_head.weight
    head[tokens], head[tokens, 2] = 0.0, value
    requests = [generate(str(index), [index + 1, 2], params=DecodingParams(**params)) for index in range(4)]
    outputs, counted = run(engine, requests)
    for found in outputs.values():
        assert_ended(found)
    assert counted == 4


def test_a_token_that_the_model_rules_out_is_no_error(tmp_path: Path) -> None:
    """A logit of -inf is a probability of 0, one of +inf none at all."""
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path, seed=4)), page_size=4))
    head = engine.runner.transformer.lm_head.weight
    head[9], head[9, 2] = 0.0, math.inf
    outputs, counted = run(engine, [generate(str(index), [index + 1, 2]) for index in range(8)])
    ends = [found[-1].error for found in outputs.values()]
    assert set(ends) == {None, NOT_FINITE}
    assert counted == ends.count(NOT_FINITE)
    assert 9 not in {token for found in outputs.values() for output in found for token in output.token_ids}


def test_a_row_ends_at_the_first_step_with_a_nan_wherever_it_lies(tmp_path: Path) -> None:
    """At one position that is not the next to be finalized, in a block that was sound until then."""
    directory = build_checkpoint(tmp_path, seed=4)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    forward, steps = engine.runner.forward, 0

    def spoiled(layout: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        hidden = forward(layout)
        if steps == 12:
            hidden[8 + int(engine.runner.canvas.masked[layout.rows[1]].nonzero()[-1])] = math.nan
        return hidden

    requests = [generate(name, [3, 4], params=DecodingParams(confidence_threshold=1.0)) for name in "abc"]
    for request in requests:
        engine.add(request)
    engine.runner.forward = spoiled  # type: ignore[method-assign]
    outputs = [output for _ in range(200) if engine.busy for output in engine.step().outputs]
    truth = oracle_answer(directory, requests[0]).token_ids
    for name in "ac":
        assert [token for output in outputs if output.request_id == name for token in output.token_ids] == truth
    first, end = [output for output in outputs if output.request_id == "b"]
    assert first.token_ids == truth[:8]
    assert_ended([end])


def test_nothing_that_is_left_in_memory_spoils_others(tmp_path: Path) -> None:
    """Pages of a row that was NaN are handed on; the page that padding once read belongs to it while others step."""
    directory = poisoned(tmp_path)
    engine = Engine(EngineOptions(model=str(directory), page_size=4, enable_prefix_caching=False))
    bad = generate("bad", [POISON] * 3)
    outputs, _ = run(engine, [bad, *(generate(f"good{index}", [9] * (index + 1)) for index in range(8))])
    assert_ended(outputs["bad"])
    for index in range(8):
        tokens = [token for output in outputs[f"good{index}"] for token in output.token_ids]
        assert tokens == oracle_answer(directory, generate("a", [9] * (index + 1))).token_ids
    assert bool(engine.runner.cache.keys.isfinite().all())
    assert bool(engine.runner.cache.values.isfinite().all())


@pytest.mark.parametrize("end", ["fails", "is aborted", "is preempted"])
@pytest.mark.parametrize("kind", ["staged", "score"])
@pytest.mark.parametrize("axis", ["plain", "absolute"])
def test_what_is_written_before_anybody_looks_at_a_logit_is_zeroed(
    tmp_path: Path, axis: str, kind: str, end: str
) -> None:
    """A long prompt and a scored one are computed in several steps, of which the first bring no logits."""
    engine = Engine(EngineOptions(model=str(poisoned(tmp_path, axis)), page_size=4, max_prefill_tokens=24))
    prompt = [POISON, *((5 * place) % 40 for place in range(60))]
    engine.add(generate("a", prompt) if kind == "staged" else ScoreRequest(request_id="a", prompt_ids=prompt))
    seen = False
    for _ in range(200):
        if not engine.busy:
            break
        engine.step()
        if engine.busy and not finite(engine):
            seen = True
            if end == "is aborted":
                engine.abort("a")
            elif end == "is preempted" and engine.scheduler.running:
                engine.scheduler._preempt(engine.scheduler.running[0])
                assert finite(engine)
                end = "fails"
    assert seen
    assert not engine.busy
    assert finite(engine)


def finite(engine: Engine) -> bool:
    return bool(engine.runner.cache.keys.isfinite().all() and engine.runner.cache.values.isfinite().all())
