"""DreamReasoner and Stable-DiffCoder decode as plain loops over transformers' own Qwen3 and Llama do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import run
from tests.support.matrix import some
from tests.support.models.hf_block_checkpoints import EOS, MASK, build


@dataclass(frozen=True)
class Published:
    """What the decoder published with a format's checkpoints does; not read from our manifest."""

    block: int
    mask: int
    threshold: float


FORMATS = {"DreamReasoner": Published(32, MASK, 0.9), "Stable-DiffCoder": Published(4, 5, 0.95)}


def block_causal(length: int, block: int) -> Tensor:
    """[1, 1, length, length]: zero where a row's block sees a column's, to be added to the scores."""
    number = torch.arange(length) // block
    hidden = number[None, :] > number[:, None]
    return torch.zeros(length, length).masked_fill(hidden, torch.finfo(torch.float32).min)[None, None]


@torch.no_grad()
def plain_answer(model: Any, rules: Published, prompt: list[int], max_tokens: int) -> tuple[list[int], list[int]]:
    """The tokens before the end token or the limit, and the steps of each whole block; no cache."""
    canvas, steps = list(prompt), []
    end = len(prompt) // rules.block * rules.block
    while True:
        end += rules.block
        masked = list(range(len(canvas), end))
        canvas += [rules.mask] * len(masked)
        steps.append(0)
        while masked:
            logits = model(torch.tensor([canvas]), attention_mask=block_causal(end, rules.block)).logits[0]
            logits[:, rules.mask] = float("-inf")
            confidence, best = logits.softmax(-1).max(-1)
            surest = max(masked, key=lambda position: float(confidence[position]))
            for position in list(masked):
                if position == surest or confidence[position] > rules.threshold:
                    canvas[position] = int(best[position])
                    masked.remove(position)
            steps[-1] += 1
        answer = canvas[len(prompt) :][:max_tokens]
        if EOS in answer:
            return answer[: answer.index(EOS)], steps[:-1]
        if len(answer) == max_tokens:
            return answer, steps[:-1]


@pytest.mark.parametrize("seed", some(range(5), every=5))
@pytest.mark.parametrize("name", FORMATS)
def test_prompts_of_every_length_modulo_the_block(tmp_path: Path, name: str, seed: int) -> None:
    rules = FORMATS[name]
    model = build(tmp_path, name, seed=seed)
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
        tokens, steps = plain_answer(model, rules, list(request.prompt_ids), request.max_tokens)
        answer = answers[request.request_id]
        assert answer.token_ids == tokens, request
        assert answer.steps[: len(steps)] == steps, request
        whole += steps
    # Guards the comparison: some blocks take several steps, and some steps finalize more than one token.
    assert max(whole) > 1
    assert min(whole) < rules.block
