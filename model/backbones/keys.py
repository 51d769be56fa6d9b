"""Reads ``config.json`` of a Hugging Face checkpoint; every problem is a ``CheckpointError`` that names the key."""

import logging
from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]

IM_END = "<|im_end|>"  # Ends a turn of Qwen's chat template.

# The values of the CDLM students (arXiv 2511.19269).
BLOCK_LENGTH = 32
CONFIDENCE_THRESHOLD = 0.9

# The KV cache holds the contexts of many requests; an operator can set max_model_len to the 32768 or 131072 positions
# that many configurations allow.
LONGEST_CONTEXT = 4096


def integer(config: Config, key: str, default: int | None = None) -> int:
    """Reads a whole number; ``default`` replaces an absent or null key, which is an error without a default."""
    value = default if config.get(key) is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise _unusable(config, key, "a whole number")
    return value


def number(config: Config, key: str, default: float | None = None) -> float:
    """Reads a number; ``default`` replaces an absent or null key, which is an error without a default."""
    value = default if config.get(key) is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unusable(config, key, "a number")
    return float(value)


def flag(config: Config, key: str, default: bool) -> bool:
    """Reads a Boolean; ``default`` replaces an absent or null key."""
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, bool):
        raise _unusable(config, key, "true or false")
    return value


def require(config: Config, expected: Mapping[str, tuple[object, object]]) -> None:
    """Raises ``CheckpointError`` for a key whose value is not the only one that the transformer can run.

    ``expected`` maps a key to the format's default and to the runnable value; null counts as absent.
    """
    for key, (assumed, runnable) in expected.items():
        value = config.get(key)
        value = assumed if value is None else value
        if value != runnable:
            absent = "" if key in config else " where it is absent"
            raise CheckpointError(f"config.json: {key} is {value!r}{absent}; only {runnable!r} can be run")


def head_size(hidden_key: str, hidden_size: int, heads_key: str, heads: int) -> int:
    """Width of one attention head; raises ``CheckpointError`` unless the heads divide the hidden size."""
    if heads < 1 or hidden_size % heads:
        raise CheckpointError(f"config.json: {heads_key} {heads} does not divide {hidden_key} {hidden_size}")
    return hidden_size // heads


def rope_theta(config: Config, default: float | None = None, turned: float = 1.0) -> float:
    """Base of the rotary angles.

    Raises ``CheckpointError`` for scaled or per-layer rotary embeddings, and for another part of a head than
    ``turned``.
    """
    found: object = config.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):  # Newer releases of transformers use the second.
        section = config.get(key)
        if section is None:
            continue
        kind = section.get("rope_type", section.get("type", "default")) if isinstance(section, Mapping) else None
        if kind != "default" or any(isinstance(value, Mapping) for value in section.values()):
            raise CheckpointError(f"config.json: {key} is {section!r}; only unscaled rotary embeddings can be run")
        if section.get("partial_rotary_factor", turned) not in (None, turned):
            raise CheckpointError(f"config.json: {key}.partial_rotary_factor is not implemented")
        found = section.get("rope_theta") or found
    return number({} if found is None else {"rope_theta": found}, "rope_theta", default)


def context(config: Config, default: int | None = None) -> int:
    """The default context in tokens: ``max_position_embeddings``, at most ``LONGEST_CONTEXT``."""
    return min(positions(config, default), LONGEST_CONTEXT)


def positions(config: Config, default: int | None = None) -> int:
    """Reads ``max_position_embeddings``, the positions that the weights know."""
    return integer(config, "max_position_embeddings", default)


def mask_token_id(
    config: Config, vocab_size: int, names: TokenNames, own_name: str | None = None, default: int | None = None
) -> int:
    """The mask token's id.

    That is the key ``mask_token_id``, else the tokenizer's mask token, else the token called ``own_name``, else
    ``default``. Raises ``CheckpointError`` if none of them gives an id of the vocabulary.
    """
    value = config.get("mask_token_id")
    if value is None:
        value = next(iter(names.find(names.mask, own_name)), default)
    return _token_id("mask_token_id", value, vocab_size)


def mask_token_id_by_number(config: Config, vocab_size: int, names: TokenNames, number: int) -> int:
    """The mask token's id in a format that names its mask nowhere: ``mask_token_id``, the tokenizer's mask, ``number``.

    Raises:
        CheckpointError: it is the last of them, and the tokenizer's token of that id does not read like a mask; or the
            id is not in the vocabulary.
    """
    text = names.text(number)
    named = config.get("mask_token_id") is not None or names.find(names.mask)
    if names.known and not named and "mask" not in (text or "").lower():
        found = f"has no token {number}" if text is None else f"has {text[:64]!r} as token {number}"
        raise CheckpointError(
            f"config.json: mask_token_id is missing, and the tokenizer {found}, where this format has its mask"
        )
    return mask_token_id(config, vocab_size, names, default=number)


def stop_token_ids(
    config: Config, vocab_size: int, names: TokenNames, *end_of_turn: str, file: str = "config.json"
) -> tuple[int, ...]:
    """The ids that end an answer, without duplicates; may be empty.

    They are ``eos_token_id`` (one id, a list, null or absent) in ``config``, the content of ``file``; the tokenizer's
    end token; and its tokens called ``end_of_turn``. Ids outside the vocabulary are left out, with a warning.
    """
    stated = config.get("eos_token_id")
    stated = stated if isinstance(stated, list) else [] if stated is None else [stated]
    for value in stated:
        if isinstance(value, bool) or not isinstance(value, int):
            raise CheckpointError(f"{file}: eos_token_id is {value!r}, not a token id")
    ids = [*stated, *names.find(names.eos, *end_of_turn)]
    beyond = [ident for ident in ids if not 0 <= ident < vocab_size]
    if beyond:
        logger.warning("%s: the end tokens %s are not in the vocabulary of %d", file, beyond, vocab_size)
    return tuple(dict.fromkeys(ident for ident in ids if 0 <= ident < vocab_size))


def _token_id(key: str, value: object, vocab_size: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        raise CheckpointError(f"config.json: {key} is {value!r}, not an id of the {vocab_size} in the vocabulary")
    return value


def _unusable(config: Config, key: str, wanted: str) -> CheckpointError:
    found = f"is {config[key]!r}, not {wanted}" if key in config else f"is missing; it must be {wanted}"
    return CheckpointError(f"config.json: {key} {found}")
