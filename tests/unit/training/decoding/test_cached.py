"""Teacher decoders with caches: exact when they refresh at every step, cheaper and still valid when they do not."""

import dataclasses
import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cdlm.model.loading.checkpoint import Checkpoint, load_checkpoint
from cdlm.model.network.transformer import Transformer
from cdlm.training.decoding.block_caches import DualCacheDecoder, PrefixCacheDecoder
from cdlm.training.decoding.decoder import CachedDecoder, FullDecoder, TeacherDecoder
from cdlm.training.decoding.dkv_cache import DelayedCacheDecoder
from cdlm.training.decoding.dllm_cache import AdaptiveCacheDecoder
from cdlm.training.decoding.rules import EngineRule, Rule
from tests.support.models.checkpoints import EOS, MASK, VOCAB, build_checkpoint
from tests.support.oracle.rules import pass_entropy_bound

LENGTH, BLOCK = 16, 8
STOPS = tuple(range(58, EOS + 1))  # Several, so that some rows of a batch end early and others do not.
ONE_TOKEN, SURE = EngineRule("fixed_steps"), EngineRule("threshold", 0.4)
BOUNDED = EngineRule("entropy_bound", 1.0)
BOTH_SHIFTS = pytest.mark.parametrize("axis", ["plain", "shifted"])
Make = Callable[..., TeacherDecoder]

# Decoders that compute everything at every step, and the rule they follow.
EXACT: dict[str, tuple[Make, Rule]] = {
    "prefix": (functools.partial(PrefixCacheDecoder, rule=SURE, refresh_interval=1), SURE),
    "dual": (functools.partial(DualCacheDecoder, rule=BOUNDED, refresh_interval=1), BOUNDED),
    "dkv": (functools.partial(DelayedCacheDecoder, refresh_interval=1), ONE_TOKEN),
    "dllm": (functools.partial(AdaptiveCacheDecoder, prompt_interval=1, response_interval=1), ONE_TOKEN),
    "dllm_ratio": (
        functools.partial(AdaptiveCacheDecoder, prompt_interval=1, response_interval=99, ratio=1.0),
        ONE_TOKEN,
    ),
}
PUBLISHED: dict[str, tuple[type[CachedDecoder], Rule]] = {
    "prefix": (PrefixCacheDecoder, EngineRule("threshold", 0.9)),
    "dual": (DualCacheDecoder, EngineRule("threshold", 0.9)),
    "dkv": (DelayedCacheDecoder, ONE_TOKEN),
    "dllm": (AdaptiveCacheDecoder, ONE_TOKEN),
}


@functools.cache
def checkpoint(directory: Path, axis: str) -> Checkpoint:
    return load_checkpoint(build_checkpoint(directory / axis, axis, stop_token_ids=STOPS))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    directory = tmp_path_factory.mktemp("models")
    return lambda axis: checkpoint(directory, axis)


def make(maker: Make, loaded: Checkpoint, *, early_stop: bool = False, **options: Any) -> TeacherDecoder:
    return maker(loaded.transformer, loaded.manifest, generation_length=LENGTH, early_stop=early_stop, **options)  # type: ignore[return-value]


def some_prompts(seed: int = 0, lengths: tuple[int, ...] = (5, 11, 5, 5, 11, 1)) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(EOS) for _ in range(length)] for length in lengths]


@BOTH_SHIFTS
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("early_stop", [False, True])
def test_refreshing_at_every_step_equals_the_full_decoder(
    models: Callable[[str], Checkpoint], axis: str, name: str, early_stop: bool
) -> None:
    loaded, (maker, rule) = models(axis), EXACT[name]
    prompts = [*some_prompts(), [1, MASK, 3]]
    answers = make(maker, loaded, early_stop=early_stop)(prompts)
    truth = make(FullDecoder, loaded, early_stop=early_stop, rule=rule)(prompts)
    assert [(a.tokens, a.steps, a.filled) for a in answers] == [(t.tokens, t.steps, t.filled) for t in truth]
    assert [a.computed for a in answers] == [t.computed for t in truth]


@BOTH_SHIFTS
@pytest.mark.parametrize("name", PUBLISHED)
def test_caching_saves_work_and_yields_whole_answers(models: Callable[[str], Checkpoint], axis: str, name: str) -> None:
    loaded, (maker, rule) = models(axis), PUBLISHED[name]
    for prompt in some_prompts():
        (answer,) = make(maker, loaded)([prompt])
        (full,) = make(FullDecoder, loaded, rule=rule)([prompt])
        assert answer.filled == LENGTH
        assert LENGTH // BLOCK <= answer.steps <= LENGTH
        assert answer.computed / answer.steps < 0.9 * full.computed / full.steps
        assert all(0 <= token < VOCAB and token not in (MASK, *STOPS) for token in answer.tokens)


def one_layer(loaded: Checkpoint) -> Checkpoint:
    """Keys and values of its only layer depend on nothing but the token and its place."""
    model = Transformer(dataclasses.replace(loaded.transformer.config, num_layers=1)).eval().requires_grad_(False)
    model.load_state_dict(loaded.transformer.state_dict(), strict=False)
    return Checkpoint(model, loaded.manifest)


@BOTH_SHIFTS
@pytest.mark.parametrize("name", ["prefix", "dual", "dkv"])
def test_no_stale_token_is_ever_seen(models: Callable[[str], Checkpoint], axis: str, name: str) -> None:
    """With one layer a cached key or value is right if its position was computed since its token was placed."""
    loaded, prompts = one_layer(models(axis)), some_prompts(3)
    decoder = make(PUBLISHED[name][0], loaded, **({"refresh_interval": 99} if name == "dkv" else {}))
    truth = make(FullDecoder, loaded, rule=PUBLISHED[name][1])(prompts)
    assert [(a.tokens, a.steps) for a in decoder(prompts)] == [(t.tokens, t.steps) for t in truth]


@BOTH_SHIFTS
def test_the_adaptive_cache_finds_the_position_that_changed(models: Callable[[str], Checkpoint], axis: str) -> None:
    loaded = one_layer(models(axis))
    decoder = AdaptiveCacheDecoder(
        loaded.transformer, loaded.manifest, generation_length=LENGTH, early_stop=False, ratio=1 / LENGTH,
        response_interval=99,
    )  # fmt: skip
    forward: Any = decoder.forward(3)
    rng = random.Random(0)
    ids = torch.tensor([[7, 8, 9, *[MASK] * LENGTH], [1, 2, 3, *[MASK] * LENGTH]])
    with torch.inference_mode():
        for step in range(LENGTH):
            computed = forward.advance(ids, 3, step)
            assert computed == (3 + LENGTH if step == 0 else 1)
            fresh: Any = decoder.forward(3)
            fresh.advance(ids, 3, 0)
            torch.testing.assert_close(forward.features[0].key, fresh.features[0].key)
            torch.testing.assert_close(forward.features[0].value, fresh.features[0].value)
            for row in range(2):
                masked = (ids[row] == MASK).nonzero()[:, 0].tolist()
                ids[row, rng.choice(masked)] = rng.randrange(EOS)


@BOTH_SHIFTS
def test_the_work_of_each_schedule(models: Callable[[str], Checkpoint], axis: str) -> None:
    loaded = models(axis)
    shift, prompt = int(loaded.manifest.shift), [3, 1, 4, 1]
    whole, one_token = len(prompt) + LENGTH, {"rule": ONE_TOKEN}
    suffixes = (LENGTH, LENGTH - BLOCK)
    (prefix,) = make(PrefixCacheDecoder, loaded, **one_token)([prompt])
    assert prefix.computed == sum(whole + 7 * (suffix + shift) for suffix in suffixes)
    (dual,) = make(DualCacheDecoder, loaded, **one_token)([prompt])
    assert dual.computed == 2 * (whole + 7 * (BLOCK + shift))
    (dllm,) = make(AdaptiveCacheDecoder, loaded, prompt_interval=10, response_interval=5, ratio=0.25)([prompt])
    assert dllm.computed == 2 * len(prompt) + 4 * LENGTH + (LENGTH - 4) * 4
    if not shift:
        # After its opening forward, step k of a block computes the masks that are left and the token of step k - 1.
        (dkv,) = make(DelayedCacheDecoder, loaded)([prompt])
        assert dkv.computed == sum(whole + sum(suffix - k + 1 for k in range(1, BLOCK)) for suffix in suffixes)


@BOTH_SHIFTS
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("early_stop", [False, True])
def test_a_batch_equals_one_by_one(models: Callable[[str], Checkpoint], axis: str, name: str, early_stop: bool) -> None:
    loaded = models(axis)
    decoder = make(PUBLISHED[name][0], loaded, early_stop=early_stop)
    prompts = some_prompts(1, (6, 6, 9, 6, 6, 9))
    assert decoder(prompts) == [decoder([prompt])[0] for prompt in prompts]


def test_early_stopping_ends_a_row_with_its_block_and_cuts_the_same_answer(models: Callable[[str], Checkpoint]) -> None:
    loaded = models("shifted")
    prompts = some_prompts(2, (4,) * 24)
    for name, (maker, _) in PUBLISHED.items():
        whole, cut = make(maker, loaded)(prompts), make(maker, loaded, early_stop=True)(prompts)
        assert [a.tokens for a in cut] == [a.tokens for a in whole], name
        assert all(a.filled == min(LENGTH, len(a.tokens) // BLOCK * BLOCK + BLOCK) for a in cut)
        assert any(a.filled < LENGTH for a in cut)
        assert all(a.filled == LENGTH for a in whole)


@pytest.mark.parametrize("seed", range(3))
def test_rules_equal_the_plain_reference(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(5, 8, 9, generator=generator)).softmax(-1)
    confidence, entropy = probabilities.amax(-1), torch.special.entr(probabilities).sum(-1)
    masked = torch.rand(5, 8, generator=generator) < 0.7
    masked[4] = False
    for row in range(5):
        sure = {i: float(confidence[row, i]) for i in range(8) if masked[row, i]}
        unsure = {i: float(entropy[row, i]) for i in sure}
        expected: list[tuple[Rule, set[int]]] = [
            (EngineRule("threshold", 0.7), {i for i in sure if sure[i] > 0.7 or sure[i] == max(sure.values())}),
            (EngineRule("entropy_bound", 0.4), set(pass_entropy_bound(unsure, 0.4)) if unsure else set()),
        ]
        for rule, places in expected:
            assert set(rule(confidence, entropy, masked)[row].nonzero()[:, 0].tolist()) == places


def test_decoders_refuse_what_they_cannot_do(models: Callable[[str], Checkpoint]) -> None:
    loaded = models("plain")
    fixed: dict[str, Any] = {"generation_length": LENGTH, "early_stop": False}
    parts = (loaded.transformer, loaded.manifest)
    with pytest.raises(ValueError, match="multiple of the block length 8"):
        DualCacheDecoder(*parts, generation_length=12, early_stop=False)
    with pytest.raises(ValueError, match="refresh_interval must be positive, got 0"):
        PrefixCacheDecoder(*parts, **fixed, refresh_interval=0)
    with pytest.raises(ValueError, match="refresh_interval must be positive, got -1"):
        DelayedCacheDecoder(*parts, **fixed, refresh_interval=-1)
    with pytest.raises(ValueError, match="intervals must be positive"):
        AdaptiveCacheDecoder(*parts, **fixed, response_interval=0)
    with pytest.raises(ValueError, match="ratio must lie in"):
        AdaptiveCacheDecoder(*parts, **fixed, ratio=0.0)
    for prompt in ([], [1] * 250):
        with pytest.raises(ValueError, match=f"a prompt of {len(prompt)} tokens"):
            DualCacheDecoder(*parts, **fixed)([prompt])
