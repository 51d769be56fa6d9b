"""The configuration of a GGUF file in the form of a Hugging Face ``config.json``."""

import re
from collections.abc import Mapping
from typing import Any

from cdlm.model.config import CheckpointError
from cdlm.model.gguf.file import GgufFile

_TOKENS = "tokenizer.ggml."
# Keys that change what is computed, with the only values that can be run.
_RUNNABLE: Mapping[str, object] = {
    "expert_count": 0,
    "rope.scaling.type": "none",
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
}
# Architecture -> ``model_type`` and class of the format.
_FORMATS = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "dream": ("Dream", "DreamModel"),
    "llada": ("llada", "LLaDAModelLM"),
}
# What LLaDA calls the keys of Llama and Qwen, and which of OLMo's layers it has.
_LLADA_NAMES = {
    "hidden_size": "d_model",
    "intermediate_size": "mlp_hidden_size",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "max_position_embeddings": "max_sequence_length",
    "tie_word_embeddings": "weight_tying",
}
_LLADA_LAYERS = {"block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "rope": True}


def read_config(file: GgufFile) -> dict[str, Any]:
    """The configuration that the file's metadata describe.

    Raises:
        CheckpointError: the architecture is unknown, or a key is missing or asks for what cannot be run.
    """
    if file.architecture not in _FORMATS:
        known = ", ".join(sorted(_FORMATS))
        raise CheckpointError(f"{file.path}: general.architecture {file.architecture!r} is not known; known: {known}")
    for name, runnable in _RUNNABLE.items():
        key = file.own(name)
        if file.has(key) and (found := _read(file, key, runnable)) != runnable:
            raise CheckpointError(f"{file.path}: {key} is {found!r}; only {runnable!r} can be run")
    _check_sizes(file)
    hidden_size, heads = _hidden(file), _heads(file)
    head_size = hidden_size // heads
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if file.architecture != "qwen3" and file.integer(file.own(name), head_size) != head_size:
            raise CheckpointError(f"{file.path}: {file.own(name)} is not {head_size}, the size of a head")
    model_type, name = _FORMATS[file.architecture]
    config = {
        "model_type": model_type,
        "architectures": [name],
        "vocab_size": vocabulary_size(file),
        "hidden_size": hidden_size,
        "intermediate_size": file.integer(file.own("feed_forward_length")),
        "num_hidden_layers": file.integer(file.own("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": file.integer(file.own("attention.head_count_kv"), heads),
        "head_dim": file.integer(file.own("attention.key_length"), head_size),
        "max_position_embeddings": file.integer(file.own("context_length")),
        "rope_theta": file.number(file.own("rope.freq_base"), 10_000.0),
        "rms_norm_eps": file.number(file.own("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in file.tensors),
        "eos_token_id": _ends(file),
        "mask_token_id": token_id(file, "mask"),
    }
    if file.architecture != "llada":
        return config
    biased = any(tensor.name == "blk.0.attn_q.bias" for tensor in file.tensors)
    renamed = {_LLADA_NAMES.get(key, key): value for key, value in config.items()}
    return {**renamed, **_LLADA_LAYERS, "include_qkv_bias": biased}


def token_id(file: GgufFile, name: str) -> int | None:
    """The id of a token that has a part to play: ``bos``, ``eos``, ``eot``, ``mask``, ``padding``, ``unknown``."""
    key = f"{_TOKENS}{name}_token_id"
    return file.integer(key) if file.has(key) else None


def vocabulary_size(file: GgufFile) -> int:
    """Rows of the embedding."""
    for tensor in file.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[0]
    raise CheckpointError(f"{file.path}: missing tensor token_embd.weight")


def _check_sizes(file: GgufFile) -> None:
    """Compares the sizes in the metadata with the tensors, before anything is made of these sizes."""
    numbers = [re.match(r"blk\.(\d+)\.", tensor.name) for tensor in file.tensors]
    layers = 1 + max((int(match[1]) for match in numbers if match), default=-1)
    key = file.own("block_count")
    if (stated := file.integer(key)) != layers:
        raise CheckpointError(f"{file.path}: {key} is {stated}, but there are tensors of {layers} layers")
    widths = {tensor.shape[-1] for tensor in file.tensors if tensor.name == "token_embd.weight" and tensor.shape}
    if widths != {_hidden(file)}:
        raise CheckpointError(f"{file.path}: {file.own('embedding_length')} is not the width of token_embd.weight")


def _read(file: GgufFile, key: str, like: object) -> object:
    return file.text(key) if isinstance(like, str) else file.number(key)


def _hidden(file: GgufFile) -> int:
    return file.integer(file.own("embedding_length"))


def _heads(file: GgufFile) -> int:
    heads = file.integer(file.own("attention.head_count"))
    if heads < 1 or _hidden(file) < heads:
        raise CheckpointError(f"{file.path}: {file.own('attention.head_count')} is {heads}")
    return heads


def _ends(file: GgufFile) -> int | list[int] | None:
    ends = [ident for ident in (token_id(file, "eos"), token_id(file, "eot")) if ident is not None]
    return ends or None
