"""LLaDA 2 and SDAR with experts compute and decode what independent plain implementations do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import run
from tests.support.matrix import some
from tests.support.models.hf_references import STD, logits
from tests.support.models.mixtures import EOS, MASK, VOCAB, build_llada2, build_sdar_moe

Logits = Callable[[Tensor, Tensor], Tensor]  # ids [n], sees [n, n] bool -> [n, vocabulary].


@dataclass(frozen=True)
class Published:
    """What the decoder published with a format's checkpoints does; not read from our manifest."""

    block: int
    threshold: float


RULES = {"llada2": Published(32, 0.95), "sdar": Published(4, 0.9)}


def build(name: str, directory: Path, seed: int, **changes: Any) -> Logits:
    """Writes a checkpoint; returns the plain implementation's logits."""
    if name == "llada2":
        return build_llada2(directory, seed, **changes).logits
    model = build_sdar_moe(directory, seed, **changes)

    @torch.no_grad()
    def computed(ids: Tensor, sees: Tensor) -> Tensor:
        hidden = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
        out: Tensor = model(ids[None], attention_mask=hidden[None, None]).logits[0]
        return out

    return computed


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("llada2", {}),
    ("llada2", {"num_shared_experts": 2, "first_k_dense_replace": 0, "tie_word_embeddings": True}),
    ("llada2", {"num_shared_experts": 0, "moe_router_enable_expert_bias": False, "n_group": 1, "topk_group": 1}),
    ("llada2", {"partial_rotary_factor": 1.0, "topk_group": 4, "num_experts_per_tok": 8}),
    ("llada2", {"partial_rotary_factor": 0.25, "first_k_dense_replace": 3}),
    ("sdar", {}),
    ("sdar", {"norm_topk_prob": False, "tie_word_embeddings": True}),
    ("sdar", {"num_experts_per_tok": 1}),
    ("sdar", {"num_experts_per_tok": 12}),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "changes"), CHANGES)
def test_logits_equal_the_plain_implementation(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    for seed in range(5):
        plain = build(name, tmp_path / str(seed), seed, std=STD, **changes)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(VOCAB, (40,), generator=generator)
        sees = (torch.rand(40, 40, generator=generator) < 0.5) | torch.eye(40, dtype=torch.bool)
        found = logits(load_checkpoint(tmp_path / str(seed)).transformer, ids, sees)
        torch.testing.assert_close(found, plain(ids, sees), atol=1e-5, rtol=1e-5)


def plain_answer(logits_of: Logits, rules: Published, prompt: list[int], count: int) -> tuple[list[int], list[int]]:
    """The tokens before the end token or the limit, and the steps of each whole block; no cache."""
    canvas, steps = list(prompt), []
    end = len(prompt) // rules.block * rules.block
    while True:
        end += rules.block
        masked = list(range(len(canvas), end))
        canvas += [MASK] * len(masked)
        number = torch.arange(end) // rules.block
        sees = number[None, :] <= number[:, None]
        steps.append(0)
        while masked:
            found = logits_of(torch.tensor(canvas), sees)
            found[:, MASK] = float("-inf")
            confidence, best = found.softmax(-1).max(-1)
            surest = max(masked, key=lambda position: float(confidence[position]))
            for position in list(masked):
                if position == surest or confidence[position] > rules.threshold:
                    canvas[position] = int(best[position])
                    masked.remove(position)
            steps[-1] += 1
        answer = canvas[len(prompt) :][:count]
        if EOS in answer:
            return answer[: answer.index(EOS)], steps[:-1]
        if len(answer) == count:
            return answer, steps[:-1]


@pytest.mark.parametrize("seed", some(range(5), every=5))
@pytest.mark.parametrize("name", RULES)
def test_prompts_of_every_length_modulo_the_block(tmp_path: Path, name: str, seed: int) -> None:
    rules = RULES[name]
    plain = build(name, tmp_path, seed)
    generator = torch.Generator().manual_seed(seed)
    requests = [
        GenerateRequest(
            request_id=str(length),
            prompt_ids=torch.randint(6, EOS, (length,), generator=generator).tolist(),
            max_tokens=2 + (5 * length + seed) % 40,
        )
        for length in range(1, max(rules.block, 16) + 2)
    ]
    engine = Engine(EngineOptions(model=str(tmp_path), max_num_seqs=8, page_size=4))
    answers = run(engine, requests, join_every=2)
    whole = []
    for request in requests:
        tokens, steps = plain_answer(plain, rules, list(request.prompt_ids), request.max_tokens)
        answer = answers[request.request_id]
        assert answer.token_ids == tokens, request
        assert answer.steps[: len(steps)] == steps, request
        whole += steps
    # Guards the comparison: some blocks take several steps, and some steps finalize more than one token.
    assert max(whole) > 1
    assert min(whole) < rules.block
