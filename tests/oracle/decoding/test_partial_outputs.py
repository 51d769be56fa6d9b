"""Parts of a block before it is finished: what was sent never changes, and all of it is the whole block's."""

from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import BlockOutput, GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import Answer, random_requests
from tests.support.models.checkpoints import ONE_HALF, axes, build_checkpoint


def outputs_of(engine: Engine, requests: list[GenerateRequest]) -> dict[str, list[BlockOutput]]:
    for request in requests:
        engine.add(request)
    outputs: dict[str, list[BlockOutput]] = defaultdict(list)
    while engine.busy:
        for output in engine.step().outputs:
            outputs[output.request_id].append(output)
        engine.check()
    return outputs


@axes(sample=ONE_HALF)
def test_prefixes_join_to_the_answer_by_blocks(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=1)
    requests = [
        msgspec.structs.replace(request, logprobs=1 if index % 2 else None)
        for index, request in enumerate(random_requests(10, seed=1))
    ]
    options = EngineOptions(model=str(directory), page_size=4)
    whole = outputs_of(Engine(options), requests)
    parts = outputs_of(Engine(options), [msgspec.structs.replace(request, stream_prefix=True) for request in requests])
    partial = 0
    for request in requests:
        expected, found = (Answer(outputs[request.request_id]) for outputs in (whole, parts))
        assert found.token_ids == expected.token_ids
        assert found.logprobs == expected.logprobs
        assert found.step_map == expected.step_map
        assert found.finish_reason == expected.finish_reason
        complete = [output.denoise_steps for output in parts[request.request_id] if not output.partial]
        assert complete == expected.steps
        for output in parts[request.request_id]:
            partial += output.partial
            assert not output.partial or (output.token_ids and output.finish_reason is None)
    # Blocks of one token have no parts.
    assert (partial == 0) == axis.startswith("autoregressive")


@pytest.mark.parametrize("axis", ["plain", "shifted", "absolute_shifted"])
def test_the_canvas_is_shown_after_every_step_and_only_fills_up(tmp_path: Path, axis: str) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path, axis, seed=1)), page_size=4))
    request = GenerateRequest(request_id="a", prompt_ids=[5, 9, 2], max_tokens=21, ignore_eos=True, stream_canvas=True)
    outputs = outputs_of(engine, [request])["a"]
    text: list[int] = []
    before: list[int | None] = []
    for output in outputs:
        canvas = output.canvas
        assert canvas is not None
        before = before or [None] * len(canvas.token_ids)
        for was, now, step in zip(before, canvas.token_ids, canvas.steps, strict=True):
            assert was in (None, now)
            assert (now is None) == (step is None)
            if was is None and now is not None:
                assert step == canvas.step
        before = canvas.token_ids
        assert bool(output.token_ids) != output.partial
        if not output.partial:
            assert canvas.token_ids[: len(output.token_ids)] == output.token_ids
            assert output.denoise_steps == canvas.step
            text += output.token_ids
            before = []
    assert len(text) == 21
    assert len(outputs) == sum(output.denoise_steps for output in outputs)


def test_a_preempted_block_repeats_nothing_it_has_sent(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=3, max_model_len=96)
    requests = [msgspec.structs.replace(each, stream_prefix=True) for each in random_requests(8, seed=3)]
    roomy = Engine(EngineOptions(model=str(directory), page_size=4))
    expected = outputs_of(roomy, requests)
    page = roomy.runner.cache.keys[:, :4].numel() * 2 * 4
    engine = Engine(EngineOptions(model=str(directory), page_size=4, kv_cache_memory=30 * page))
    found = outputs_of(engine, requests)
    assert engine.scheduler.preemptions > 0
    for name in expected:
        assert Answer(found[name]).token_ids == Answer(expected[name]).token_ids
        assert Answer(found[name]).step_map == Answer(expected[name]).step_map
