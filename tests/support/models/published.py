"""How decoders that were published with a format decode: a plain loop without a cache, blocks from position 0."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import run

Logits = Callable[[Tensor, Tensor], Tensor]  # ids [n], sees [n, n] bool -> [n, vocabulary].


@dataclass(frozen=True)
class Published:
    """What the decoder published with a format's checkpoints does; not read from our manifest.

    ``editing`` is the confidence above which LLaDA 2.1 replaces decided tokens; ``None`` where nothing is replaced.
    """

    block: int
    mask: int
    eos: int
    threshold: float
    editing: float | None = None


def logits_of(model: Any) -> Logits:
    """The logits of a model of transformers, which adds its mask to the scores."""

    @torch.no_grad()
    def computed(ids: Tensor, sees: Tensor) -> Tensor:
        hidden = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
        out: Tensor = model(ids[None], attention_mask=hidden[None, None]).logits[0]
        return out

    return computed


@torch.inference_mode()
def plain_answer(logits: Logits, rules: Published, prompt: list[int], count: int) -> tuple[list[int], list[int]]:
    """The tokens before the end token or the limit, and the steps of each whole block."""
    canvas, steps = list(prompt), []
    end = len(prompt) // rules.block * rules.block
    while True:
        end += rules.block
        masked = list(range(len(canvas), end))
        canvas += [rules.mask] * len(masked)
        number = torch.arange(end) // rules.block
        sees = number[None, :] <= number[:, None]
        steps.append(0)
        while masked:
            found = logits(torch.tensor(canvas), sees)
            found[:, rules.mask] = float("-inf")
            confidence, best = found.softmax(-1).max(-1)
            surest = max(masked, key=lambda position: float(confidence[position]))
            for position in list(masked):
                if position == surest or confidence[position] > rules.threshold:
                    canvas[position] = int(best[position])
                    masked.remove(position)
            steps[-1] += 1
        answer = canvas[len(prompt) :][:count]
        if rules.eos in answer:
            return answer[: answer.index(rules.eos)], steps[:-1]
        if len(answer) == count:
            return answer, steps[:-1]


@torch.inference_mode()
def edited_answer(logits: Logits, rules: Published, prompt: list[int], count: int) -> tuple[list[int], list[int], int]:
    """As ``plain_answer``, for LLaDA 2.1, with the steps of all blocks and the number of replaced tokens."""
    assert rules.editing is not None
    first = len(prompt) // rules.block
    last = -(-(len(prompt) + count) // rules.block)
    canvas = torch.tensor(prompt + [rules.mask] * (last * rules.block - len(prompt)))
    steps, edits = [], 0
    for number in range(first, last):
        begin, end = number * rules.block, (number + 1) * rules.block
        ours = torch.arange(begin, end) >= len(prompt)
        blocks = torch.arange(end) // rules.block
        sees = blocks[None, :] <= blocks[:, None]
        masked = ours.clone()
        steps.append(0)
        after = 0
        while after <= 16:
            after += not masked.any()
            if after > 16:
                break
            found = logits(canvas[:end], sees)[begin:]
            found[:, rules.mask] = float("-inf")
            confidence, best = found.softmax(-1).max(-1)
            fill = masked & (confidence > rules.threshold)
            if masked.any() and not fill.any():
                fill[torch.where(masked, confidence, torch.tensor(-1.0)).argmax()] = True
            change = ours & ~masked & (confidence > rules.editing) & (best != canvas[begin:end])
            canvas[begin:end] = torch.where(fill | change, best, canvas[begin:end])
            steps[-1] += 1
            edits += int(change.sum())
            if not masked.any() and not change.any():
                break
            masked &= ~fill
        if rules.eos in canvas[len(prompt) : end].tolist():
            break
    answer = canvas[len(prompt) :].tolist()[:count]
    if rules.eos in answer:
        answer = answer[: answer.index(rules.eos)]
    return answer, steps, edits


def check_edited_prompts(directory: Path, logits: Logits, rules: Published, seed: int) -> int:
    """As ``check_prompts``, for LLaDA 2.1; returns how many tokens were replaced."""
    requests = _requests(rules, seed)
    engine = Engine(EngineOptions(model=str(directory), confidence_threshold=rules.threshold, max_num_seqs=8))
    answers = run(engine, requests, join_every=2)
    edits = 0
    for request in requests:
        tokens, steps, replaced = edited_answer(logits, rules, list(request.prompt_ids), request.max_tokens)
        answer = answers[request.request_id]
        assert (answer.token_ids, answer.steps) == (tokens, steps), request
        edits += replaced
    return edits


def check_prompts(directory: Path, logits: Logits, rules: Published, seed: int) -> None:
    """Asserts that an engine answers prompts of every length modulo the block as the plain loop does."""
    requests = _requests(rules, seed)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=8, page_size=4))
    answers = run(engine, requests, join_every=2)
    whole = []
    for request in requests:
        tokens, steps = plain_answer(logits, rules, list(request.prompt_ids), request.max_tokens)
        answer = answers[request.request_id]
        assert answer.token_ids == tokens, request
        assert answer.steps[: len(steps)] == steps, request
        whole += steps
    # Guards the comparison: some blocks take several steps, and some steps finalize more than one token.
    assert max(whole) > 1
    assert min(whole) < rules.block


def _requests(rules: Published, seed: int) -> list[GenerateRequest]:
    generator = torch.Generator().manual_seed(seed)
    return [
        GenerateRequest(
            request_id=str(length),
            prompt_ids=torch.randint(6, rules.eos, (length,), generator=generator).tolist(),
            max_tokens=2 + (5 * length + seed) % 40,
        )
        for length in range(1, max(rules.block, 16) + 2)
    ]
