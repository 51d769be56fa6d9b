"""Parses amounts of memory."""

import re
from typing import Annotated

from pydantic import BeforeValidator

_BYTE_UNITS = {"": 1, "b": 1} | {
    f"{unit}{end}": base**power
    for power, unit in enumerate("kmgt", 1)
    for end, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


def parse_bytes(value: object) -> object:
    """Parses ``"512M"``, ``"2GiB"`` or ``"1.5 GB"`` into bytes; returns values of other types unchanged.

    K, M, G and T alone are powers of 1024, as with KiB; KB, MB and so on are powers of 1000. Raises ``ValueError`` for
    text that is not a size.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)
    if match is None or match[2].lower() not in _BYTE_UNITS:
        raise ValueError('expected a size such as "512M", "2GiB" or a number of bytes')
    return int(float(match[1]) * _BYTE_UNITS[match[2].lower()])


ByteSize = Annotated[int, BeforeValidator(parse_bytes)]
