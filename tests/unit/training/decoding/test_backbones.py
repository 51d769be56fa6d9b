"""Teacher modes on the formats of masked diffusion models, next to a plain loop over transformers' own classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cdlm.model.config import Manifest
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.training.decoding.block_caches import DualCacheDecoder, PrefixCacheDecoder
from cdlm.training.decoding.decoder import Decoding, FullDecoder
from cdlm.training.decoding.rules import EngineRule
from tests.support.models.hf_block_checkpoints import build
from tests.support.models.hf_checkpoints import build_dream, build_llada
from tests.support.models.hf_references import llama, qwen2

BLOCK, LENGTH = 8, 16
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]]

Reference = Callable[[Path, int], Any]


def _dream(directory: Path, seed: int) -> Any:
    return qwen2(load_file(build_dream(directory, seed) / "model.safetensors"))


def _llada(directory: Path, seed: int) -> Any:
    return llama(load_file(build_llada(directory, seed) / "model.safetensors"))


FORMATS: dict[str, Reference] = {
    "Dream": _dream,
    "llada": _llada,
    "sdar": lambda directory, seed: build(directory, "sdar", seed),
    "Fast_dLLM_Qwen": lambda directory, seed: build(directory, "Fast_dLLM_Qwen", seed),
}
SHIFTED = {"Dream", "Fast_dLLM_Qwen"}


def naive(model: Any, manifest: Manifest, prompt: list[int]) -> list[int]:
    """One token a step, block by block, a forward over the whole canvas each; the tokens before the first stop."""
    canvas = prompt + [manifest.mask_token_id] * LENGTH
    everything = torch.zeros(1, 1, len(canvas), len(canvas))  # Added to the scores: nobody is hidden.
    for start in range(len(prompt), len(canvas), BLOCK):
        left = set(range(start, start + BLOCK))
        while left:
            logits = model(torch.tensor([canvas]), attention_mask=everything).logits[0]
            logits[:, manifest.mask_token_id] = float("-inf")
            sure = logits.softmax(-1)
            best = max(sorted(left), key=lambda position: float(sure[position - manifest.shift].max()))
            canvas[best] = int(sure[best - manifest.shift].argmax())
            left.remove(best)
    answer = canvas[len(prompt) :]
    return answer[: min((answer.index(stop) for stop in manifest.stop_token_ids if stop in answer), default=LENGTH)]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FORMATS)
def test_naive_prefix_cache_and_dual_cache(tmp_path: Path, name: str, seed: int) -> None:
    reference = FORMATS[name](tmp_path, seed)
    loaded = load_checkpoint(tmp_path, block_length=BLOCK)
    assert loaded.manifest.shift == (name in SHIFTED)
    parts = (loaded.transformer, loaded.manifest)
    fixed: dict[str, Any] = {"generation_length": LENGTH, "early_stop": False, "rule": EngineRule("fixed_steps")}
    truth = [naive(reference, loaded.manifest, prompt) for prompt in PROMPTS]
    full = FullDecoder(*parts, **fixed)(PROMPTS)
    assert [answer.tokens for answer in full] == truth
    for decoder in (PrefixCacheDecoder, DualCacheDecoder):
        exact = decoder(*parts, **fixed, refresh_interval=1)(PROMPTS)
        assert [(answer.tokens, answer.steps) for answer in exact] == [(a.tokens, a.steps) for a in full]
        cached = decoder(*parts, **fixed)(PROMPTS)
        for answer, whole in zip(cached, full, strict=True):
            _check_whole(answer, loaded.manifest, loaded.transformer.config.vocab_size)
            assert answer.steps == whole.steps == LENGTH
            assert answer.computed < whole.computed


def _check_whole(answer: Decoding, manifest: Manifest, vocab_size: int) -> None:
    assert answer.filled == LENGTH
    assert all(0 <= token < vocab_size for token in answer.tokens)
    assert not {manifest.mask_token_id, *manifest.stop_token_ids} & set(answer.tokens)
