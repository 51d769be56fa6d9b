"""LoRA adapters (Hu et al., 2021, arXiv 2106.09685) in the directory format of PEFT: read, merge, write."""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cdlm.model.backbones import Backbone
from cdlm.model.backbones.base import split_name
from cdlm.model.config import CheckpointError
from cdlm.model.files import read_tensors, weights_file
from cdlm.model.loading.adapter_config import CONFIG_FILE, DECODING_FILE, AdapterConfig, AdapterDecoding, read_decoding
from cdlm.model.network.chain import Chain
from cdlm.model.network.gate import LowRankUpdate
from cdlm.model.network.transformer import Transformer

WEIGHTS_FILE, CHAIN_FILE = "adapter_model.safetensors", "chain.safetensors"

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter in memory.

    ``updates`` maps module names of the base's format to updates; ``chain`` is that of a gated adapter that has one.
    """

    path: Path
    config: AdapterConfig
    decoding: AdapterDecoding
    updates: Mapping[str, LowRankUpdate]
    chain: Chain | None = None


def read_adapter(directory: Path) -> Adapter:
    """Reads and validates an adapter written by PEFT or by ``write_adapter``.

    Raises:
        CheckpointError: a file is missing, pickled or unreadable; the configuration asks for more than plain LoRA; a
            tensor is unknown, lacks its A or B, or has another rank or module than the configuration says; the chain's
            tensors are not those of a chain.
    """
    config = AdapterConfig(directory)
    path = weights_file(directory, WEIGHTS_FILE)
    halves: dict[str, dict[str, Tensor]] = {}
    for _, key, tensor in read_tensors([path]):
        match = _KEY.fullmatch(key)
        if match is None or tensor.ndim != 2 or not tensor.is_floating_point():
            raise CheckpointError(f"{path}: tensor {key!r} is not a LoRA matrix of a linear layer")
        module, half = match.groups()
        if config.targets(module) is False:
            raise CheckpointError(f"{path}: tensor {key!r} is not among the target_modules of {CONFIG_FILE}")
        rank = tensor.shape[0 if half == "A" else 1]
        if rank != config.rank(module):
            raise CheckpointError(f"{path}: tensor {key!r} has rank {rank}, {CONFIG_FILE} says {config.rank(module)}")
        halves.setdefault(module, {})[half] = tensor
    if not halves:
        raise CheckpointError(f"{path}: holds no LoRA matrices")
    for module, pair in halves.items():
        if len(pair) < 2:
            raise CheckpointError(f"{path}: tensor lora_{'B' if 'A' in pair else 'A'} of {module!r} is missing")
    updates = {module: LowRankUpdate(pair["A"], pair["B"], config.scale(module)) for module, pair in halves.items()}
    decoding = read_decoding(directory)
    chained = decoding.drafts is not None and decoding.drafts.chained
    return Adapter(path, config, decoding, updates, _read_chain(directory) if chained else None)


def _read_chain(directory: Path) -> Chain:
    """Reads ``chain.safetensors``, as fp32.

    Raises:
        CheckpointError: the file is missing or unreadable, or its tensors are not those of a chain.
    """
    path, names = weights_file(directory, CHAIN_FILE), ("down.weight", "up.weight")
    tensors: dict[str, Tensor] = {key: tensor for _, key, tensor in read_tensors([path])}
    if tensors.keys() != set(names):
        raise CheckpointError(f"{path}: holds {', '.join(sorted(tensors)) or 'nothing'}, not {' and '.join(names)}")
    down, up = (tensors[name].float() for name in names)
    if not (down.ndim == up.ndim == 2 and down.shape == (up.shape[1], 2 * up.shape[0])):
        raise CheckpointError(f"{path}: down.weight {tuple(down.shape)} and up.weight {tuple(up.shape)} do not fit")
    with torch.device("meta"):
        chain = Chain(*up.shape)
    chain.load_state_dict({"down.weight": down, "up.weight": up}, assign=True)
    return chain.requires_grad_(False)


def check_adapter(transformer: Transformer, adapter: Adapter, backbone: Backbone) -> dict[str, LowRankUpdate]:
    """Checks that an adapter fits; returns its updates by names of the transformer's linear layers.

    Raises:
        CheckpointError: a module is not a linear layer of the base, its head is tied, a shape differs, or a layer
            that the adapter's configuration names has no tensors.
    """
    linears = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    shapes = transformer.stored_shapes()
    updates = {}
    for stored, update in adapter.updates.items():
        names = split_name(backbone.module_name(stored) or "")
        if not set(names) <= set(linears):
            raise CheckpointError(f"{adapter.path}: module {stored!r} is not a linear layer of the base")
        if names == ["lm_head"] and transformer.config.tie_word_embeddings:
            raise CheckpointError(f"{adapter.path}: module {stored!r} is tied to the embedding and cannot be adapted")
        rows = [shapes[f"{name}.weight"][0] for name in names]
        whole = (sum(rows), shapes[f"{names[0]}.weight"][1])
        shape = (update.up.shape[0], update.down.shape[1])
        if shape != whole:
            raise CheckpointError(
                f"{adapter.path}: the matrices of {stored!r} make an update of shape {shape}, "
                f"the base's weight has {whole}"
            )
        for name, up in zip(names, torch.split(update.up, rows), strict=True):
            updates[name] = replace(update, up=up)
    for name in linears:
        stored = backbone.stored_module(name)
        # Short target names, for example LLaDA's ``ff_out``, match the LM head by accident.
        if name != "lm_head" and adapter.config.targets(stored) and stored not in adapter.updates:
            raise CheckpointError(f"{adapter.path}: the tensors of {stored!r}, a target in {CONFIG_FILE}, are missing")
    return updates


def merge_adapter(transformer: Transformer, adapter: Adapter, backbone: Backbone) -> None:
    """Adds each update to its weight in place; computes in fp32 and rounds once to the weight's dtype.

    Raises:
        CheckpointError: as ``check_adapter``.
    """
    for name, update in check_adapter(transformer, adapter, backbone).items():
        device = transformer.get_submodule(name).get_parameter("weight").device
        up, down = (half.to(device, torch.float32) for half in (update.up, update.down))
        for weight, part in transformer.parts(f"{name}.weight", update.scale * (up @ down)):
            weight.copy_(weight.float() + part)


def write_adapter(
    directory: Path,
    lora: Mapping[str, tuple[Tensor, Tensor]],
    *,
    backbone: Backbone,
    r: int,
    alpha: float,
    base: str,
    decoding: AdapterDecoding,
    chain: Chain | None = None,
) -> None:
    """Writes a directory that ``read_adapter`` and PEFT load over the base; each file is replaced atomically.

    Args:
        directory: created if it does not exist.
        lora: module name in ``Transformer`` (``layers.0.self_attn.q_proj``) -> A [r, in] and B [out, r].
        backbone: the base's format, whose module names are written.
        r: rank of every pair.
        alpha: the update is ``alpha / r * B @ A``.
        base: where the base comes from; information only.
        decoding: tokens per block in the training and the threshold to decode with, or how a gated adapter drafts.
        chain: written beside it if ``decoding`` says that drafts are chained.

    Raises:
        ValueError: ``lora`` is empty, a pair has another rank than ``r``, a module has no name in the format, it is
            stored there as a part of another, or there is a chain without chained drafts, or the other way round.
    """
    if not lora:
        raise ValueError("an adapter needs at least one module")
    if (chain is not None) != (decoding.drafts is not None and decoding.drafts.chained):
        raise ValueError("a chain belongs to drafts that are chained, and only to these")
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in lora.items():
        if down.ndim != 2 or up.ndim != 2 or not down.shape[0] == up.shape[1] == r:
            raise ValueError(f"module {name!r}: A {tuple(down.shape)} and B {tuple(up.shape)} are not of rank {r}")
        stored = backbone.stored_module(name)
        if backbone.module_name(stored) != name:
            raise ValueError(f"module {name!r} is a part of {stored!r} in the format, which has one update")
        key = f"base_model.model.{stored}"
        tensors[f"{key}.lora_A.weight"] = down.detach().cpu().contiguous().clone()
        tensors[f"{key}.lora_B.weight"] = up.detach().cpu().contiguous().clone()
    config: dict[str, object] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        # Whole paths, since PEFT matches a bare ``ff_out`` with LLaDA's LM head too.
        "target_modules": sorted(backbone.stored_module(name) for name in lora),
        "modules_to_save": None,
    }
    directory.mkdir(parents=True, exist_ok=True)
    _replace(directory / WEIGHTS_FILE, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    if chain is not None:
        stored_chain = {name: part.detach().bfloat16().contiguous() for name, part in chain.state_dict().items()}
        _replace(directory / CHAIN_FILE, lambda path: save_file(stored_chain, path, metadata={"format": "pt"}))
    _replace(directory / DECODING_FILE, lambda path: _write_json(path, _decoding_keys(decoding)))
    _replace(directory / CONFIG_FILE, lambda path: _write_json(path, config))


def _decoding_keys(decoding: AdapterDecoding) -> dict[str, object]:
    if decoding.drafts is not None:
        keys = asdict(decoding.drafts)
        return {"gated": True, **{key: value for key, value in keys.items() if value is not False}}
    return {"block_length": decoding.block_length, "confidence_threshold": decoding.confidence_threshold}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.chmod(0o644)  # safetensors creates files that only their owner can read.
    os.replace(partial, path)
