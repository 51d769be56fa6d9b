"""API keys: names, hashes and limits."""

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

_HASHED = re.compile(r"sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LIMITS = ("requests_per_minute", "tokens_per_minute", "max_sequences")
_KEY_BYTES = 32

EMPTY_SECRET = "it is empty; without a key everybody could use the server, so say nothing if that is meant"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, stored as its SHA-256; a limit of ``None`` means no limit.

    Attributes:
        name: name in logs and messages.
        digest: SHA-256 of the key. Keys are long and random, so a slow hash would protect nothing more.
        requests_per_minute: most generating requests that may begin per minute.
        tokens_per_minute: most requested tokens per minute, prompt plus ``max_tokens``; unused ones are returned.
        max_sequences: most answers at once, running or waiting.
    """

    name: str
    digest: bytes = field(repr=False)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_sequences: int | None = None


def digest(key: bytes) -> bytes:
    """SHA-256 of a key, by which keys are compared."""
    return hashlib.sha256(key).digest()


def named_keys(keys: Iterable[str]) -> list[ApiKey]:
    """Makes keys without limits, named key-1, key-2 and so on."""
    return [ApiKey(f"key-{number}", digest(key.encode())) for number, key in enumerate(keys, start=1)]


def read_keys(path: Path) -> list[ApiKey]:
    """Reads the keys of a file.

    A line is ``KEY`` or ``sha256:HEX``, then ``name=...`` and limits such as ``requests_per_minute=60`` in any order;
    ``#`` starts a comment line. Keys without a name are named line-N by their line number.

    Raises:
        ValueError: the file is unreadable or has no key, or a line is invalid; the message names path and line, never a
            key.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    keys: list[ApiKey] = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            keys.append(_parse(words, f"line-{number}"))
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from None
    if not keys:
        raise ValueError(f"{path} holds no key")
    return keys


def check_distinct(keys: Sequence[ApiKey]) -> None:
    """Raises ``ValueError`` if two keys are equal or have the same name."""
    for index, key in enumerate(keys):
        for other in keys[:index]:
            if key.name == other.name or key.digest == other.digest:
                what = "name" if key.name == other.name else "key"
                raise ValueError(f"two API keys have the same {what}: {other.name} and {key.name}")


def new_key(name: str, **limits: int | None) -> tuple[str, str]:
    """Generates a key; returns it, and its line for the key file, which has only its hash.

    Raises:
        ValueError: the name or a limit is invalid.
    """
    key = f"sk-{secrets.token_urlsafe(_KEY_BYTES)}"
    words = [f"sha256:{digest(key.encode()).hex()}", f"name={name}"]
    words += [f"{limit}={value}" for limit, value in limits.items() if value is not None]
    _parse(words, name)
    return key, " ".join(words)


def _parse(words: list[str], name: str) -> ApiKey:
    hashed = _HASHED.fullmatch(words[0])
    if hashed is None and words[0].startswith("sha256:"):
        raise ValueError("sha256: needs 64 lower-case hexadecimal digits behind it")
    key = ApiKey(name, bytes.fromhex(hashed[1]) if hashed else digest(words[0].encode()))
    for word in words[1:]:
        field_name, equals, value = word.partition("=")
        if field_name == "name" and _NAME.fullmatch(value):
            key = replace(key, name=value)
        elif field_name in _LIMITS and value.isascii() and value.isdigit() and int(value) > 0:
            key = replace(key, **{field_name: int(value)})  # type: ignore[arg-type]
        elif field_name in ("name", *_LIMITS) and equals:
            wanted = "1 to 64 letters, digits, '.', '_' or '-'" if field_name == "name" else "a positive whole number"
            raise ValueError(f"{field_name} must be {wanted}")
        else:  # Not quoted: it might be part of a key.
            raise ValueError(f"expected name=..., {', '.join(f'{limit}=...' for limit in _LIMITS)} after the key")
    return key


def split_keys(value: object) -> object:
    """Splits comma-separated keys of a flag or variable; raises ``ValueError`` for an empty key."""
    keys = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not keys and value != []:
        raise ValueError(EMPTY_SECRET)
    return keys
