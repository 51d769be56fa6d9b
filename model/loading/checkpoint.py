"""Loads a checkpoint: a directory with ``config.json`` and safetensors weights, sharded or not, or a GGUF file."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cdlm.model.backbones import Backbone, find_backbone
from cdlm.model.backbones.keys import stop_token_ids
from cdlm.model.backbones.token_names import TokenNames, read_token_names
from cdlm.model.config import CheckpointError, Manifest, TransformerConfig, check_mask
from cdlm.model.files import read_json
from cdlm.model.gguf.directory import checkpoint_directory
from cdlm.model.loading.adapter import Adapter, check_adapter, merge_adapter, read_adapter
from cdlm.model.loading.adapter_config import CONFIG_FILE as ADAPTER_CONFIG_FILE
from cdlm.model.loading.drafter import Drafter, read_drafter
from cdlm.model.loading.guide import check_guide, cut_vocabulary
from cdlm.model.loading.stock import Stock
from cdlm.model.loading.weights import read_bytes, stored_shapes, stored_tensors, weight_files
from cdlm.model.network.rope import stretch
from cdlm.model.network.transformer import Transformer
from cdlm.model.parallel.followers import Followers
from cdlm.model.progress import Progress

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded transformer on its device, with its manifest.

    Attributes:
        followers: connects to the other tensor-parallel ranks, if there are any.
        drafter: a gated adapter that drafts for it, if there is one.
        guide: the transformer of its guide model, if there is one.
    """

    transformer: Transformer
    manifest: Manifest
    followers: Followers | None = None
    drafter: Drafter | None = None
    guide: Transformer | None = None

    @property
    def transformers(self) -> list[Transformer]:
        """The transformer and, if there is one, that of the guide model."""
        return [self.transformer] if self.guide is None else [self.transformer, self.guide]


@dataclass(frozen=True, slots=True)
class Description:
    """A checkpoint directory's metadata, read without its weights.

    Attributes:
        directory: the checkpoint directory, or a GGUF file.
        backbone: the checkpoint's format.
        shape: shape of the whole transformer.
        manifest: how its blocks are decoded.
        names: token texts and ids of its tokenizer.
        adapter: the adapter, in memory, to merge into the weights; ``None`` without one.
        draft_adapter: the gated adapter, in memory, that drafts; ``None`` without one.
        guide: the guide model; ``None`` without one.
    """

    directory: Path
    backbone: Backbone
    shape: TransformerConfig
    manifest: Manifest
    names: TokenNames
    adapter: Adapter | None
    draft_adapter: Adapter | None = None
    guide: "Description | None" = None

    def check_weights(self) -> None:
        """Compares names and shapes of the stored tensors with those that the transformer needs; reads no weights.

        Raises:
            CheckpointError: loading would fail.
        """
        with torch.device("meta"):
            transformer = Transformer(self.shape)
        stock = Stock(transformer, self.backbone)
        for path, name, shape, dtype, floating in stored_shapes(self.directory, self.backbone):
            stock.take(path, name, shape, dtype, floating=floating)
        stock.check_complete(self.directory)
        if self.adapter:
            check_adapter(transformer, self.adapter, self.backbone)
        if self.draft_adapter:
            read_drafter(transformer, self.draft_adapter, self.backbone, self.manifest)
        if self.guide:
            self.guide.check_weights()


def describe_checkpoint(
    directory: Path,
    *,
    adapter: Path | None = None,
    draft_adapter: Path | None = None,
    guide_model: Path | None = None,
    block_length: int | None = None,
    confidence_threshold: float | None = None,
    max_model_len: int | None = None,
    rope_scaling_factor: float = 1.0,
) -> Description:
    """Reads everything except the weights; arguments and errors as in ``load_checkpoint``."""
    if (directory / ADAPTER_CONFIG_FILE).exists() and not (directory / CONFIG_FILE).exists():
        raise CheckpointError(f"{directory}: holds a LoRA adapter, not a model; load it as the adapter of its base")
    described = checkpoint_directory(directory)
    config = read_json(described, CONFIG_FILE)
    backbone = find_backbone(config)
    names = read_token_names(described)
    shape, manifest = backbone.read(config, names)
    names.check_fits(shape.vocab_size, directory)
    manifest = _with_generation_stops(manifest, shape.vocab_size, described)
    lora = read_adapter(adapter) if adapter else None
    if lora and lora.decoding.drafts:
        raise CheckpointError(f"{adapter}: is a gated adapter, which drafts; load it as the draft adapter")
    if lora:
        manifest = _override(manifest, lora.decoding.block_length, lora.decoding.confidence_threshold)
        manifest = replace(manifest, bidirectional=False)
    manifest = _override(manifest, block_length, confidence_threshold)
    check_mask(manifest, shape.vocab_size)
    shape, manifest = stretch(shape, manifest, rope_scaling_factor, max_model_len)
    drafting = read_adapter(draft_adapter) if draft_adapter else None
    guide = describe_checkpoint(guide_model) if guide_model else None
    found = Description(directory, backbone, shape, manifest, names, lora, drafting, guide)
    if guide:
        check_guide(guide, found)
    return found


def load_checkpoint(
    directory: Path,
    *,
    adapter: Path | None = None,
    draft_adapter: Path | None = None,
    guide_model: Path | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    block_length: int | None = None,
    confidence_threshold: float | None = None,
    max_model_len: int | None = None,
    rope_scaling_factor: float = 1.0,
    build: Callable[[TransformerConfig], Transformer] = Transformer,
) -> Checkpoint:
    """Builds the transformer that ``config.json`` describes and loads its weights.

    Args:
        directory: the checkpoint directory, or a GGUF file.
        adapter: directory of a LoRA adapter, which is merged and may bring its own block length and threshold.
        draft_adapter: directory of a gated LoRA adapter, which drafts for an autoregressive checkpoint.
        guide_model: an autoregressive checkpoint with the same tokens, which says how many a step finalizes.
        device: device of the weights.
        dtype: dtype of the weights.
        block_length: tokens per block; replaces the manifest's and the adapter's value.
        confidence_threshold: replaces the manifest's and the adapter's value.
        max_model_len: most tokens of a request.
        rope_scaling_factor: extends the context of the weights (``model/network/rope.py``).
        build: makes the transformer, or one rank's share of it, for a shape.

    Raises:
        CheckpointError: a file is missing, unreadable or leads out of the directory; a tensor is missing, unknown or
            misshapen; the format is unknown; the tokenizer has tokens without a row in the embedding; the adapter or
            the guide model does not fit; ``max_model_len`` exceeds the weights' positions.
    """
    described = describe_checkpoint(
        directory,
        adapter=adapter,
        draft_adapter=draft_adapter,
        guide_model=guide_model,
        block_length=block_length,
        confidence_threshold=confidence_threshold,
        max_model_len=max_model_len,
        rope_scaling_factor=rope_scaling_factor,
    )
    described.check_weights()  # Before memory is taken for sizes that may be wrong.
    target = device or torch.device("cpu")
    transformer = _filled(described, target, dtype, build)
    if described.adapter:
        merge_adapter(transformer, described.adapter, described.backbone)
    drafter = None
    if described.draft_adapter:
        drafter = read_drafter(transformer, described.draft_adapter, described.backbone, described.manifest)
    guide = None
    if described.guide:
        guide = _filled(described.guide, target, dtype, Transformer)
        cut_vocabulary(guide, described.shape.vocab_size)
        guide.eval().requires_grad_(False)
    return Checkpoint(transformer.eval().requires_grad_(False), described.manifest, drafter=drafter, guide=guide)


def _with_generation_stops(manifest: Manifest, vocab_size: int, directory: Path) -> Manifest:
    """Adds the end tokens of ``generation_config.json``: chat models list more there than in ``config.json``."""
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


def _allocate(transformer: Transformer, device: torch.device) -> None:
    """Gives a transformer on the meta device room on this one.

    ``to_empty`` would ask the meta tensors, for which torch imports its compiler.
    """
    for module in transformer.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            room = torch.empty(weight.shape, dtype=weight.dtype, device=device)
            setattr(module, name, torch.nn.Parameter(room, requires_grad=weight.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def _filled(
    described: Description,
    device: torch.device,
    dtype: torch.dtype,
    build: Callable[[TransformerConfig], Transformer],
) -> Transformer:
    """The transformer of a checkpoint with its weights; adapters are left out."""
    with torch.device("meta"):
        transformer = build(described.shape).to(dtype)
    _allocate(transformer, device)
    transformer.tie_weights()
    transformer.rotary.reset(device)
    backbone, directory = described.backbone, described.directory
    stock = Stock(transformer, backbone)
    count, started = len(weight_files(directory)), time.monotonic()
    with Progress("weights", read_bytes(directory)) as progress:
        for path, stored, tensor in stored_tensors(directory, backbone):
            taken = stock.take(path, stored, tensor.shape, tensor.dtype, floating=tensor.is_floating_point())
            for name, whole in stock.rows_of(taken, tensor):
                for kept, part in transformer.parts(name, whole):
                    kept.copy_(part)  # Copies and converts from the mapped file, without an intermediate tensor.
            progress.add(tensor.nbytes, f"in {path.name}")
    logger.info("weights: %.2f GB from %d files in %.1f s", progress.done / 1e9, count, time.monotonic() - started)
    stock.check_complete(directory)
    return transformer
