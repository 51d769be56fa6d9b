"""The batched decoder of a bidirectional model equals an explicit loop over one prompt."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cdlm.model.decoding.logits.noise import gumbel_noise
from cdlm.model.loading.checkpoint import Checkpoint, load_checkpoint
from cdlm.training.decoding.full import FullDecoding, decode_full
from cdlm.training.decoding.rules import EngineRule
from tests.support.models.checkpoints import MASK, VOCAB, build_checkpoint
from tests.support.oracle.network import hidden_states

BLOCK = 4
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7], [9, 3], [2]]
ONE_TOKEN = EngineRule("fixed_steps")
AXES = pytest.mark.parametrize("axis", ["plain", "shifted"])


class Threshold:
    """Positions above a confidence, or the best one: rows advance at different speeds."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, confidence: Tensor, entropy: Tensor, masked: Tensor) -> Tensor:
        return (masked & (confidence > self.threshold)) | ONE_TOKEN(confidence, entropy, masked)


def checkpoint(tmp_path: Path, axis: str) -> Checkpoint:
    return load_checkpoint(build_checkpoint(tmp_path / axis, axis, block_length=BLOCK))


def decode(loaded: Checkpoint, prompts: list[list[int]], length: int, **changes: Any) -> list[FullDecoding]:
    arguments: dict[str, Any] = {"rule": ONE_TOKEN, "early_stop": False, "keep_hidden": True, **changes}
    return decode_full(loaded.transformer, loaded.manifest, prompts, generation_length=length, **arguments)


def reference(
    directory: Path,
    loaded: Checkpoint,
    prompt: list[int],
    length: int,
    *,
    count: int = 1,
    threshold: float = 1.0,
    temperature: float = 0.0,
    seed: int = 0,
    stops: tuple[int, ...] = (),
) -> FullDecoding:
    """One prompt, one position at a time: softmax, sort, place."""
    weights, manifest = load_file(directory / "model.safetensors"), loaded.manifest
    head = weights["lm_head.weight"]
    canvas = prompt + [MASK] * length
    sees = torch.ones(len(canvas), len(canvas), dtype=torch.bool)
    order, states, steps = [-1] * length, [torch.empty(0)] * length, 0
    for block in range(length // BLOCK):
        inside = range(block * BLOCK, (block + 1) * BLOCK)
        while any(order[i] < 0 for i in inside):
            hidden = hidden_states(weights, loaded.transformer.config, torch.tensor(canvas), sees)
            noise = gumbel_noise(seed, range((steps + 1) * BLOCK, (steps + 2) * BLOCK), VOCAB)
            steps += 1
            found = {}
            for i in inside:
                if order[i] < 0:
                    state = hidden[len(prompt) + i - (1 if manifest.shift else 0)]
                    logits = head @ state
                    logits[MASK] = float("-inf")
                    tempered = logits / temperature + noise[i - inside.start] if temperature else logits
                    token = int(tempered.argmax())
                    found[i] = (float(logits.softmax(-1)[token]), token, state)
            ranked = sorted(found, key=lambda i: -found[i][0])
            for place, i in enumerate(ranked):
                if place < count or found[i][0] > threshold:
                    order[i] = max(order) + 1
                    _, canvas[len(prompt) + i], states[i] = found[i]
        if any(canvas[len(prompt) + i] in stops for i in inside):
            length = inside.stop
            break
    tokens = torch.tensor(canvas[len(prompt) :][:length])
    return FullDecoding(tokens, torch.tensor(order[:length]), steps, torch.stack(states[:length]))


def assert_same(found: FullDecoding, wanted: FullDecoding) -> None:
    assert found.tokens.tolist() == wanted.tokens.tolist()
    assert found.order.tolist() == wanted.order.tolist()
    assert found.steps == wanted.steps
    assert found.hidden is not None
    assert wanted.hidden is not None
    torch.testing.assert_close(found.hidden, wanted.hidden, rtol=1e-3, atol=1e-4)


@AXES
@pytest.mark.parametrize("count", [1, 3])
def test_ragged_batch_equals_the_reference(tmp_path: Path, axis: str, count: int) -> None:
    loaded = checkpoint(tmp_path, axis)
    decodings = decode(loaded, PROMPTS, 12, rule=EngineRule("fixed_steps", at_least=count))
    assert [decoding.steps for decoding in decodings] == [12 if count == 1 else 6] * len(PROMPTS)
    for prompt, decoding in zip(PROMPTS, decodings, strict=True):
        assert_same(decoding, reference(tmp_path / axis, loaded, prompt, 12, count=count))


@AXES
def test_rows_advance_at_their_own_speed(tmp_path: Path, axis: str) -> None:
    loaded = checkpoint(tmp_path, axis)
    decodings = decode(loaded, PROMPTS, 16, rule=Threshold(0.3))
    assert len({decoding.steps for decoding in decodings}) > 1
    for prompt, decoding in zip(PROMPTS, decodings, strict=True):
        assert_same(decoding, reference(tmp_path / axis, loaded, prompt, 16, threshold=0.3))


@AXES
def test_early_stop_ends_rows_with_their_block(tmp_path: Path, axis: str) -> None:
    loaded = checkpoint(tmp_path, axis)
    whole = reference(tmp_path / axis, loaded, PROMPTS[0], 16).tokens.tolist()
    stops = (next(token for token in whole[4:8] if token not in whole[:4]),)
    loaded = replace(loaded, manifest=replace(loaded.manifest, stop_token_ids=stops))
    decodings = decode(loaded, PROMPTS, 16, early_stop=True)
    assert len(decodings[0].tokens) == 8
    assert len({len(decoding.tokens) for decoding in decodings}) > 1  # Rows left a batch that went on.
    for prompt, decoding in zip(PROMPTS, decodings, strict=True):
        assert_same(decoding, reference(tmp_path / axis, loaded, prompt, 16, stops=stops))


@AXES
def test_a_seeded_draw_is_its_own(tmp_path: Path, axis: str) -> None:
    loaded = checkpoint(tmp_path, axis)
    together = decode(loaded, [PROMPTS[0], *PROMPTS[:2]], 8, temperature=1.5, seeds=[7, 8, 9])
    assert together[0].tokens.tolist() != together[1].tokens.tolist()
    for prompt, seed, decoding in zip([PROMPTS[0], *PROMPTS[:2]], [7, 8, 9], together, strict=True):
        wanted = reference(tmp_path / axis, loaded, prompt, 8, temperature=1.5, seed=seed)
        assert_same(decoding, wanted)
        assert_same(decode(loaded, [prompt], 8, temperature=1.5, seeds=[seed])[0], wanted)


@AXES
def test_the_rule_sees_untempered_confidence_and_entropy_of_masked_positions(tmp_path: Path, axis: str) -> None:
    loaded = checkpoint(tmp_path, axis)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def rule(confidence: Tensor, entropy: Tensor, masked: Tensor) -> Tensor:
        seen.append((confidence, entropy, masked))
        return ONE_TOKEN(confidence, entropy, masked)

    [decoding] = decode(loaded, PROMPTS[:1], BLOCK, rule=rule, temperature=0.8, seeds=[5])
    assert decoding.hidden is not None
    logits = decoding.hidden @ loaded.transformer.lm_head.weight.T
    logits[:, MASK] = -1e9
    distribution = torch.distributions.Categorical(logits=logits)
    probability = distribution.log_prob(decoding.tokens).exp()
    for step, (confidence, entropy, masked) in enumerate(seen):
        assert torch.equal(masked[0], decoding.order >= step)
        placed = int(decoding.order.tolist().index(step))
        assert float(confidence[0, placed]) == pytest.approx(float(probability[placed]), rel=1e-4)
        assert float(entropy[0, placed]) == pytest.approx(float(distribution.entropy()[placed]), rel=1e-4)


def test_the_mask_token_is_never_placed_and_stays_in_a_prompt(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path, "plain")
    loaded.transformer.lm_head.weight.data[MASK] = loaded.transformer.lm_head.weight.data.abs().sum(0) * 4
    prompts = [[1, MASK, 2], [MASK]]
    for temperature in (0.0, 1.0):
        for decoding in decode(loaded, prompts, 8, temperature=temperature, seeds=[1, 2], keep_hidden=False):
            assert MASK not in decoding.tokens.tolist()
            assert decoding.hidden is None


def test_equal_confidences_go_from_left_to_right() -> None:
    confidence = torch.tensor([[0.5, 0.5, 0.9, 0.5], [0.9, 0.2, 0.1, 0.1]])
    masked = torch.tensor([[True, True, False, True], [False, False, True, True]])
    chosen = EngineRule("fixed_steps", at_least=2)(confidence, torch.zeros(2, 4), masked)
    assert chosen.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_runs_under_autocast(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path, "shifted")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decodings = decode(loaded, PROMPTS, 8)
    for decoding in decodings:
        assert decoding.order.sort().values.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("prompts", "length", "message"),
    [
        ([[1]], 6, "generation_length 6 is not a positive multiple of the block length 4"),
        ([[1], []], 8, "prompt 1 is empty"),
        ([[1] * 249], 8, "prompt 0: 249 tokens and 8 to generate exceed the model's limit of 256"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, prompts: list[list[int]], length: int, message: str) -> None:
    loaded = checkpoint(tmp_path, "plain")
    with pytest.raises(ValueError, match=message):
        decode(loaded, prompts, length)


def test_no_prompts_decode_to_nothing(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path, "plain")
    assert decode(loaded, [], 8) == []
