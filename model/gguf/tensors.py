"""The tensors of a GGUF file: their names in a ``Transformer``, and their values."""

import math
import re
from collections.abc import Iterator

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from torch import Tensor

from cdlm.model.config import CheckpointError
from cdlm.model.gguf.file import GgufFile, StoredTensor

_TOP = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Of these, llama.cpp rotates neighbors in pairs, and stores the halves of each head of queries and keys in turn.
_INTERLEAVED = ("llama", "llada")
# Types that are stored as they are.
_PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    GGMLQuantizationType.F64: torch.float64,
}


def parameter_of(stored: str) -> str | None:
    """The parameter that a tensor is: ``blk.0.attn_q.weight`` is ``layers.0.self_attn.q_proj.weight``."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", stored)
    if match is None:
        return None
    layer, name, kind = match.groups()
    module = _TOP.get(name) if layer is None else _IN_LAYER.get(name)
    if module is None:
        return None
    return f"{module}.{kind}" if layer is None else f"layers.{layer}.{module}.{kind}"


def read_shapes(file: GgufFile) -> Iterator[tuple[str, str | None, tuple[int, ...], str]]:
    """Yields (name in the file, parameter, shape, type) of each tensor; reads none.

    Raises:
        CheckpointError: a tensor's type is not known.
    """
    for tensor in file.tensors:
        yield tensor.name, parameter_of(tensor.name), tensor.shape, _kind(file, tensor).name


def read_bytes(file: GgufFile) -> int:
    """Bytes of all tensors as ``read_tensors`` yields them."""
    return sum(
        math.prod(tensor.shape) * _PLAIN.get(_kind(file, tensor), torch.float32).itemsize for tensor in file.tensors
    )


def read_tensors(file: GgufFile) -> Iterator[tuple[str, str | None, Tensor]]:
    """Yields (name in the file, parameter, values) of each tensor, one in memory at a time; quantized ones in fp32.

    Raises:
        CheckpointError: a tensor's type is not known, or the file ends before it does.
    """
    heads = file.integer(file.own("attention.head_count"))
    of = {"attn_q": heads, "attn_k": file.integer(file.own("attention.head_count_kv"), heads)}
    for tensor in file.tensors:
        values = _values(file, tensor)
        match = re.fullmatch(r"blk\.\d+\.(attn_[qk])\.(?:weight|bias)", tensor.name)
        if match and file.architecture in _INTERLEAVED:
            values = _halves(values, of[match[1]])
        yield tensor.name, parameter_of(tensor.name), values


def _kind(file: GgufFile, tensor: StoredTensor) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(tensor.kind)
    except ValueError as error:
        raise CheckpointError(
            f"{file.path}: tensor {tensor.name!r} has the type {tensor.kind}, which is not known"
        ) from error


def _values(file: GgufFile, tensor: StoredTensor) -> Tensor:
    kind = _kind(file, tensor)
    grouped, size = GGML_QUANT_SIZES[kind]
    *outer, inner = tensor.shape or (1,)
    if inner % grouped:
        raise CheckpointError(f"{file.path}: tensor {tensor.name!r} has rows of {inner}, not of groups of {grouped}")
    stored = file.data(tensor, math.prod(outer) * inner // grouped * size).copy()
    if kind in _PLAIN:
        return torch.from_numpy(stored).view(_PLAIN[kind]).view(tensor.shape)
    try:
        return torch.from_numpy(dequantize(stored.reshape(*outer, -1), kind)).view(tensor.shape)
    except NotImplementedError as error:
        raise CheckpointError(
            f"{file.path}: tensor {tensor.name!r} has the quantization {kind.name}, which cannot be read"
        ) from error


def _halves(values: Tensor, heads: int) -> Tensor:
    """Puts the first halves of each head before the second ones: [heads * size, ...] -> the same shape."""
    pairs = values.view(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.transpose(1, 2).reshape(values.shape)
