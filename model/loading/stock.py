"""Matches what a checkpoint stores with what a transformer needs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from cdlm.model.backbones import Backbone, parameter_name
from cdlm.model.backbones.base import split_name
from cdlm.model.config import CheckpointError
from cdlm.model.network.transformer import Transformer


class Stock:
    """Matches stored tensors with the transformer's parameters."""

    def __init__(self, transformer: Transformer, backbone: Backbone) -> None:
        self._wanted = transformer.stored_shapes()
        self._tied = transformer.config.tie_word_embeddings
        self._backbone = backbone
        self._filled: set[str] = set()

    def take(self, path: Path, stored: str, shape: Sequence[int], dtype: object, *, floating: bool) -> list[str]:
        """The names of the parameters that a stored tensor fills; none if it is not needed.

        Several parameters take its rows one after the other.

        Raises:
            CheckpointError: no parameter has this name, shape and type, or it is filled already.
        """
        name = parameter_name(self._backbone, stored)
        if stored.endswith(self._backbone.unused) or (name == "lm_head.weight" and self._tied):
            return []
        names = [] if name is None else split_name(name)
        if not names or not self._wanted.keys() >= set(names):
            raise CheckpointError(f"{path}: tensor {stored!r} is not part of this architecture")
        if not self._filled.isdisjoint(names):
            raise CheckpointError(f"{path}: tensor {stored!r} was stored in another file or under another name already")
        whole = [self._wanted[each] for each in names]
        expected, found = (sum(each[0] for each in whole), *whole[0][1:]), tuple(shape)
        if found != expected:
            raise CheckpointError(f"{path}: tensor {stored!r} has shape {found}, expected {expected}")
        if not floating:
            raise CheckpointError(f"{path}: tensor {stored!r} has dtype {dtype}, expected a float type")
        self._filled |= set(names)
        return names

    def rows_of(self, names: Sequence[str], tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yields the parameters that ``take`` named, and each one's rows of the stored tensor."""
        first = 0
        for name in names:
            rows = self._wanted[name][0]
            yield name, tensor[first : first + rows]
            first += rows

    def check_complete(self, directory: Path) -> None:
        """Raises ``CheckpointError`` if a parameter was not filled."""
        missing = sorted(self._wanted.keys() - self._filled)
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise CheckpointError(f"{directory}: missing tensors: {', '.join(missing[:3])}{more}")
