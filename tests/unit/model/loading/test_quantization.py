"""Weight-only quantization: a byte a weight, products close to the full ones, a clear refusal without torchao."""

import sys
from typing import Any

import pytest
import torch
from torch import nn

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.loading.quantization import quantize
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions
from cdlm.training.data.mixture import draw_problems


def test_every_layer_holds_a_byte_a_weight_rounded_to_nearest() -> None:
    plain, small = (load_checkpoint(BUNDLED_STUDENT).transformer for _ in range(2))
    quantize(small, "int8")
    linears = 0
    for (name, before), after in zip(plain.named_modules(), small.modules(), strict=True):
        if not isinstance(before, nn.Linear):
            continue
        assert isinstance(after, nn.Linear)
        if name == "lm_head":
            assert after.weight.equal(before.weight)
            continue
        linears += 1
        weight: Any = after.weight
        stored, scale = weight.qdata, weight.scale
        assert stored.dtype == torch.int8
        assert scale.numel() == before.out_features
        error = (before.weight - stored.float() * scale.view(-1, 1)).abs()
        assert (error <= 0.51 * scale.view(-1, 1)).all()
        x = torch.randn(3, before.in_features, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(after(x), x @ (stored.float() * scale.view(-1, 1)).T, atol=1e-4, rtol=1e-4)
    assert linears == 7 * plain.config.num_layers


def test_the_engine_runs_it_and_most_answers_stay_the_same() -> None:
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    prompts = [
        tokenizer.encode(problem.prompt, add_special_tokens=False)
        for problem in draw_problems("words", 12, seed=3, split="development")
    ]
    requests = [
        GenerateRequest(request_id=str(index), prompt_ids=prompt, max_tokens=64) for index, prompt in enumerate(prompts)
    ]
    answers = []
    for quantization in ("none", "int8"):
        options = EngineOptions(model=str(BUNDLED_STUDENT), dtype="float32", quantization=quantization)
        answers.append([completion.token_ids for completion in OfflineEngine(options).generate(requests)])
    same = sum(before == after for before, after in zip(*answers, strict=True))
    assert 6 <= same <= len(requests)
    assert all(answers[1])


def test_without_torchao_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(EngineStartError, match=r"int8 needs torchao: pip install 'cdlm-serve\[quantization\]'"):
        OfflineEngine(EngineOptions(model=str(BUNDLED_STUDENT), quantization="int8"))
