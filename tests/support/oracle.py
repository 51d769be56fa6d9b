"""The truth: a slow decoder in plain PyTorch. One request, no cache, no batching, the whole mask every step.

It shares no code with ``model`` or ``scheduler``: weights come as a dictionary of tensors, shape and manifest as
plain attributes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class OracleAnswer:
    """The slow decoder's answer; ``margin`` is the smallest distance to a decision, a probability, to compare with
    float noise.

    ``scores`` has the log-probabilities of all tokens at the step that finalized each answer position, and that step.
    """

    token_ids: list[int]
    finish_reason: str
    steps: list[int]
    margin: float
    scores: list[tuple[Tensor, int]]


@dataclass(frozen=True)
class OracleEdits:
    """Edits of the logits, in the words of the API."""

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()


class OracleGrammar(Protocol):
    """The interface of a grammar without state: every call gets all tokens written so far."""

    def forced(self, written: list[int]) -> list[int]:
        """Tokens that must come next."""

    def admitted(self, written: list[int]) -> set[int]:
        """Tokens that may come next, end tokens included where the text may end."""

    def closes(self, written: list[int], room: int) -> list[int] | None:
        """At most ``room`` tokens that end the text, end token included; ``None`` if there are none."""


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def _rope(x: Tensor, theta: float) -> Tensor:
    """x [heads, n, head_dim]; the pair (i, i + head_dim / 2) turns by position * theta^(-2i / head_dim)."""
    n, dim = x.shape[-2:]
    half = dim // 2
    angle = torch.arange(n, dtype=torch.float32)[:, None] * theta ** (-torch.arange(half, dtype=torch.float32) / half)
    low, high, cos, sin = x[..., :half], x[..., half:], angle.cos(), angle.sin()
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class _Layer:
    """The weights of one layer by their names in it."""

    def __init__(self, weights: dict[str, Tensor], index: int) -> None:
        self._weights, self._index = weights, index

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[f"layers.{self._index}.{name}"]


def hidden_states(weights: dict[str, Tensor], shape: Any, ids: Tensor, sees: Tensor) -> Tensor:
    """ids [n], sees [n, n] bool (row = query) -> last hidden states [n, hidden]."""
    n = len(ids)
    x = weights["embed_tokens.weight"][ids]
    for index in range(shape.num_layers):
        layer = _Layer(weights, index)
        y = _norm(x, layer["input_layernorm.weight"], shape.rms_norm_eps)
        heads = {}
        for name, count in (("q", shape.num_heads), ("k", shape.num_kv_heads), ("v", shape.num_kv_heads)):
            z = y @ layer[f"self_attn.{name}_proj.weight"].T
            if shape.attention_bias:
                z = z + layer[f"self_attn.{name}_proj.bias"]
            z = z.reshape(n, count, shape.head_dim)
            if shape.qk_norm and name != "v":
                z = _norm(z, layer[f"self_attn.{name}_norm.weight"], shape.rms_norm_eps)
            z = z.transpose(0, 1)
            heads[name] = z if name == "v" else _rope(z, shape.rope_theta)
        group = shape.num_heads // shape.num_kv_heads
        outs = []
        for head in range(shape.num_heads):
            scores = heads["q"][head] @ heads["k"][head // group].T / shape.head_dim**0.5
            outs.append(scores.masked_fill(~sees, float("-inf")).softmax(-1) @ heads["v"][head // group])
        x = x + torch.cat(outs, dim=-1) @ layer["self_attn.o_proj.weight"].T
        y = _norm(x, layer["post_attention_layernorm.weight"], shape.rms_norm_eps)
        gate = y @ layer["mlp.gate_proj.weight"].T
        x = x + (gate * gate.sigmoid() * (y @ layer["mlp.up_proj.weight"].T)) @ layer["mlp.down_proj.weight"].T
    return _norm(x, weights["norm.weight"], shape.rms_norm_eps)


def visibility(length: int, origin: int, prompt_attention: str, block: int) -> Tensor:
    """[length, length] bool: whether a query (row) sees a key, pair by pair, from the definition."""

    def sees(query: int, key: int) -> bool:
        query_block, key_block = (query - origin) // block, (key - origin) // block
        if query >= origin:
            return key < origin or key_block <= query_block
        if key >= origin:
            return False
        if prompt_attention == "full":
            return True
        return key <= query if prompt_attention == "causal" else key_block <= query_block

    return torch.tensor([[sees(query, key) for key in range(length)] for query in range(length)], dtype=torch.bool)


def pass_factor(confidence: dict[int, float], factor: float) -> list[int]:
    """Walks down the confidences until the n-th is below 1 - factor / (n + 1); the first always passes."""
    passing: list[int] = []
    for position in sorted(confidence, key=lambda position: -confidence[position]):
        if passing and confidence[position] < 1 - factor / (len(passing) + 2):
            break
        passing.append(position)
    return passing


def pass_entropy_bound(entropy: dict[int, float], bound: float) -> list[int]:
    """Tries every number of positions, lowest entropy first; the last that keeps sum - max within the bound."""
    ranked = sorted(entropy, key=lambda position: entropy[position])
    sizes = range(1, len(ranked) + 1)
    spent = {size: sum(entropy[p] for p in ranked[:size]) - max(entropy[p] for p in ranked[:size]) for size in sizes}
    return ranked[: max([1, *(size for size in sizes if spent[size] <= bound)])]


def share(positions: int, steps: int) -> int:
    """Positions of the first of ``steps`` steps, if positions are dealt to the steps one by one, in turn."""
    shares = [0] * max(1, steps)
    for position in range(positions):
        shares[position % len(shares)] += 1
    return shares[0]


def mask_token(manifest: Any, vocab_size: int) -> tuple[int, list[int]]:
    """The token at unknown positions, which is never written.

    A checkpoint without a mask token never looks at such places, so that any token may stand there.
    """
    if manifest.mask_token_id < vocab_size:
        return manifest.mask_token_id, [manifest.mask_token_id]
    return vocab_size - 1, []


def score_prompt(weights: dict[str, Tensor], shape: Any, manifest: Any, prompt: list[int]) -> list[Tensor]:
    """Log-probabilities [vocab] of every prompt token but the first: one forward per token, nothing reused.

    The prompt is taken as blocks from position 0; token i is predicted from all tokens before its block, and its block
    with itself and what follows masked.
    """
    block = manifest.block_length
    head = weights.get("lm_head.weight", weights["embed_tokens.weight"])
    mask, banned = mask_token(manifest, len(head))
    found = []
    for position in range(1, len(prompt)):
        end = position // block * block + block
        ids = torch.tensor(prompt[:position] + [mask] * (end - position))
        hidden = hidden_states(weights, shape, ids, visibility(end, 0, manifest.prompt_attention, block))
        logits = head @ hidden[position - 1 if manifest.shift else position]
        logits[banned] = float("-inf")
        found.append(logits.log_softmax(-1))
    return found


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox 4x64 with 10 rounds (Salmon et al., 2011), in whole numbers."""
    a, b, c, d = counter
    left, right = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = second >> 64 ^ b ^ left, second % 2**64, first >> 64 ^ d ^ right, first % 2**64
        left, right = (left + 0x9E3779B97F4A7C15) % 2**64, (right + 0xBB67AE8584CAA73B) % 2**64
    return a, b, c, d


def uniform(seed: int, position: int, token: int, vocab_size: int) -> float:
    """The number in (0, 1) that a token's noise at a position is made of."""
    words = philox((position * math.ceil(vocab_size / 8) + token // 8 + 1, 0, 0, 0), (seed % 2**64, 0))
    half = words[token % 8 // 2] >> 32 * (token % 2) & 0xFFFFFFFF
    return min((half + 0.5) / 2**32, 1 - 2**-24)


def draw(logits: Tensor, temperature: float, seed: int, position: int) -> int:
    """Draws a token by the Gumbel-max trick."""
    noisy = [
        value / temperature - math.log(-math.log1p(-uniform(seed, position, token, len(logits))))
        for token, value in enumerate(logits.tolist())
    ]
    return noisy.index(max(noisy))


def edit(
    logits: Tensor, edits: OracleEdits, prompt: list[int], generated: list[int], index: int, stops: tuple[int, ...]
) -> Tensor:
    """Edits the logits of the answer's token ``index``, one token of the vocabulary at a time."""
    values = logits.tolist()
    seen = {*prompt, *generated}
    for token in range(len(values)):
        if token in seen:
            values[token] *= 1 / edits.repetition_penalty if values[token] > 0 else edits.repetition_penalty
        values[token] -= edits.frequency_penalty * generated.count(token)
        if token in generated:
            values[token] -= edits.presence_penalty
        bias = edits.logit_bias.get(token, 0.0)
        values[token] = -math.inf if bias == -100 else values[token] + bias
        if edits.allowed_token_ids and token not in edits.allowed_token_ids:
            values[token] = -math.inf
        if token in stops and index < edits.min_tokens:
            values[token] = -math.inf
    return torch.tensor(values)


def completes(line: Sequence[int | None], place: int, words: Sequence[Sequence[int]]) -> bool:
    """Whether the line contains one of the words, with one of its tokens at ``place``."""
    return any(
        list(line[start : start + len(word)]) == list(word)
        for word in words
        for start in range(max(0, place - len(word) + 1), place + 1)
    )


def constrain(
    grammar: OracleGrammar,
    written: list[int],
    choices: list[int],
    passing: list[bool],
    logits: list[Tensor],
    unedited: list[Tensor],
    room: int,
    stops: tuple[int, ...],
    at_least: int,
) -> list[int]:
    """The tokens that a step finalizes in a row with a grammar, from the frontier on.

    ``room`` is how many tokens the answer may still have; ``at_least`` positions take what the grammar leaves them.
    """
    found: list[int] = []
    while len(found) < min(len(choices), room):
        here = len(found)
        text = written + found
        forced = grammar.forced(text)
        if forced:
            token = forced[0]
            if grammar.closes([*text, token], room - here - 1) is None:  # So it is written in fewer tokens.
                token = (grammar.closes(text, room - here) or [token])[0]
            found.append(token)
            continue
        admitted = grammar.admitted(text)
        token = choices[here]
        if here < at_least:
            ranked = sorted(admitted, key=lambda token: (-float(logits[here][token]), token))
            if math.isinf(logits[here][ranked[0]]):
                ranked = sorted(admitted, key=lambda token: (-float(unedited[here][token]), token))
            token = ranked[0]
            if token not in stops and grammar.closes([*text, token], room - here - 1) is None:
                token = (grammar.closes(text, room - here) or [token])[0]
        else:
            closes = token in stops or grammar.closes([*text, token], room - here - 1) is not None
            if not (passing[here] and token in admitted and closes):
                break
        found.append(token)
        if token in stops:
            break
    return found


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
) -> OracleAnswer:
    """Block-causal decoding of one prompt; the margin is kept for the rule ``threshold`` and greedy decoding only.

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
    margin = 1.0
    scores: dict[int, tuple[Tensor, int]] = {}
    words = edits.bad_words if edits is not None else ()

    def answered(more: dict[int, int]) -> list[int | None]:
        """The tokens written so far plus ``more``; ``None`` at pinned positions."""
        places = range(len(prompt), len(ids))
        return [None if place in pins else more.get(place, ids[place]) for place in places]

    def answer(end: int, reason: str) -> OracleAnswer:
        """The answer up to position ``end``; scores include that of a stop token after it."""
        scored = [scores[position] for position in range(len(prompt), end + (reason == "stop"))]
        return OracleAnswer([int(t) for t in ids[len(prompt) : end]], reason, steps, margin, scored)  # type: ignore[arg-type]

    while True:
        start = origin + len(steps) * block
        ids += [pins.get(position) for position in range(len(ids), start + block)]
        steps.append(0)
        sees = visibility(len(ids), origin, manifest.prompt_attention, block)
        while True:
            steps[-1] += 1
            canvas = torch.tensor([mask if token is None else token for token in ids])
            hidden = hidden_states(weights, shape, canvas, sees)
            blind = torch.cat((torch.full((len(prompt),), mask), canvas[len(prompt) :]))
            unguided = hidden_states(weights, shape, blind, sees) if guidance_scale else hidden
            masked = [position for position in range(start, start + block) if ids[position] is None]
            if manifest.first_token == "autoregressive" and masked[0] == start:
                masked = [start]
            found, entropy, raw, edited = {}, {}, {}, {}
            written = [position for position in range(len(prompt), len(ids)) if position not in pins]
            generated = [token for position in written if (token := ids[position]) is not None]
            for position in masked:
                row = position - 1 if manifest.shift else position
                logits = head @ hidden[row]
                if guidance_scale:
                    without = head @ unguided[row]
                    logits = without + (guidance_scale + 1) * (logits - without)
                logits[banned] = float("-inf")
                raw[position] = logits.log_softmax(-1)
                if edits is not None and edits != OracleEdits():
                    logits = edit(logits, edits, prompt, generated, position - len(prompt), tuple(stops))
                for token in range(len(logits) if words else 0):
                    if completes(answered({position: token}), position - len(prompt), words):
                        logits[token] = -math.inf
                edited[position] = logits
                found[position] = logits.softmax(-1).topk(2)
                if rule == "entropy_bound":
                    entropy[position] = -sum(p * math.log(p) for p in logits.softmax(-1).tolist() if p > 0)
            confidence = {position: float(top.values[0]) for position, top in found.items()}
            ranked = sorted(masked, key=lambda position: -confidence[position])  # Stable: ties go to the left.
            margin = min([margin, *(abs(value - tau) for value in confidence.values())])
            if confidence[ranked[0]] <= tau and len(ranked) > 1:
                margin = min(margin, confidence[ranked[0]] - confidence[ranked[1]])
            empty = sum(token is None for token in ids[start:])
            due = share(empty, (steps_per_block or block) - steps[-1] + 1) if rule == "fixed_steps" else 1
            if rule == "threshold":
                passing = [position for position in masked if position == ranked[0] or confidence[position] > tau]
            elif rule == "factor":
                passing = pass_factor(confidence, factor)
            elif rule == "fixed_steps":
                passing = ranked[:due]
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
            left = start
            while left < start + block and ids[left] is not None:
                left += 1
                if left > len(prompt) and ids[left - 1] in stops and left - len(prompt) <= max_tokens:
                    return answer(left - 1, "stop")
            if left - len(prompt) >= max_tokens:
                return answer(len(prompt) + max_tokens, "length")
            if left == start + block:
                break
