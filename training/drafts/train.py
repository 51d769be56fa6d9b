"""Trains a draft adapter: masked rows behind known tokens learn to predict what the unmasked rows will."""

from pathlib import Path

from peft.helpers import disable_input_dtype_casting

from cdlm.model.loading.adapter_config import AdapterDecoding, GatedDrafts
from cdlm.model.network.chain import Chain
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.backbone.next_token import NextTokenAdapter
from cdlm.training.drafts.config import DraftAdapterConfig
from cdlm.training.drafts.objective import DraftObjective
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
    adapter = NextTokenAdapter(config, merged=config.adapter)
    chain = _chain(config, adapter)
    tokenizer = load_tokenizer(config.model)
    mask_id = tokenizer.get_vocab().get(config.mask_token)
    if mask_id is None:
        raise TrainingError(f"mask_token {config.mask_token!r} is not in the vocabulary of {config.model}")
    stream = DraftStream(config, tokenizer)
    objective = DraftObjective(
        adapter.transformer, mask_id=mask_id, weights=config.losses, offset_decay=config.offset_decay, chain=chain
    )
    kept = stream.kept()
    decoding = AdapterDecoding(drafts=GatedDrafts(mask_id, config.window, chained=chain is not None))
    with disable_input_dtype_casting(adapter.transformer):  # Autocast would cast back what PEFT casts.
        adapter.train(directory, stream.batches, objective, lambda: objective.measure(kept), decoding, chain)


def _chain(config: DraftAdapterConfig, adapter: NextTokenAdapter) -> Chain | None:
    """The chain to train: that of the adapter to start from, a new one, or none."""
    if not config.chain:
        return None
    chain, begun = Chain(adapter.transformer.config.hidden_size, config.chain), adapter.begun
    if begun is not None and begun.chain is not None:
        if begun.chain.down.out_features != config.chain:
            raise TrainingError(f"start: its chain has a width of {begun.chain.down.out_features}, not {config.chain}")
        chain.load_state_dict(begun.chain.state_dict())
    return chain
