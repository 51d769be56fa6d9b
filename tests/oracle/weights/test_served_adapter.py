"""A base in its Hugging Face format with an adapter from PEFT, decoded by the engine, equals the slow decoder."""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.messages import BlockOutput, GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.matrix import some
from tests.support.models.hf_checkpoints import EOS, MASK, build_dream, build_llada
from tests.support.models.hf_references import LLAMA_NAMES, dream_base, llada_base, train_with_peft
from tests.support.oracle.decoder import decode

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

RANK, ALPHA, BLOCK, THRESHOLD = 4, 8, 8, 0.4
FAMILIES: dict[str, tuple[Any, Any, list[str]]] = {
    "Dream": (build_dream, dream_base, ["q_proj", "v_proj", "o_proj", "down_proj"]),
    "llada": (build_llada, llada_base, ["q_proj", "v_proj", "attn_out", "ff_out"]),
}


def merged_by_hand(base: Path, adapter: Path) -> dict[str, Tensor]:
    """W + alpha / r * B A, under the names that the slow decoder knows."""
    weights = load_file(base / "model.safetensors")
    lora = load_file(adapter / "adapter_model.safetensors")
    for key in (key for key in lora if key.endswith(".lora_A.weight")):
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        weights[f"{module}.weight"] += ALPHA / RANK * lora[key.replace("lora_A", "lora_B")] @ lora[key]
    names = {f"model.transformer.{ours}.weight": f"{theirs}.weight" for ours, theirs in LLAMA_NAMES.items()}
    return {names.get(name, name).removeprefix("model."): tensor for name, tensor in weights.items()}


def answer(engine: Engine, requests: list[GenerateRequest]) -> dict[str, list[BlockOutput]]:
    """All blocks of every request; a new one joins after every second step."""
    queue, blocks = list(requests), defaultdict(list)
    for step in range(10_000):
        if queue and step % 2 == 0:
            engine.add(queue.pop(0))
        for output in engine.step().outputs:
            blocks[output.request_id].append(output)
        if not queue and not engine.busy:
            return blocks
    raise AssertionError("the engine did not finish")


@pytest.mark.parametrize("seed", some(range(5), every=5))
@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_adapter_in_the_engine_equal_the_oracle(tmp_path: Path, family: str, seed: int) -> None:
    build, host, targets = FAMILIES[family]
    base, adapter = build(tmp_path / "base", seed, shards=1), tmp_path / "lora"
    train_with_peft(host(base), adapter, seed, r=RANK, lora_alpha=ALPHA, target_modules=targets)
    (adapter / "cdlm.json").write_text(json.dumps({"block_length": BLOCK, "confidence_threshold": THRESHOLD}))
    engine = Engine(EngineOptions(model=str(base), adapter=str(adapter), max_num_seqs=8, page_size=4))
    assert (engine.manifest.shift, engine.manifest.block_length) == (family == "Dream", BLOCK)
    rng = random.Random(seed)
    requests = [
        GenerateRequest(
            request_id=f"r{index}",
            prompt_ids=[rng.randrange(MASK) for _ in range(rng.randint(1, 30))],
            max_tokens=rng.randint(1, 40),
            params=DecodingParams(confidence_threshold=rng.choice((None, 0.15))),
            ignore_eos=rng.random() < 0.5,
        )
        for index in range(10)
    ]
    blocks = answer(engine, requests)
    weights, shape = merged_by_hand(base, adapter), load_checkpoint(base).transformer.config
    steps, tokens = 0, 0
    for request in requests:
        truth = decode(
            weights, shape, engine.manifest, list(request.prompt_ids), request.max_tokens,
            threshold=request.params.confidence_threshold, ignore_eos=request.ignore_eos,
        )  # fmt: skip
        outputs = blocks[request.request_id]
        assert [token for output in outputs for token in output.token_ids] == truth.token_ids
        assert outputs[-1].finish_reason == truth.finish_reason
        assert [output.denoise_steps for output in outputs] == truth.steps
        steps, tokens = steps + sum(truth.steps), tokens + BLOCK * len(truth.steps)
    assert len(requests) < steps < tokens  # The threshold decides something.


def test_the_engine_says_at_start_what_is_wrong_with_an_adapter(tmp_path: Path) -> None:
    base = build_dream(tmp_path / "base")
    with pytest.raises(EngineStartError, match="nowhere: no such checkpoint directory"):
        Engine(EngineOptions(model=str(base), adapter=str(tmp_path / "nowhere")))
    train_with_peft(llada_base(build_llada(tmp_path / "other")), tmp_path / "lora", target_modules=["q_proj"])
    with pytest.raises(EngineStartError, match=r"adapter_model\.safetensors: module 'model\.transformer\.blocks\.0"):
        Engine(EngineOptions(model=str(base), adapter=str(tmp_path / "lora")))
    assert EOS in Engine(EngineOptions(model=str(base))).manifest.stop_token_ids


def test_a_teacher_without_an_adapter_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = build_llada(tmp_path / "base")
    Engine(EngineOptions(model=str(base)))
    assert "weights of a bidirectional teacher" in caplog.text
    caplog.clear()
    train_with_peft(llada_base(base), tmp_path / "lora", target_modules=["q_proj"])
    Engine(EngineOptions(model=str(base), adapter=str(tmp_path / "lora")))
    assert not caplog.text
