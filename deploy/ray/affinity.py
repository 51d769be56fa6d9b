"""Which replica a prompt belongs to: the same one every time, unless it has more than its share of the load."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class _Prompt(msgspec.Struct):
    """What a prompt is made of, in any of the request bodies; left as it was written."""

    prompt: msgspec.Raw = msgspec.Raw()
    suffix: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_Prompt)


def prompt_key(body: bytes) -> bytes | None:
    """16 bytes that bodies with the same prompt share; ``None`` where there is none."""
    try:
        fields = msgspec.structs.astuple(_DECODER.decode(body))
    except msgspec.DecodeError:  # The replica says what is wrong with it.
        return None
    if not any(fields):
        return None
    return hashlib.blake2b(msgspec.msgpack.encode([bytes(field) for field in fields]), digest_size=16).digest()


def order(key: bytes, names: Iterable[str]) -> list[str]:
    """The prompt's own order of replicas, by rendezvous hashing (Thaler and Ravishankar 1998).

    A replica that comes or goes moves no prompts but those that are its own.
    """
    return sorted(names, key=lambda name: hashlib.blake2b(name.encode(), key=key, digest_size=8).digest())


def preferred(ordered: Sequence[str], loads: Mapping[str, int], bound: float) -> list[str]:
    """``ordered`` with the replicas at the end that have ``bound`` times the mean load, the most loaded ones last.

    So a prompt that everyone asks spreads over as many replicas as it needs (consistent hashing with bounded loads,
    Mirrokni, Thorup and Zadimoghaddam 2018). ``loads`` are requests in hand.
    """
    most = math.ceil(bound * (1 + sum(loads.values())) / max(1, len(loads)))
    return sorted(ordered, key=lambda name: max(0, loads[name] - most + 1))
