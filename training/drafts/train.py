"""Trains a draft adapter: masked rows behind known tokens learn to predict what the unmasked rows will."""

from pathlib import Path

import torch
from peft.helpers import disable_input_dtype_casting

from cdlm.model.backbones import find_backbone
from cdlm.model.device import keep_freed_memory
from cdlm.model.files import read_json
from cdlm.model.gguf.directory import checkpoint_directory
from cdlm.model.loading.adapter import Adapter, check_adapter, read_adapter, write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding, GatedDrafts
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.chain import Chain
from cdlm.model.network.transformer import Transformer
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.backbone.lora import AdapterParameters, adapter_weights, add_adapter, start_from
from cdlm.training.descent.loop import Loop
from cdlm.training.drafts.config import DraftAdapterConfig
from cdlm.training.drafts.objective import DraftObjective
from cdlm.training.drafts.rows import DraftRows
from cdlm.training.drafts.stream import DraftStream
from cdlm.training.errors import TrainingError


def train_draft_adapter(config: DraftAdapterConfig, directory: Path) -> None:
    """Trains or resumes the adapter in ``directory`` and writes ``directory/adapter``, a PEFT directory in bfloat16.

    Raises:
        CheckpointError: the base, its tokenizer, the adapter that is merged or the one to start from cannot be loaded.
        ConfigError: the configuration of the task adapter cannot be used.
        TrainingError: a file of the configuration gives no rows, the base is not a next-token model, the mask token is
            not in the vocabulary, the adapter to start from is another kind, or the loss or the gradient is not finite.
    """
    half = config.optimization.mixed_precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    base = load_checkpoint(config.model, device=torch.device("cpu"), dtype=dtype, adapter=config.adapter)
    if base.manifest.block_length != 1 or not base.manifest.shift:
        raise TrainingError(f"{config.model} is not a next-token model")
    tokenizer = load_tokenizer(config.model)
    mask_id = tokenizer.get_vocab().get(config.mask_token)
    if mask_id is None:
        raise TrainingError(f"mask_token {config.mask_token!r} is not in the vocabulary of {config.model}")
    stream = DraftStream(config, tokenizer)
    torch.manual_seed(config.seed)
    transformer = base.transformer
    backbone = find_backbone(read_json(checkpoint_directory(config.model), "config.json"))
    begun = None if config.start is None else read_adapter(config.start)
    updates = None if begun is None else check_adapter(transformer, begun, backbone)
    add_adapter(transformer, config.lora)
    if updates is not None:
        start_from(transformer, updates, config.lora)
    chain = _chain(config, transformer, begun)
    objective = DraftObjective(
        transformer, mask_id=mask_id, weights=config.losses, offset_decay=config.offset_decay, chain=chain
    )
    parameters, kept = AdapterParameters(transformer), stream.kept()
    if chain is not None:
        parameters.add_module("chain", chain)
    optimizer = torch.optim.AdamW(
        parameters.parameters(), lr=config.optimization.learning_rate, weight_decay=config.optimization.weight_decay,
        betas=(0.9, 0.98),
    )  # fmt: skip

    def export() -> None:
        write_adapter(
            directory / "adapter",
            {name: (down.bfloat16(), up.bfloat16()) for name, (down, up) in adapter_weights(transformer).items()},
            backbone=backbone,
            r=config.lora.r,
            alpha=config.lora.alpha,
            base=config.model.name,
            decoding=AdapterDecoding(drafts=GatedDrafts(mask_id, config.window, chained=chain is not None)),
            chain=chain,
        )

    loop: Loop[DraftRows] = Loop(
        directory, config.optimization, parameters, [optimizer],
        batches=stream.batches, loss=objective, measure=lambda: objective.measure(kept), export=export,
        autocast=half,
    )  # fmt: skip
    keep_freed_memory()  # The next step reuses the memory.
    with disable_input_dtype_casting(transformer):  # Autocast would cast back what PEFT casts.
        loop.run()


def _chain(config: DraftAdapterConfig, transformer: Transformer, begun: Adapter | None) -> Chain | None:
    """The chain to train: that of the adapter to start from, a new one, or none."""
    if not config.chain:
        return None
    chain = Chain(transformer.config.hidden_size, config.chain)
    if begun is not None and begun.chain is not None:
        if begun.chain.down.out_features != config.chain:
            raise TrainingError(f"start: its chain has a width of {begun.chain.down.out_features}, not {config.chain}")
        chain.load_state_dict(begun.chain.state_dict())
    return chain
