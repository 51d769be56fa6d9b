"""Engines that draft, over tiny autoregressive checkpoints."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cdlm.model.backbones import BACKBONES
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.adapter import write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding, GatedDrafts
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.chain import CANDIDATES, Chain
from cdlm.model.row import RowWork
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.options import EngineOptions
from tests.support.models.hf_references import random_lora
from tests.support.oracle.network import hidden_states
from tests.support.oracle.noise import draw

DRAFT_MASK = 5  # An ordinary token: as a mask it is embedded in masked rows only.
WINDOW = 3
RANK, ALPHA = 3, 6


def build_draft_adapter(
    directory: Path,
    base: Path,
    family: str = "cdlm",
    window: int = WINDOW,
    *,
    in_place: bool = False,
    chained: bool = False,
) -> Path:
    """A gated adapter with random weights for all layers of ``base``, and a random chain if its drafts are chained."""
    transformer = load_checkpoint(base).transformer
    linears = {name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    lora = random_lora(transformer, RANK, lambda name: name in linears - {"lm_head"})
    decoding = AdapterDecoding(drafts=GatedDrafts(DRAFT_MASK, window, in_place, chained))
    chain = random_chain(transformer.config.hidden_size) if chained else None
    write_adapter(
        directory, lora, backbone=BACKBONES[family], r=RANK, alpha=ALPHA, base="b", decoding=decoding, chain=chain
    )
    return directory


def random_chain(hidden_size: int) -> Chain:
    """A chain that changes most drafts."""
    chain, generator = Chain(hidden_size, width=7), torch.Generator().manual_seed(1)
    for weight in chain.parameters():
        weight.data = torch.randn(weight.shape, generator=generator)
    return chain


def drafting_engine(base: Path, adapter: Path, **options: Any) -> Engine:
    """An engine that drafts in steps of many requests."""
    given = {"model": str(base), "draft_adapter": str(adapter), "draft_rows": 128, "dtype": "float32"} | options
    return Engine(EngineOptions(**given))


def draft_by_hand(
    base: Path,
    adapter: Path,
    tokens: list[int],
    rows: int,
    params: DecodingParams,
    *,
    in_place: bool = False,
    following: int | None = None,
) -> list[int]:
    """What ``rows`` masked rows behind ``tokens`` draft, from a forward of their own by the slow decoder.

    ``following`` is the token behind ``tokens``, with which a chain begins; ``None`` if the adapter has no chain.

    In place, the last token and the masks after it are a window whose rows see each other and in which the adapter
    acts; the mask of the next token, which the model itself predicts, is not read.
    """
    weights = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    lora = load_file(adapter / "adapter_model.safetensors")
    gated = {}
    for key in (key for key in lora if key.endswith(".lora_A.weight")):
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        gated[f"{name}.weight"] = ALPHA / RANK * lora[key.replace("lora_A", "lora_B")] @ lora[key]
    known, total = len(tokens), len(tokens) + rows + in_place
    sees = torch.ones(total, total).tril().bool()
    window = known - in_place
    if in_place:
        sees[window:] = True
    ids = torch.tensor(tokens + [DRAFT_MASK] * (total - known))
    hidden = hidden_states(weights, load_checkpoint(base).transformer.config, ids, sees, gated, window)
    logits = hidden[total - rows :] @ weights.get("lm_head.weight", weights["embed_tokens.weight"]).T
    drafted: list[int] = []
    for row, line in enumerate(logits):
        if following is not None:
            before = drafted[-1] if drafted else following
            line = chained_by_hand(adapter, weights["embed_tokens.weight"], hidden[total - rows + row], before, line)
        if params.sampled:
            assert params.seed is not None
            drafted.append(draw(line, params.temperature, params.seed, known + 1 + row))
        else:
            drafted.append(int(line.argmax()))
    return drafted


def chained_by_hand(adapter: Path, embedding: Tensor, hidden: Tensor, before: int, logits: Tensor) -> Tensor:
    """One row's logits [vocab], changed by the token ``before`` what it drafts; only the best may be drafted."""
    weights = {name: tensor.float() for name, tensor in load_file(adapter / "chain.safetensors").items()}
    both = [each / (each.square().mean() + 1e-6).sqrt() for each in (hidden, embedding[before])]
    inner = weights["down.weight"] @ torch.cat(both)
    change = embedding @ (weights["up.weight"] @ (inner * torch.sigmoid(inner)))
    least = logits.sort(descending=True).values[CANDIDATES - 1] if len(logits) > CANDIDATES else logits.min()
    return torch.where(logits >= least, logits + change, float("-inf"))


def propose(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, truth: Mapping[str, Sequence[int]], agreement: float, seed: int = 0
) -> None:
    """Makes drafts agree with the answers in ``truth`` at a set rate per token, whatever the adapter drafts."""
    assert engine.runner.drafting is not None
    rng = random.Random(seed)

    def proposed(work: RowWork, accepted: list[int], drafted: list[int]) -> list[int]:
        (sequence,) = (each for each in engine.scheduler.running if each.row == work.row)
        answered = work.block_start - sequence.prompt_length + len(accepted)
        known = truth[sequence.request.request_id][answered : answered + len(drafted)]
        return [token if rng.random() < agreement else rng.randrange(engine_vocabulary(engine)) for token in known]

    monkeypatch.setattr(engine.runner.drafting.verifier, "propose", proposed)


def engine_vocabulary(engine: Engine) -> int:
    """Number of tokens that the engine's model knows."""
    return engine.runner.transformer.config.vocab_size


def count_accepted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, int, int]]:
    """What the engine's steps report: verifications, drafted tokens, and accepted ones."""
    sums = [0, 0, 0]
    names = ("verifications", "draft_tokens", "accepted_draft_tokens")
    make = engine.stats

    def stats(**figures: Any) -> Any:
        found = make(**figures)
        for place, name in enumerate(names):
            sums[place] += getattr(found, name)
        return found

    monkeypatch.setattr(engine, "stats", stats)
    return lambda: (sums[0], sums[1], sums[2])
