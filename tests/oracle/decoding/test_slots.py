"""Slots that are masked together have the slow decoder's log-probabilities on every axis, whatever runs beside them."""

import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import BlockOutput, GenerateRequest, ScoreRequest, Slot
from cdlm.scheduler.options import EngineOptions
from tests.oracle.scores.test_scoring import run
from tests.support.models.checkpoints import EOS, MASK, ONE_HALF, axes, build_checkpoint
from tests.support.oracle.scoring import score_slots


def requests(count: int, seed: int, longest: int = 40) -> list[ScoreRequest]:
    """Prompts with slots in their last third, over one block or several, each with some candidates."""
    rng, made = random.Random(seed), []
    for number in range(count):
        prompt = [rng.randrange(EOS + 1) for _ in range(rng.randint(2, longest))]
        behind = range(max(1, len(prompt) * 2 // 3), len(prompt))
        positions = sorted(rng.sample(behind, rng.randint(1, len(behind))))
        slots = [Slot(position, rng.sample(range(EOS + 1), rng.randint(1, 5))) for position in positions]
        made.append(ScoreRequest(request_id=f"s{number}", prompt_ids=prompt, slots=slots))
    return made


def denoises(directory: Path) -> bool:
    manifest = load_checkpoint(directory).manifest
    return manifest.block_length > 1


def assert_slots(directory: Path, request: ScoreRequest, output: BlockOutput) -> None:
    checkpoint = load_checkpoint(directory)
    weights = {name: tensor.float() for name, tensor in load_file(directory / "model.safetensors").items()}
    positions = [slot.position for slot in request.slots]
    config, manifest = checkpoint.transformer.config, checkpoint.manifest
    truth = score_slots(weights, config, manifest, request.prompt_ids, positions)
    wanted = [
        (token, float(row[token])) for slot, row in zip(request.slots, truth, strict=True) for token in slot.candidates
    ]
    assert output.logprobs is not None
    assert [entry.token_id for entry in output.logprobs] == [token for token, _ in wanted]
    assert [entry.logprob for entry in output.logprobs] == pytest.approx([value for _, value in wanted], abs=1e-4)
    assert output.finish_reason == "length"


@axes(sample=ONE_HALF)
def test_slots_equal_the_slow_decoder_beside_generation(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=5)
    for page_size in (4, 32):
        engine = Engine(EngineOptions(model=str(directory), max_num_seqs=8, page_size=page_size))
        made = requests(5, seed=page_size)
        if not denoises(directory):
            with pytest.raises(RequestError, match="denoises blocks"):
                engine.add(made[0])
            continue
        for index, request in enumerate(made):
            engine.add(request)
            prompt = request.prompt_ids
            engine.add(GenerateRequest(request_id=f"g{index}", prompt_ids=prompt, max_tokens=9, ignore_eos=True))
            engine.add(ScoreRequest(request_id=f"c{index}", prompt_ids=prompt))
        outputs = run(engine)
        for request in made:
            assert_slots(directory, request, outputs[request.request_id])


def test_slots_do_not_depend_on_the_batch_or_the_cache(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=5)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    made = requests(6, seed=3)
    for request in made:
        engine.add(request)
    together = run(engine)
    for request in made:
        engine.add(request)
        alone = run(engine)[request.request_id]
        found = [entry.logprob for entry in together[request.request_id].logprobs or []]
        assert [entry.logprob for entry in alone.logprobs or []] == pytest.approx(found, abs=1e-5)


def test_slots_that_cannot_be(tmp_path: Path) -> None:
    engine = Engine(
        EngineOptions(model=str(build_checkpoint(tmp_path)), max_num_batched_tokens=64, max_prefill_tokens=24)
    )
    prompt = list(range(10)) * 3
    for slots, words in (
        ([Slot(0, [1])], "but the first"),
        ([Slot(30, [1])], "but the first"),
        ([Slot(5, [1]), Slot(4, [1])], "in rising order"),
        ([Slot(5, [1]), Slot(5, [1])], "in rising order"),
        ([Slot(5, [])], "needs candidates"),
        ([Slot(5, [MASK])], "needs candidates"),
        ([Slot(5, [10**6])], "needs candidates"),
        ([Slot(1, [1])], "more than 16 positions"),
    ):
        with pytest.raises(RequestError, match=words):
            engine.add(ScoreRequest(request_id="s", prompt_ids=prompt, slots=slots))
    assert not engine.busy


def test_an_abort_frees_the_pages(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4, max_num_seqs=2))
    for request in requests(4, seed=1):
        engine.add(request)
    engine.schedule()
    for number in range(4):
        engine.abort(f"s{number}")
    assert not engine.busy
    assert engine.cache.pool.active == 0
