"""What the leader tells its followers. Tensors do not travel here: they are broadcast in the process group."""

import msgspec

from cdlm.model.config import AttentionBackend


class OpenPool(msgspec.Struct, frozen=True, tag="open"):
    """Make the page pool; comes once, first."""

    num_pages: int
    page_size: int
    attention_backend: AttentionBackend


class CopyPage(msgspec.Struct, frozen=True, tag="copy"):
    """Copy a page of the pool."""

    source: int
    target: int


class Clear(msgspec.Struct, frozen=True, tag="clear"):
    """Zero what a page table holds from position ``start`` on."""

    pages: list[int]
    start: int


class Attend(msgspec.Struct, frozen=True, tag="attend"):
    """Lay out a forward's segments and keep that under ``number``; forget those in ``gone``.

    Attributes:
        number: not used before.
        segments: start, length, pages, ``causal`` and ``ahead`` of each.
        gone: layouts that no forward will name again.
    """

    number: int
    segments: list[tuple[int, int, list[int], bool, int]]
    gone: list[int]


class RunLayers(msgspec.Struct, frozen=True, tag="layers"):
    """Receive hidden states [tokens, hidden] and take them through layers ``first`` up to ``last``."""

    attention: int
    tokens: int
    first: int
    last: int


class WriteLayer(msgspec.Struct, frozen=True, tag="write"):
    """Receive hidden states [tokens, hidden] and write a layer's keys and values."""

    attention: int
    tokens: int
    layer: int


class Predict(msgspec.Struct, frozen=True, tag="predict"):
    """Receive hidden states [rows, hidden] and contribute this rank's part of their logits."""

    rows: int


Command = OpenPool | CopyPage | Clear | Attend | RunLayers | WriteLayer | Predict
