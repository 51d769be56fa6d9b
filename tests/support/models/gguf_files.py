"""Writes Hugging Face checkpoints as GGUF files with the package ``gguf``, in llama.cpp's layout."""

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "Dream": gguf.MODEL_ARCH.DREAM,
    "llada": gguf.MODEL_ARCH.LLADA,
}


def write_gguf(
    directory: Path,
    path: Path,
    tokenizer: Tokenizer,
    *,
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    pre: str = "qwen2",
    leave_out: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
    special: dict[str, int] | None = None,
    chat_template: str | None = None,
    architecture: str | None = None,
) -> Path:
    """Writes the checkpoint in ``directory`` to ``path``.

    Args:
        quantization: of the matrices; vectors are fp32.
        pre: how text is cut into words.
        leave_out: metadata keys that are not written.
        extra: metadata keys of the architecture, without its name, and their values (whole numbers, numbers, texts).
        special: part (``bos``, ``eos``, ``mask``) -> token id.
        architecture: what the file calls the architecture, if not by its name.
    """
    config = json.loads((directory / "config.json").read_text())
    kind = ARCHITECTURES[config["model_type"]]
    layers, heads = config.get("n_layers", config.get("num_hidden_layers")), _heads(config)
    writer = gguf.GGUFWriter(path, architecture or gguf.MODEL_ARCH_NAMES[kind])
    hidden = config.get("d_model", config.get("hidden_size"))
    metadata: dict[str, Any] = {
        "block_count": layers,
        "embedding_length": hidden,
        "feed_forward_length": config.get("mlp_hidden_size", config.get("intermediate_size")),
        "context_length": config.get("max_sequence_length", config.get("max_position_embeddings")),
        "attention.head_count": heads[0],
        "attention.head_count_kv": heads[1],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(config["rope_theta"]),
    }
    if "head_dim" in config:
        metadata |= {"attention.key_length": config["head_dim"], "attention.value_length": config["head_dim"]}
    for key, value in (metadata | (extra or {})).items():
        if key not in leave_out:
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
            add(f"{writer.arch}.{key}", value)  # type: ignore[operator]
    _add_tokenizer(writer, tokenizer, pre, special or {}, chat_template, rows=config["vocab_size"])
    names = gguf.get_tensor_name_map(kind, layers)
    for name, tensor in load_file(directory / "model.safetensors").items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        if kind in (gguf.MODEL_ARCH.LLAMA, gguf.MODEL_ARCH.LLADA) and ("q_proj" in name or "k_proj" in name):
            tensor = interleaved(tensor, heads["k_proj" in name])
        values = tensor.float().numpy()
        if tensor.ndim == 2 and quantization != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(stored, gguf.quantize(values, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(stored, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(tensor: Tensor, heads: int) -> Tensor:
    """The rows of each head in the order 0, half, 1, half + 1, ...: what llama.cpp's rotation of neighbors needs."""
    size = len(tensor) // heads
    order = torch.stack((torch.arange(size // 2), torch.arange(size // 2) + size // 2), dim=1).flatten()
    return torch.cat([tensor[head * size :][:size][order] for head in range(heads)])


def _heads(config: dict[str, Any]) -> tuple[int, int]:
    if "n_heads" in config:
        return config["n_heads"], config["n_kv_heads"]
    return config["num_attention_heads"], config["num_key_value_heads"]


def _add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: Tokenizer, pre: str, special: dict[str, int], template: str | None, *, rows: int
) -> None:
    stored = json.loads(tokenizer.to_str())
    ids = stored["model"]["vocab"] | {token["content"]: token["id"] for token in stored["added_tokens"]}
    control = {token["id"] for token in stored["added_tokens"] if token["special"]}
    added = {token["id"] for token in stored["added_tokens"]} - control
    texts = {ident: text for text, ident in ids.items()}
    kinds = [
        gguf.TokenType.CONTROL if ident in control else gguf.TokenType.USER_DEFINED if ident in added
        else gguf.TokenType.NORMAL if ident in texts else gguf.TokenType.UNUSED
        for ident in range(rows)
    ]  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([texts.get(ident, f"[PAD{ident}]") for ident in range(rows)])
    writer.add_token_types(kinds)
    merges = stored["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for part, ident in special.items():
        writer.add_uint32(f"tokenizer.ggml.{part}_token_id", ident)
    if template is not None:
        writer.add_chat_template(template)
