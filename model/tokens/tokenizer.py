"""Loads a checkpoint's tokenizer with transformers, without running code from the checkpoint."""

from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from cdlm.model.backbones.llada import LladaBackbone
from cdlm.model.backbones.llama_qwen import FAST_DLLM_V2, SDAR, DreamBackbone
from cdlm.model.backbones.mixtures.llada2 import LLADA2
from cdlm.model.backbones.mixtures.sdar import SDAR_MOE
from cdlm.model.backbones.native import NativeBackbone
from cdlm.model.config import CheckpointError
from cdlm.model.files import check_links, read_json
from cdlm.model.gguf.directory import checkpoint_directory
from cdlm.model.tokens.chat_templates import default_template, use_template

CONFIG_FILE = "tokenizer_config.json"

# Tokenizer classes that checkpoints name -> class of transformers that reads the same files. The first is shipped as
# code; the second is what transformers would find, having imported torch, which a server process is started without.
_LIBRARY_CLASSES: dict[object, Any] = {"DreamTokenizer": Qwen2Tokenizer, "TokenizersBackend": PreTrainedTokenizerFast}


@cache
def _any_class() -> Any:
    """The loader of all other tokenizers, told of our formats: it would warn about an unknown ``model_type``."""
    from transformers import AutoConfig, AutoTokenizer, PretrainedConfig  # Imports torch.

    for backbone in (NativeBackbone, DreamBackbone, LladaBackbone, LLADA2, SDAR, SDAR_MOE, FAST_DLLM_V2):
        name = backbone.model_type
        # The base class warns about the old key rope_scaling, which published files have.
        known = type(f"{name}Config", (PretrainedConfig,), {"model_type": name, "rope_scaling": None})
        AutoConfig.register(name, known, exist_ok=True)
    return AutoTokenizer


def load_tokenizer(directory: Path, chat_template: Path | None = None) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a checkpoint: a directory, or a GGUF file.

    Its chat template comes from the file ``chat_template``, else from the checkpoint, else from the format's default.

    Raises:
        CheckpointError: the directory or its tokenizer is missing or unreadable, or the file is not a template.
    """
    directory = checkpoint_directory(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    check_links(directory)
    named = read_json(directory, CONFIG_FILE).get("tokenizer_class") if (directory / CONFIG_FILE).exists() else None
    loader = _LIBRARY_CLASSES.get(str(named)) or _any_class()
    try:
        tokenizer = loader.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # The libraries validate few values in these files.
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{directory}: cannot load the tokenizer: {kind}{reason}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if chat_template is not None:
        use_template(tokenizer, chat_template)
    elif not tokenizer.chat_template and (directory / "config.json").exists():
        model_type = read_json(directory, "config.json").get("model_type")
        tokenizer.chat_template = default_template(model_type, tokenizer.get_added_vocab())
    return tokenizer
