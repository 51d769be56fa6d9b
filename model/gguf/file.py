"""Opens a GGUF file and reads its metadata; every problem is a ``CheckpointError`` that names the file and the key."""

import mmap
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdlm.model.config import CheckpointError

SUFFIX = ".gguf"
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
# Kind of value in the file -> its NumPy type, little-endian.
_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


def is_gguf(model: Path) -> bool:
    """Whether ``model`` names a GGUF file rather than a directory."""
    return model.suffix == SUFFIX and not model.is_dir()


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in the file.

    Attributes:
        name: its name.
        shape: its sizes, the outermost first.
        kind: number of its type (``gguf.GGMLQuantizationType``).
        offset: where its bytes begin, from the beginning of all tensors' bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class GgufFile:
    """Metadata and tensors of a GGUF file; the tensors stay in the file until they are read.

    The package ``gguf`` has a reader too; it takes over ten seconds for the vocabulary of a small model.

    Raises:
        CheckpointError: the file is missing, is not a GGUF file, or ends too early.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: the file is empty.
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        cursor = _Cursor(self._bytes)
        try:
            if cursor.take(4) != _MAGIC:
                raise CheckpointError(f"{path}: not a GGUF file")
            version, tensors, keys = cursor.unpack("<IQQ")
            if version not in _VERSIONS:
                known = " and ".join(map(str, _VERSIONS))
                raise CheckpointError(f"{path}: GGUF version {version} cannot be read; known: {known}, little-endian")
            self._values = {cursor.text(): cursor.value(cursor.unpack("<I")[0]) for _ in range(keys)}
            self.tensors = [cursor.tensor() for _ in range(tensors)]
        except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as error:
            raise CheckpointError(f"{path}: not a complete GGUF file: its metadata are damaged or cut off") from error
        alignment = self.integer("general.alignment", 32)
        self._data = -(-cursor.place // alignment) * alignment

    def data(self, tensor: StoredTensor, size: int) -> NDArray[np.uint8]:
        """[size] the bytes of a tensor.

        Raises:
            CheckpointError: the file ends before them.
        """
        begin = self._data + tensor.offset
        if begin + size > len(self._bytes):
            raise CheckpointError(f"{self.path}: not a complete GGUF file: it ends before tensor {tensor.name!r} does")
        return np.frombuffer(self._bytes, dtype=np.uint8, count=size, offset=begin)

    @cached_property
    def architecture(self) -> str:
        """``general.architecture``: what llama.cpp calls the kind of model."""
        return self.text("general.architecture")

    def has(self, key: str) -> bool:
        """Whether the metadata has ``key``."""
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        """The text of ``key``; an error if it is missing and there is no default."""
        return str(self._value(key, str, "a text", default))

    def integer(self, key: str, default: int | None = None) -> int:
        """The whole number of ``key``; an error if it is missing and there is no default."""
        return int(self._value(key, int, "a whole number", default))

    def number(self, key: str, default: float | None = None) -> float:
        """The number of ``key``; an error if it is missing and there is no default."""
        return float(self._value(key, int | float, "a number", default))

    def flag(self, key: str, default: bool) -> bool:
        """Whether ``key`` is true."""
        return bool(self._value(key, bool, "true or false", default))

    def items(self, key: str, kind: type) -> list[Any]:
        """The list of ``key``, whose items have the type ``kind``."""
        found: list[Any] = self._value(key, list, "a list", None)
        if not all(isinstance(item, kind) for item in found):
            raise CheckpointError(f"{self.path}: {key} is no list of {kind.__name__}")
        return found

    def own(self, key: str) -> str:
        """The key of the architecture that is called ``key``, for example ``llama.block_count``."""
        return f"{self.architecture}.{key}"

    def _value(self, key: str, kind: Any, wanted: str, default: Any) -> Any:
        if key not in self._values:
            if default is None:
                raise CheckpointError(f"{self.path}: {key} is missing; it must be {wanted}")
            return default
        value = self._values[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointError(f"{self.path}: {key} is {str(value)[:80]!r}, not {wanted}")
        return value


class _Cursor:
    """Reads one value after the other; raises ``struct.error`` or ``IndexError`` past the end."""

    def __init__(self, given: memoryview) -> None:
        self._given, self.place = given, 0

    def take(self, size: int) -> bytes:
        begin, self.place = self.place, self.place + size
        if self.place > len(self._given):
            raise IndexError
        return bytes(self._given[begin : self.place])

    def unpack(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def text(self) -> str:
        return self.take(self.unpack("<Q")[0]).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.unpack("<IQ")
            if inner in _NUMBERS:
                dtype = np.dtype(_NUMBERS[inner])
                return np.frombuffer(self.take(dtype.itemsize * count), dtype=dtype).tolist()
            return [self.value(inner) for _ in range(count)]
        if kind not in _NUMBERS:
            raise IndexError
        dtype = np.dtype(_NUMBERS[kind])
        found = np.frombuffer(self.take(dtype.itemsize), dtype=dtype)[0]
        # 1e-5 stored in fp32 means 1e-5, not what is left of it.
        return float(str(found)) if dtype.kind == "f" else found.item()

    def tensor(self) -> StoredTensor:
        name, (dimensions,) = self.text(), self.unpack("<I")
        if dimensions > 4:
            raise IndexError
        sizes = self.unpack(f"<{dimensions}Q")
        kind, offset = self.unpack("<IQ")
        return StoredTensor(name, tuple(reversed(sizes)), kind, offset)
