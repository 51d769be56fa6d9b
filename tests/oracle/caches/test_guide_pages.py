"""Pages of a guide model are those of the diffusion model: shared, dropped, staged and counted together."""

import random
from pathlib import Path

import msgspec

from cdlm.cli.doctor.outlook import outlook
from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import BlockOutput, GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import Answer, assert_equal_to_oracle, oracle_answer, random_requests, run
from tests.support.guides import guided_engine, oracle_guide, pair
from tests.support.models.checkpoints import EOS, axes


@axes(
    "plain", "shifted", "absolute", "first_token_autoregressive", "causal_prompt", sample=("absolute", "causal_prompt")
)
def test_cached_prefixes_preemption_and_prompts_in_pieces(tmp_path: Path, axis: str) -> None:
    """The guide's pages are those of the diffusion model: what is shared, dropped or staged is so for both."""
    model, guide = pair(tmp_path, axis, max_model_len=96)
    memory = 27 * _page_bytes(model, guide)
    engine = guided_engine(model, guide, kv_cache_memory=memory, max_prefill_tokens=9)
    rng = random.Random(3)
    common = [rng.randrange(EOS) for _ in range(24)]
    requests = [
        msgspec.structs.replace(
            each,
            prompt_ids=common[: (8, 16, 24)[index % 3]] + (each.prompt_ids[:9] if index % 2 else []),
            params=DecodingParams(confidence_threshold=0.5) if index % 4 == 3 else DecodingParams(),
            max_tokens=min(25, max(10, each.max_tokens)),
        )
        for index, each in enumerate(random_requests(9, seed=5))
    ]
    for join_every in (0, 2):
        answers = run(engine, requests, join_every=join_every)
        assert_equal_to_oracle(model, requests, answers, oracle_guide(guide))
    assert engine.scheduler.preemptions > 0
    assert engine.cache.pool.cached > 0


def _page_bytes(model: Path, guide: Path) -> int:
    """Bytes of a page of 4 positions in both pools."""
    runner = guided_engine(model, guide).runner
    assert runner.guiding is not None
    return sum(2 * 4 * cache.keys[:, :4].numel() for cache in (runner.cache, runner.guiding.cache))


def test_a_cached_prompt_is_not_computed_again_by_either_model(tmp_path: Path) -> None:
    model, guide = pair(tmp_path)
    engine = guided_engine(model, guide)
    request = GenerateRequest(request_id="r", prompt_ids=list(range(1, 23)), max_tokens=20)
    cold = run(engine, [request])["r"]
    warm = run(engine, [request])["r"]
    assert engine.cache.pool.cached > 0
    truth = oracle_answer(model, request, oracle_guide(guide))
    for answer in (cold, warm):
        assert (answer.token_ids, answer.steps) == (truth.token_ids, truth.steps)


def test_a_prompt_that_was_scored_before_is_computed_by_the_guide(tmp_path: Path) -> None:
    model, guide = pair(tmp_path, "absolute_shifted")
    engine = guided_engine(model, guide)
    request = GenerateRequest(request_id="r", prompt_ids=list(range(1, 30)), max_tokens=20)
    for _ in range(2):
        engine.add(ScoreRequest(request_id="s", prompt_ids=request.prompt_ids))
        while engine.busy:
            engine.step()
        assert_equal_to_oracle(model, [request], run(engine, [request]), oracle_guide(guide))
    assert engine.cache.pool.cached > 0


def test_aborted_requests_leave_the_others_as_they_are(tmp_path: Path) -> None:
    model, guide = pair(tmp_path)
    requests = [msgspec.structs.replace(each, max_tokens=30) for each in random_requests(8, seed=6)]
    engine = guided_engine(model, guide, max_prefill_tokens=8, max_num_seqs=5)
    outputs: dict[str, list[BlockOutput]] = {each.request_id: [] for each in requests}
    for each in requests:
        engine.add(each)
    for step in range(200):
        if step in (1, 3, 6):
            engine.abort(f"r{step}")
        if not engine.busy:
            break
        for output in engine.step().outputs:
            outputs[output.request_id].append(output)
        engine.check()
    kept = [each for each in requests if each.request_id not in ("r1", "r3", "r6")]
    answers = {name: Answer(found) for name, found in outputs.items() if found}
    assert_equal_to_oracle(model, kept, answers, oracle_guide(guide))


def test_the_guide_takes_its_part_of_the_kv_memory(tmp_path: Path) -> None:
    model, guide = pair(tmp_path)
    memory = 40 * _page_bytes(model, guide)
    alone = Engine(EngineOptions(model=str(model), page_size=4, kv_cache_memory=memory, max_model_len=64))
    engine = guided_engine(model, guide, kv_cache_memory=memory, max_model_len=64)
    assert engine.cache.num_pages == 40 < alone.cache.num_pages
    assert engine.runner.guiding is not None
    assert engine.runner.guiding.cache.keys.shape[1] == 160
    assert outlook(engine.options).pages == 40
