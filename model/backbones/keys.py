"""Reads ``config.json`` of a Hugging Face checkpoint; every problem is a ``CheckpointError`` that names the key."""

from collections.abc import Mapping
from typing import Any

from model.config import CheckpointError, Manifest

Config = Mapping[str, Any]

IM_END = 151645  # ``<|im_end|>`` of Qwen's vocabulary ends a turn of the chat template.

# Those of the CDLM students (arXiv 2511.19269).
BLOCK_LENGTH = 32
CONFIDENCE_THRESHOLD = 0.9

# The key-value pool holds whole contexts of many requests: the 32768 or 131072 positions that many configurations allow
# are there for whoever asks for them.
LONGEST_CONTEXT = 4096


def integer(config: Config, key: str, default: int | None = None) -> int:
    """A whole number, ``default`` where the key is absent or null; without a default it must be there."""
    value = default if config.get(key) is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise _unusable(config, key, "a whole number")
    return value


def number(config: Config, key: str) -> float:
    """A number that must be there."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unusable(config, key, "a number")
    return float(value)


def flag(config: Config, key: str, default: bool) -> bool:
    """A truth value, ``default`` where the key is absent or null."""
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, bool):
        raise _unusable(config, key, "true or false")
    return value


def require(config: Config, expected: Mapping[str, tuple[object, object]]) -> None:
    """Checks the keys that the transformer can run with one value only.

    ``expected`` maps a key to what the format assumes where it is absent, and to the value that can be run; null
    counts as absent.
    """
    for key, (assumed, runnable) in expected.items():
        value = config.get(key)
        value = assumed if value is None else value
        if value != runnable:
            absent = "" if key in config else " where it is absent"
            raise CheckpointError(f"config.json: {key} is {value!r}{absent}; only {runnable!r} can be run")


def require_architecture(config: Config, name: str) -> None:
    """Refuses other architectures that share the ``model_type``; a configuration without the key passes."""
    found = config.get("architectures")
    if found is not None and found != [name]:
        raise CheckpointError(f"config.json: architectures is {found!r}; only [{name!r}] can be run")


def head_size(hidden_key: str, hidden_size: int, heads_key: str, heads: int) -> int:
    """Width of one attention head; raises where the heads do not divide the hidden size."""
    if heads < 1 or hidden_size % heads:
        raise CheckpointError(f"config.json: {heads_key} {heads} does not divide {hidden_key} {hidden_size}")
    return hidden_size // heads


def rope_theta(config: Config) -> float:
    """Base of the rotary angles. Scaled rotary embeddings are refused."""
    for key in ("rope_scaling", "rope_parameters"):
        section = config.get(key)
        if section is None:
            continue
        kind = section.get("rope_type", section.get("type", "default")) if isinstance(section, Mapping) else None
        if kind != "default":
            raise CheckpointError(f"config.json: {key} is {section!r}; only unscaled rotary embeddings can be run")
    nested = config.get("rope_parameters") or {}  # Where newer releases of transformers keep it.
    return number(nested if "rope_theta" in nested else config, "rope_theta")


def context(config: Config) -> int:
    """The context to use unless asked otherwise: ``max_position_embeddings``, but no more than ``LONGEST_CONTEXT``."""
    return min(positions(config), LONGEST_CONTEXT)


def positions(config: Config) -> int:
    """``max_position_embeddings``."""
    return integer(config, "max_position_embeddings")


def mask_token_id(config: Config, vocab_size: int, default: int | None = None) -> int:
    """The mask token's id, ``default`` where the key is absent or null; without a default it must be there."""
    value = config.get("mask_token_id")
    return _token_id("mask_token_id", default if value is None else value, vocab_size)


def stop_token_ids(
    config: Config, vocab_size: int, extra: int | None = None, file: str = "config.json"
) -> tuple[int, ...]:
    """One ``eos_token_id`` or a list of them, and ``extra`` where the vocabulary has it; no id twice.

    ``config`` is the content of ``file``; in any but ``config.json`` the key may be absent or null.
    """
    stops = config.get("eos_token_id")
    if stops is None and file != "config.json":
        stops = []
    stops = stops if isinstance(stops, list) else [stops]
    ids = [_token_id("eos_token_id", value, vocab_size, file) for value in stops]
    if extra is not None and extra < vocab_size:
        ids.append(extra)
    return tuple(dict.fromkeys(ids))


def bidirectional_manifest(
    config: Config, vocab_size: int, *, extra_stop_id: int, max_model_len: int, shift: bool
) -> Manifest:
    """The manifest for decoding a bidirectional teacher's format in blocks, whose ``config.json`` knows no blocks.

    An adapter may bring its own block length and threshold.
    """
    return Manifest(
        block_length=BLOCK_LENGTH,
        confidence_threshold=CONFIDENCE_THRESHOLD,
        mask_token_id=mask_token_id(config, vocab_size),
        stop_token_ids=stop_token_ids(config, vocab_size, extra_stop_id),
        max_model_len=max_model_len,
        shift=shift,
        bidirectional=True,  # Nothing in the format tells a base from a base with a student merged into it.
    )


def _token_id(key: str, value: object, vocab_size: int, file: str = "config.json") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        raise CheckpointError(f"{file}: {key} is {value!r}, not an id of the {vocab_size} in the vocabulary")
    return value


def _unusable(config: Config, key: str, wanted: str) -> CheckpointError:
    found = f"is {config[key]!r}, not {wanted}" if key in config else f"is missing; it must be {wanted}"
    return CheckpointError(f"config.json: {key} {found}")
