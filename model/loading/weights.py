"""The stored tensors of a checkpoint, under the names of its format: of safetensors files, or of a GGUF file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from cdlm.model.backbones import Backbone
from cdlm.model.config import CheckpointError
from cdlm.model.files import inside, read_json, read_shapes, read_tensors, weights_file
from cdlm.model.gguf.file import GgufFile, is_gguf

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


def weight_files(checkpoint: Path) -> list[Path]:
    """The files that hold the weights.

    Raises:
        CheckpointError: one is missing or leads out of the directory.
    """
    if is_gguf(checkpoint):
        return [checkpoint]
    if (checkpoint / INDEX_FILE).exists():
        weight_map = read_json(checkpoint, INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{checkpoint / INDEX_FILE}: weight_map is missing")
        return [inside(checkpoint, str(name)) for name in sorted(set(weight_map.values()))]
    return [weights_file(checkpoint, SINGLE_FILE)]


def read_bytes(checkpoint: Path) -> int:
    """Bytes of all tensors as ``stored_tensors`` yields them."""
    if is_gguf(checkpoint):
        from cdlm.model.gguf import tensors as gguf_tensors

        return gguf_tensors.read_bytes(GgufFile(checkpoint))
    return sum(path.stat().st_size for path in weight_files(checkpoint))


def stored_shapes(checkpoint: Path, backbone: Backbone) -> Iterator[tuple[Path, str, Sequence[int], str, bool]]:
    """Yields (file, name, shape, dtype, whether it holds numbers with fractions) per tensor; reads none."""
    if is_gguf(checkpoint):
        from cdlm.model.gguf import tensors as gguf_tensors

        for name, parameter, sizes, kind in gguf_tensors.read_shapes(GgufFile(checkpoint)):
            floating = kind not in ("I8", "I16", "I32", "I64")
            yield checkpoint, _stored(backbone, name, parameter), sizes, kind, floating
        return
    for path, name, shape, dtype in read_shapes(weight_files(checkpoint)):
        yield path, name, shape, dtype, dtype.startswith(("F", "BF"))


def stored_tensors(checkpoint: Path, backbone: Backbone) -> Iterator[tuple[Path, str, Tensor]]:
    """Yields (file, name, tensor on the CPU), one in memory at a time; quantized ones of GGUF files in fp32."""
    if is_gguf(checkpoint):
        from cdlm.model.gguf import tensors as gguf_tensors

        for name, parameter, tensor in gguf_tensors.read_tensors(GgufFile(checkpoint)):
            yield checkpoint, _stored(backbone, name, parameter), tensor
        return
    yield from read_tensors(weight_files(checkpoint))


def _stored(backbone: Backbone, name: str, parameter: str | None) -> str:
    """A GGUF tensor's name in the format; its own if it is none of a transformer's parameters."""
    if parameter is None:
        return name
    module, _, leaf = parameter.rpartition(".")
    return f"{backbone.stored_module(module)}.{leaf}"
