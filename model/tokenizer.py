"""Loads a checkpoint's tokenizer from disk with transformers, without running code from the checkpoint."""

from functools import cache
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from model.config import CheckpointError
from model.export import MODEL_TYPE


class _NativeConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Tells transformers that the project's own format exists; it would warn about an unknown one."""

    model_type = MODEL_TYPE


@cache
def _register() -> None:
    AutoConfig.register(MODEL_TYPE, _NativeConfig, exist_ok=True)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint directory, with its chat template if it has one.

    Raises:
        CheckpointError: the directory or its tokenizer is missing or unreadable.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    _register()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{directory}: cannot load the tokenizer: {error}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer
