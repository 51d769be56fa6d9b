"""Commands from the leader to its followers. Tensors are not part of them: the process group broadcasts those."""

import msgspec

from cdlm.model.attention.segments import Segment
from cdlm.model.config import AttentionBackend


class OpenPool(msgspec.Struct, frozen=True, tag="open"):
    """Create the page pool; always the first command."""

    num_pages: int
    page_size: int
    attention_backend: AttentionBackend


class CopyPage(msgspec.Struct, frozen=True, tag="copy"):
    """Copy a page of the pool."""

    source: int
    target: int


class Clear(msgspec.Struct, frozen=True, tag="clear"):
    """Zero keys and values from position ``start`` of the page table ``pages``."""

    pages: list[int]
    start: int


class Attend(msgspec.Struct, frozen=True, tag="attend"):
    """Lay out a forward's segments, store the layout under ``number``, and drop the layouts in ``gone``.

    Attributes:
        number: a new number.
        gone: layouts that no later command uses.
    """

    number: int
    segments: list[Segment]
    gone: list[int]


class RunLayers(msgspec.Struct, frozen=True, tag="layers"):
    """Receive hidden states [tokens, hidden] and run layers ``first`` to ``last`` (exclusive).

    ``gated`` is the first token that gets gated updates, see ``Gate``.
    """

    attention: int
    tokens: int
    first: int
    last: int
    gated: int | None


class WriteLayer(msgspec.Struct, frozen=True, tag="write"):
    """Receive hidden states [tokens, hidden] and write a layer's keys and values."""

    attention: int
    tokens: int
    layer: int


class Predict(msgspec.Struct, frozen=True, tag="predict"):
    """Receive hidden states [rows, hidden] and send this rank's columns of their logits."""

    rows: int


class FindPeaks(msgspec.Struct, frozen=True, tag="peaks"):
    """Receive hidden states [rows, hidden] and send the most probable tokens among this rank's, without the mask."""

    rows: int
    mask_token_id: int


Command = OpenPool | CopyPage | Clear | Attend | RunLayers | WriteLayer | Predict | FindPeaks
