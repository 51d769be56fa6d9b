"""Decodes one prompt from its first block to its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support.oracle.edits import OracleEdits, completes, edit
from tests.support.oracle.grammar import OracleGrammar, constrain
from tests.support.oracle.guide import OracleGuide, pass_guide
from tests.support.oracle.mask import mask_token
from tests.support.oracle.network import hidden_states, visibility
from tests.support.oracle.noise import draw
from tests.support.oracle.rules import pass_entropy_bound, pass_factor, share


@dataclass(frozen=True)
class OracleAnswer:
    """The slow decoder's answer; ``margin`` is the smallest distance to a decision, a probability, to compare with
    float noise.

    ``scores`` has the log-probabilities of all tokens at the step that wrote each answer position last, and that step;
    ``replaced`` counts the decided tokens that a step replaced.
    """

    token_ids: list[int]
    finish_reason: str
    steps: list[int]
    margin: float
    scores: list[tuple[Tensor, int]]
    replaced: int

    @property
    def step_map(self) -> list[int]:
        """The step that wrote each token of the answer last."""
        return [step for _, step in self.scores[: len(self.token_ids)]]


@torch.inference_mode()
def decode(
    weights: dict[str, Tensor],
    shape: Any,
    manifest: Any,
    prompt: list[int],
    max_tokens: int,
    *,
    rule: str = "threshold",
    threshold: float | None = None,
    factor: float = 1.0,
    entropy_bound: float = 0.1,
    steps_per_block: int | None = None,
    guidance_scale: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ignore_eos: bool = False,
    edits: OracleEdits | None = None,
    grammar: OracleGrammar | None = None,
    pinned: Sequence[int] = (),
    guide: OracleGuide | None = None,
    edit_threshold: float | None = None,
) -> OracleAnswer:
    """Block-causal decoding of one prompt; the margin is kept for the rule ``threshold`` and greedy decoding only.

    With ``edit_threshold`` a step replaces decided tokens of the block as well, and a block without masks takes up to
    16 steps more, until one changes nothing. Only then are its tokens looked at.

    ``pinned`` are tokens behind ``max_tokens`` generated ones; a block that reaches so far begins with them in place.
    """
    tau = manifest.confidence_threshold if threshold is None else threshold
    block = manifest.block_length
    head = weights.get("lm_head.weight", weights["embed_tokens.weight"])
    mask, banned = mask_token(manifest, len(head))
    stops = () if ignore_eos else manifest.stop_token_ids
    origin = len(prompt) if manifest.block_origin == "prompt_end" else len(prompt) // block * block
    ids: list[int | None] = list(prompt)
    pins = {len(prompt) + max_tokens + place: token for place, token in enumerate(pinned)}
    steps: list[int] = []
    margin, replaced = 1.0, 0
    scores: dict[int, tuple[Tensor, int]] = {}
    words = edits.bad_words if edits is not None else ()

    def answered(more: dict[int, int]) -> list[int | None]:
        """The tokens written so far plus ``more``; ``None`` at pinned positions."""
        places = range(len(prompt), len(ids))
        return [None if place in pins else more.get(place, ids[place]) for place in places]

    def answer(end: int, reason: str) -> OracleAnswer:
        """The answer up to position ``end``; scores include that of a stop token after it."""
        scored = [scores[position] for position in range(len(prompt), end + (reason == "stop"))]
        return OracleAnswer([int(t) for t in ids[len(prompt) : end]], reason, steps, margin, scored, replaced)  # type: ignore[arg-type]

    while True:
        start = origin + len(steps) * block
        ids += [pins.get(position) for position in range(len(ids), start + block)]
        steps.append(0)
        settling = 0
        sees = visibility(len(ids), origin, manifest.prompt_attention, block, manifest.commit_attention)
        while True:
            steps[-1] += 1
            canvas = torch.tensor([mask if token is None else token for token in ids])
            hidden = hidden_states(weights, shape, canvas, sees)
            blind = torch.cat((torch.full((len(prompt),), mask), canvas[len(prompt) :]))
            unguided = hidden_states(weights, shape, blind, sees) if guidance_scale else hidden
            masked = [position for position in range(start, start + block) if ids[position] is None]
            alone = manifest.first_token == "autoregressive" and start in masked
            masked = [start] if alone else masked
            decided = [
                position
                for position in range(max(start, len(prompt)), start + block)
                if edit_threshold is not None and position not in pins and position not in masked
            ]
            settling += not masked
            found, entropy, raw, edited = {}, {}, {}, {}
            written = [position for position in range(len(prompt), len(ids)) if position not in pins]
            generated = [token for position in written if (token := ids[position]) is not None]
            for position in masked + decided:
                row = position - 1 if manifest.shift or alone else position
                logits = head @ hidden[row]
                if guidance_scale:
                    without = head @ unguided[row]
                    logits = without + (guidance_scale + 1) * (logits - without)
                logits[banned] = float("-inf")
                raw[position] = logits.log_softmax(-1)
                if edits is not None and edits != OracleEdits():
                    others = [token for at in written if at != position and (token := ids[at]) is not None]
                    logits = edit(logits, edits, prompt, others, position - len(prompt), tuple(stops))
                for token in {token for word in words for token in word}:  # No other token completes one.
                    if completes(answered({position: token}), position - len(prompt), words):
                        logits[token] = -math.inf
                edited[position] = logits
                found[position] = logits.softmax(-1).topk(2)
                if rule == "entropy_bound" and position in masked:
                    entropy[position] = -sum(p * math.log(p) for p in logits.softmax(-1).tolist() if p > 0)
            confidence = {position: float(found[position].values[0]) for position in masked}
            changes: dict[int, int] = {}
            for position in decided:
                best = int(found[position].indices[0])
                token = draw(edited[position], temperature, seed, position) if temperature else best
                if token != ids[position] and float(found[position].values[0]) > (edit_threshold or 0):
                    changes[position] = token
            ranked = sorted(masked, key=lambda position: -confidence[position])  # Stable: ties go to the left.
            margin = min([margin, *(abs(value - tau) for value in confidence.values())])
            if len(ranked) > 1 and confidence[ranked[0]] <= tau:
                margin = min(margin, confidence[ranked[0]] - confidence[ranked[1]])
            empty = sum(token is None for token in ids[start:])
            due = share(empty, (steps_per_block or block) - steps[-1] + 1) if rule == "fixed_steps" else 1
            if rule == "threshold":
                passing = [position for position in masked if position == ranked[0] or confidence[position] > tau]
            elif rule == "factor":
                passing = pass_factor(confidence, factor)
            elif rule == "fixed_steps":
                passing = ranked[:due]
            elif rule == "guide":
                assert guide is not None
                predicted = {
                    position: draw(edited[position], temperature, seed, position)
                    if temperature
                    else int(found[position].indices[0])
                    for position in masked
                }
                passing = pass_guide(guide, ids, predicted, len(head), banned, temperature, seed)
            else:
                passing = pass_entropy_bound(entropy, entropy_bound)
            if grammar is not None:
                fresh = constrain(
                    grammar,
                    generated,
                    [int(found[position].indices[0]) for position in masked],
                    [position in passing for position in masked],
                    [edited[position] for position in masked],
                    [raw[position] for position in masked],
                    len(prompt) + max_tokens - masked[0],
                    tuple(stops),
                    due,
                )
                taken: dict[int, int] = {}
                for position, token in zip(masked, fresh, strict=False):
                    taken[position] = token
                    if len(taken) > 1 and completes(answered(taken), position - len(prompt), words):
                        break
                    ids[position] = token
                    scores[position] = (raw[position], steps[-1])
            first = True
            for position in masked if grammar is None else []:
                if position in passing:
                    best = int(found[position].indices[0])
                    token = draw(edited[position], temperature, seed, position) if temperature else best
                    if not first and completes(answered({position: token}), position - len(prompt), words):
                        continue  # It waits for a later step.
                    first, ids[position] = False, token
                    scores[position] = (raw[position], steps[-1])
                    margin = min(margin, float(found[position].values[0] - found[position].values[1]))
            for position, token in changes.items():
                ids[position], scores[position] = token, (raw[position], steps[-1])
            replaced += len(changes)
            if edit_threshold is not None and (masked or (changes and settling < 16)):
                continue
            left = start
            while left < start + block and ids[left] is not None:
                left += 1
                if left > len(prompt) and ids[left - 1] in stops and left - len(prompt) <= max_tokens:
                    return answer(left - 1, "stop")
            if left - len(prompt) >= max_tokens:
                return answer(len(prompt) + max_tokens, "length")
            if left == start + block:
                break
