"""An adapter over a next-token model: what the trainings of task adapters and of draft adapters have in common."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from cdlm.model.backbones import find_backbone
from cdlm.model.device import keep_freed_memory
from cdlm.model.files import read_json
from cdlm.model.gguf.directory import checkpoint_directory
from cdlm.model.loading.adapter import check_adapter, read_adapter, write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.chain import Chain
from cdlm.training.backbone.config import NextTokenAdapterConfig
from cdlm.training.backbone.lora import AdapterParameters, adapter_weights, add_adapter, start_from
from cdlm.training.descent.loop import Batch, Loop
from cdlm.training.errors import TrainingError


class NextTokenAdapter:
    """A next-token model with the adapter of a configuration, before its training; ``merged`` is merged into it first.

    ``begun`` is the adapter whose weights it begins with, ``None`` if it is new.

    Raises:
        CheckpointError: the base, or an adapter that it needs, cannot be loaded.
        TrainingError: the base is not a next-token model, or the adapter to start from is another kind.
    """

    def __init__(self, config: NextTokenAdapterConfig, merged: Path | None = None) -> None:
        self.config, self.half = config, config.optimization.mixed_precision == "bf16"
        base = load_checkpoint(config.model, dtype=torch.bfloat16 if self.half else torch.float32, adapter=merged)
        self.manifest, self.transformer = base.manifest, base.transformer
        if self.manifest.block_length != 1 or not self.manifest.shift:
            raise TrainingError(f"{config.model} is not a next-token model")
        self.backbone = find_backbone(read_json(checkpoint_directory(config.model), "config.json"))
        self.begun = None if config.start is None else read_adapter(config.start)
        updates = None if self.begun is None else check_adapter(self.transformer, self.begun, self.backbone)
        torch.manual_seed(config.seed)
        add_adapter(self.transformer, config.lora)
        if updates is not None:
            start_from(self.transformer, updates, config.lora)

    def train(
        self,
        directory: Path,
        batches: Callable[[int, int], Iterator[tuple[int, int, Batch]]],
        loss: Callable[[Batch], tuple[Tensor, dict[str, float]]],
        measure: Callable[[], dict[str, float]],
        decoding: AdapterDecoding,
        chain: Chain | None = None,
    ) -> None:
        """Trains it, with ``chain``, or resumes (see ``Loop``), and writes ``directory/adapter`` in bfloat16."""
        config, section = self.config, self.config.optimization
        parameters = AdapterParameters(self.transformer)
        if chain is not None:
            parameters.add_module("chain", chain)
        optimizer = torch.optim.AdamW(
            parameters.parameters(), lr=section.learning_rate, weight_decay=section.weight_decay, betas=(0.9, 0.98)
        )

        def export() -> None:
            weights = adapter_weights(self.transformer)
            write_adapter(
                directory / "adapter",
                {name: (down.bfloat16(), up.bfloat16()) for name, (down, up) in weights.items()},
                backbone=self.backbone,
                r=config.lora.r,
                alpha=config.lora.alpha,
                base=config.model.name,
                decoding=decoding,
                chain=chain,
            )

        loop: Loop[Batch] = Loop(
            directory, section, parameters, [optimizer],
            batches=batches, loss=loss, measure=measure, export=export, autocast=self.half,
        )  # fmt: skip
        keep_freed_memory()  # The next step reuses the memory.
        loop.run()
