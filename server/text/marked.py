"""Strings that track which of their characters a client wrote."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

from jinja2 import Undefined
from markupsafe import Markup

_CLIENT, _TEMPLATE = b"\1", b"\0"


class Marked(str):
    """A ``str`` with one mark per character; templates see an ordinary string.

    Methods that move characters keep their marks. Methods that make new text, and unknown operations, mark the whole
    result as the client's: uncertain text never counts as the template's.

    Attributes:
        marks: one byte per character, 1 if a client wrote it; by default a client wrote all.
    """

    __slots__ = ("marks",)
    marks: bytes

    def __new__(cls, text: str, marks: bytes | None = None) -> "Marked":
        self = super().__new__(cls, text)
        self.marks = _CLIENT * len(self) if marks is None else marks
        return self

    def plain(self) -> str:
        """The text as a plain ``str``."""
        return str.__str__(self)

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[str]:
        return (self._cut(place, 1) for place in range(len(self)))

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        marks = self.marks[key]
        return Marked(str.__getitem__(self, key), bytes([marks]) if isinstance(marks, int) else marks)

    def __add__(self, other: str) -> str:
        return concat([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return concat([other, self]) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> str:
        return Marked(str.__mul__(self, times), self.marks * times)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        return spread(str.__mod__(self, values), self, values)

    def __rmod__(self, pattern: str) -> str:
        return spread(str.__mod__(pattern, self), pattern, self)

    def strip(self, chars: str | None = None, /) -> str:
        return self._cut(len(self) - len(str.lstrip(self, chars)), len(str.strip(self, chars)))

    def lstrip(self, chars: str | None = None, /) -> str:
        length = len(str.lstrip(self, chars))
        return self._cut(len(self) - length, length)

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._cut(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        length = len(str.removeprefix(self, prefix))
        return self._cut(len(self) - length, length)

    def removesuffix(self, suffix: str, /) -> str:
        return self._cut(0, len(str.removesuffix(self, suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = zip(self._parts(str.splitlines(self, True), ""), str.splitlines(self, keepends), strict=True)
        return [whole[: len(line)] for whole, line in lines]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, after = self._parts(list(str.partition(self, sep)), "")
        return before, found, after

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, after = self._parts(list(str.rpartition(self, sep)), "")
        return before, found, after

    def join(self, parts: Iterable[str], /) -> str:
        pieces = [piece for part in parts for piece in (self, part)]
        return concat(pieces[1:])

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if not old:
            return spread(str.replace(self, old, new, count), self, new)
        return concat([new]).join(self.split(old, count))

    def _cut(self, start: int, length: int) -> "Marked":
        return Marked(str.__getitem__(self, slice(start, start + length)), self.marks[start : start + length])

    def _parts(self, parts: list[str], sep: str | None) -> list[str]:
        """Marks ``parts`` of this text, which were split at ``sep`` (``None``: at white space)."""
        found: list[str] = []
        place = 0
        for part in parts:
            # Only white space lies between parts, and later parts begin without it.
            place = str.find(self, part, place) if sep is None else place
            found.append(self._cut(place, len(part)))
            place += len(part) + len(sep or "")
        return found


def _making_new_text(name: str) -> Any:
    plain = getattr(str, name)

    def method(self: Marked, *args: Any, **kwargs: Any) -> str:
        text = plain(self, *args, **kwargs)
        if len(text) == len(self) and not args and not kwargs:  # Every character kept its place.
            return Marked(text, self.marks)
        return spread(text, self, args, kwargs)

    method.__name__ = name
    return method


for _name in (
    "capitalize", "casefold", "center", "expandtabs", "format", "format_map", "ljust", "lower", "rjust", "swapcase",
    "title", "translate", "upper", "zfill",
):  # fmt: skip
    setattr(Marked, _name, _making_new_text(_name))


def concat(pieces: Iterable[str]) -> Marked:
    """Joins pieces; those that are not ``Marked`` are the template's."""
    whole = list(pieces)
    return Marked("".join(whole), b"".join(map(_marks, whole)))


def spread(text: str, *sources: object) -> Marked:
    """Marks a new text, which is the client's if any of its sources has client text."""
    return Marked(text, None if holds_client_text(sources) else _TEMPLATE * len(text))


def holds_client_text(value: object) -> bool:
    """Whether a value of a template contains client text; true for values of unknown types."""
    if isinstance(value, str):
        return _CLIENT in _marks(value)
    if value is None or isinstance(value, int | float | Undefined | slice):
        return False
    if isinstance(value, Mapping):
        return any(map(holds_client_text, value)) or any(map(holds_client_text, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(holds_client_text, value))
    return True


def mark(value: Any) -> Any:
    """Marks all strings in a JSON value, keys included, as the client's."""
    if isinstance(value, str):
        return Marked(value)
    if isinstance(value, list):
        return [mark(item) for item in value]
    if isinstance(value, dict):
        return {Marked(key): mark(item) for key, item in value.items()}
    return value


def _marks(text: str) -> bytes:
    if isinstance(text, Marked):
        return text.marks
    # Markup is derived from other text, which may be a client's.
    return (_CLIENT if isinstance(text, Markup) else _TEMPLATE) * len(text)
