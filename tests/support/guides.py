"""Guide models for tiny diffusion models, and engines that have one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.segments import Segment
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.options import EngineOptions
from tests.support.models.checkpoints import build_checkpoint
from tests.support.oracle.guide import OracleGuide
from tests.support.oracle.network import hidden_states

FAVORITES = (3, 8)


def build_guide(directory: Path, seed: int = 90, **changes: Any) -> Path:
    """A random next-token model without a mask token."""
    return build_checkpoint(directory, "autoregressive_without_mask", seed, **changes)


def favor_two_tokens(directory: Path, tokens: tuple[int, int] = FAVORITES) -> Path:
    """Makes two tokens likely everywhere: models with the same favorites agree often, and not always."""

    def change(weights: dict[str, Tensor]) -> None:
        embedding = weights["embed_tokens.weight"]
        embedding += 0.5  # Hidden states have that in common, and the favorites' logits grow with it.
        shape, count = load_checkpoint(directory).transformer.config, len(embedding)
        sees = torch.ones(count, count).tril().bool()
        common = hidden_states(weights, shape, torch.arange(count), sees).mean(0)
        weights["lm_head.weight"][list(tokens)] += 2.5 * common / common.norm()

    return _change(directory, change)


def pair(directory: Path, axis: str = "plain", seed: int = 4, **manifest: Any) -> tuple[Path, Path]:
    """A diffusion model and a guide that agree now and then."""
    model = build_checkpoint(directory / "model", axis, seed, **manifest)
    if "tied" not in axis:
        favor_two_tokens(model)
    return model, favor_two_tokens(build_guide(directory / "guide"))


def flatten_head(directory: Path) -> Path:
    """Makes all tokens alike: the most probable one is the first."""

    def change(weights: dict[str, Tensor]) -> None:
        weights["lm_head.weight"] *= 0.0

    return _change(directory, change)


def _change(directory: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return directory


def oracle_guide(directory: Path) -> OracleGuide:
    """A guide model for the slow decoder."""
    transformer = load_checkpoint(directory).transformer
    return OracleGuide({name: weight.float() for name, weight in transformer.named_parameters()}, transformer.config)


def guided_engine(model: Path, guide: Path, **options: Any) -> Engine:
    """An engine with small pages, which also checks those of the guide."""
    engine = Engine(EngineOptions(**{"model": str(model), "guide_model": str(guide), "page_size": 4, **options}))
    check_engine = engine.check

    def check() -> None:
        check_engine()
        check_pages(engine)

    engine.check = check  # type: ignore[method-assign]
    return engine


def check_pages(engine: Engine) -> None:
    """Compares the guide's keys and values at finished positions with those of a forward over all of them."""
    guiding = engine.runner.guiding
    assert guiding is not None
    size = guiding.cache.page_size
    for sequence in engine.scheduler.running:
        count = sequence.computed
        if not count:
            continue
        plain = PagedCache(
            guiding.transformer.config,
            num_pages=-(-count // size),
            page_size=size,
            device=guiding.cache.keys.device,
            dtype=guiding.cache.keys.dtype,
        )
        laid = guiding.attention(plain, [Segment(0, count, list(range(-(-count // size))), causal=True)])
        ids = torch.tensor(sequence.token_ids[:count]).clamp(max=guiding.transformer.config.vocab_size - 1)
        with torch.inference_mode():
            guiding.transformer(ids, laid.positions, laid)
        if not plain.keys.isfinite().all():
            continue  # A spoilt model: in how far it spoils the tokens before depends on the pieces of a forward.
        slots = torch.from_numpy(Segment(0, count, sequence.pages).slots(size))
        for kept, fresh in ((guiding.cache.keys, plain.keys), (guiding.cache.values, plain.values)):
            assert torch.allclose(kept[:, slots], fresh[:, :count], atol=1e-4), sequence.request.request_id
