"""Loads a checkpoint directory: ``config.json`` and safetensors weights, sharded or not. Never pickle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cdlm.model.backbones import Backbone, find_backbone, parameter_name
from cdlm.model.backbones.keys import stop_token_ids
from cdlm.model.backbones.token_names import TokenNames, read_token_names
from cdlm.model.config import CheckpointError, Manifest, TransformerConfig, check_mask
from cdlm.model.files import inside, read_json, read_shapes, read_tensors, weights_file
from cdlm.model.loading.adapter import Adapter, check_adapter, merge_adapter, read_adapter
from cdlm.model.loading.adapter_config import CONFIG_FILE as ADAPTER_CONFIG_FILE
from cdlm.model.loading.progress import show_progress
from cdlm.model.network.rope import stretch
from cdlm.model.network.transformer import Transformer
from cdlm.model.parallel.followers import Followers

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
# What older exports store beside the weights, and is computed from the configuration.
_COMPUTED = "rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A transformer on its device, ready to run, and how its blocks are decoded.

    ``followers`` hold the other shares of a transformer that is cut over several processes.
    """

    transformer: Transformer
    manifest: Manifest
    followers: Followers | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """What the files of a checkpoint directory say of it; no weight of it has been read.

    Attributes:
        directory: where it lies.
        backbone: its format.
        shape: of the whole transformer.
        manifest: how its blocks are decoded.
        names: what its tokenizer calls its tokens.
        adapter: what is merged into the weights, in memory.
    """

    directory: Path
    backbone: Backbone
    shape: TransformerConfig
    manifest: Manifest
    names: TokenNames
    adapter: Adapter | None

    def check_weights(self) -> None:
        """Compares names and shapes of the stored tensors, without reading them, with those that are needed.

        Raises:
            CheckpointError: loading would fail.
        """
        with torch.device("meta"):
            transformer = Transformer(self.shape)
        stock = _Stock(transformer, self.backbone)
        for path, stored, shape, dtype in read_shapes(_weight_files(self.directory)):
            stock.take(path, stored, shape, dtype, floating=dtype.startswith(("F", "BF")))
        stock.check_complete(self.directory)
        if self.adapter:
            check_adapter(transformer, self.adapter, self.backbone)


def describe_checkpoint(
    directory: Path,
    *,
    adapter: Path | None = None,
    block_length: int | None = None,
    confidence_threshold: float | None = None,
    max_model_len: int | None = None,
    rope_scaling_factor: float = 1.0,
) -> Description:
    """Reads everything but the weights; arguments and errors are those of ``load_checkpoint``."""
    if (directory / ADAPTER_CONFIG_FILE).exists() and not (directory / CONFIG_FILE).exists():
        raise CheckpointError(f"{directory}: holds a LoRA adapter, not a model; load it as the adapter of its base")
    config = read_json(directory, CONFIG_FILE)
    backbone = find_backbone(config.get("model_type"))
    names = read_token_names(directory)
    shape, manifest = backbone.read(config, names)
    names.check_fits(shape.vocab_size, directory)
    manifest = _with_generation_stops(manifest, shape.vocab_size, directory)
    lora = read_adapter(adapter) if adapter else None
    if lora:
        manifest = _override(manifest, lora.decoding.block_length, lora.decoding.confidence_threshold)
        manifest = replace(manifest, bidirectional=False)
    manifest = _override(manifest, block_length, confidence_threshold)
    check_mask(manifest, shape.vocab_size)
    shape, manifest = stretch(shape, manifest, rope_scaling_factor, max_model_len)
    return Description(directory, backbone, shape, manifest, names, lora)


def load_checkpoint(
    directory: Path,
    *,
    adapter: Path | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    block_length: int | None = None,
    confidence_threshold: float | None = None,
    max_model_len: int | None = None,
    rope_scaling_factor: float = 1.0,
    build: Callable[[TransformerConfig], Transformer] = Transformer,
) -> Checkpoint:
    """Builds the backbone that ``config.json`` describes and fills it with the stored weights.

    ``adapter`` is a directory with a LoRA adapter, which is merged into the weights and may bring its own block
    length and threshold. ``block_length`` and ``confidence_threshold`` replace the manifest's and the adapter's values.
    ``rope_scaling_factor`` stretches the positions that the weights know (``model/network/rope.py``);
    ``max_model_len`` is how many of them to use. ``build`` makes the transformer, or one rank's share of it, for a
    shape.

    Raises:
        CheckpointError: a file is missing, unreadable or leads out of the directory; a tensor is missing,
            unknown or misshapen; the format is not known; the tokenizer has tokens that the embedding has no row for;
            the adapter does not fit; ``max_model_len`` is more than the weights know.
    """
    described = describe_checkpoint(
        directory,
        adapter=adapter,
        block_length=block_length,
        confidence_threshold=confidence_threshold,
        max_model_len=max_model_len,
        rope_scaling_factor=rope_scaling_factor,
    )
    target = device or torch.device("cpu")
    with torch.device("meta"):
        transformer = build(described.shape).to(dtype)
    transformer.to_empty(device=target)
    transformer.tie_weights()
    transformer.rotary.reset(target)
    _fill(transformer, described.backbone, directory)
    if described.adapter:
        merge_adapter(transformer, described.adapter, described.backbone)
    return Checkpoint(transformer.eval().requires_grad_(False), described.manifest)


def _with_generation_stops(manifest: Manifest, vocab_size: int, directory: Path) -> Manifest:
    """Adds the ids that ``generation_config.json`` ends an answer with: chat models name more there than in theirs."""
    if not (directory / GENERATION_FILE).exists():
        return manifest
    found = stop_token_ids(read_json(directory, GENERATION_FILE), vocab_size, TokenNames(), file=GENERATION_FILE)
    return replace(manifest, stop_token_ids=tuple(dict.fromkeys((*manifest.stop_token_ids, *found))))


def _override(manifest: Manifest, block_length: int | None, confidence_threshold: float | None) -> Manifest:
    return replace(
        manifest,
        block_length=manifest.block_length if block_length is None else block_length,
        confidence_threshold=manifest.confidence_threshold if confidence_threshold is None else confidence_threshold,
    )


def _weight_files(directory: Path) -> list[Path]:
    if (directory / INDEX_FILE).exists():
        weight_map = read_json(directory, INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{directory / INDEX_FILE}: weight_map is missing")
        return [inside(directory, str(name)) for name in sorted(set(weight_map.values()))]
    return [weights_file(directory, SINGLE_FILE)]


class _Stock:
    """The tensors that files hold, each compared with the parameter that it fills."""

    def __init__(self, transformer: Transformer, backbone: Backbone) -> None:
        self._wanted = transformer.stored_shapes()
        self._tied = transformer.config.tie_word_embeddings
        self._backbone = backbone
        self._filled: set[str] = set()

    def take(self, path: Path, stored: str, shape: Sequence[int], dtype: object, *, floating: bool) -> str | None:
        """The parameter that a stored tensor fills; ``None`` for one that is not needed.

        Raises:
            CheckpointError: the architecture has none like it, or has it already.
        """
        name = parameter_name(self._backbone, stored)
        if stored.endswith(_COMPUTED) or (name == "lm_head.weight" and self._tied):
            return None
        if name is None or name not in self._wanted:
            raise CheckpointError(f"{path}: tensor {stored!r} is not part of this architecture")
        if name in self._filled:
            raise CheckpointError(f"{path}: tensor {stored!r} was stored in another file or under another name already")
        if tuple(shape) != self._wanted[name]:
            expected, found = tuple(self._wanted[name]), tuple(shape)
            raise CheckpointError(f"{path}: tensor {stored!r} has shape {found}, expected {expected}")
        if not floating:
            raise CheckpointError(f"{path}: tensor {stored!r} has dtype {dtype}, expected a float type")
        self._filled.add(name)
        return name

    def check_complete(self, directory: Path) -> None:
        """Raises ``CheckpointError`` where parameters were not filled."""
        missing = sorted(self._wanted.keys() - self._filled)
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise CheckpointError(f"{directory}: missing tensors: {', '.join(missing[:3])}{more}")


def _fill(transformer: Transformer, backbone: Backbone, directory: Path) -> None:
    stock = _Stock(transformer, backbone)
    paths = _weight_files(directory)
    for path, stored, tensor in show_progress(read_tensors(paths), paths):
        name = stock.take(path, stored, tensor.shape, tensor.dtype, floating=tensor.is_floating_point())
        for kept, part in () if name is None else transformer.parts(name, tensor):
            kept.copy_(part)  # From the file's pages into its place: converted on the way, held nowhere else.
    stock.check_complete(directory)
