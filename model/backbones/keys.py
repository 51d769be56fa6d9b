"""Reads ``config.json`` of a Hugging Face checkpoint; every problem is a ``CheckpointError`` that names the key."""

import logging
from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]

IM_END = "<|im_end|>"  # Ends a turn of Qwen's chat template.

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


def number(config: Config, key: str, default: float | None = None) -> float:
    """A number, ``default`` where the key is absent or null; without a default it must be there."""
    value = default if config.get(key) is None else config[key]
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


def rope_theta(config: Config, default: float | None = None) -> float:
    """Base of the rotary angles. Scaled, partial and per-layer rotary embeddings are refused."""
    found: object = config.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):  # The second is where newer releases of transformers keep it.
        section = config.get(key)
        if section is None:
            continue
        kind = section.get("rope_type", section.get("type", "default")) if isinstance(section, Mapping) else None
        if kind != "default" or any(isinstance(value, Mapping) for value in section.values()):
            raise CheckpointError(f"config.json: {key} is {section!r}; only unscaled rotary embeddings can be run")
        if section.get("partial_rotary_factor") not in (None, 1):
            raise CheckpointError(f"config.json: {key}.partial_rotary_factor is not implemented")
        found = section.get("rope_theta") or found
    return number({} if found is None else {"rope_theta": found}, "rope_theta", default)


def context(config: Config, default: int | None = None) -> int:
    """The context to use unless asked otherwise: ``max_position_embeddings``, but no more than ``LONGEST_CONTEXT``."""
    return min(positions(config, default), LONGEST_CONTEXT)


def positions(config: Config, default: int | None = None) -> int:
    """``max_position_embeddings``."""
    return integer(config, "max_position_embeddings", default)


def mask_token_id(
    config: Config, vocab_size: int, names: TokenNames, own_name: str | None = None, default: int | None = None
) -> int:
    """The mask token's id.

    Where ``mask_token_id`` is absent or null it is the token that the tokenizer calls its mask, else the one with the
    format's ``own_name``, else ``default``.
    """
    value = config.get("mask_token_id")
    if value is None:
        value = next(iter(names.find(names.mask, own_name)), default)
    return _token_id("mask_token_id", value, vocab_size)


def stop_token_ids(
    config: Config, vocab_size: int, names: TokenNames, *end_of_turn: str, file: str = "config.json"
) -> tuple[int, ...]:
    """The ids that end an answer, no id twice; perhaps none.

    They are one ``eos_token_id`` or a list of them in ``config``, the content of ``file``, where the key may be absent
    or null; the tokenizer's end token; and its tokens with the names ``end_of_turn``. Ids that the vocabulary does not
    have can never be generated: they are left out.
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


def bidirectional_manifest(
    config: Config,
    vocab_size: int,
    names: TokenNames,
    *,
    end_of_turn: str,
    max_model_len: int,
    shift: bool,
    mask_name: str | None = None,
) -> Manifest:
    """The manifest for decoding a bidirectional teacher's format in blocks, whose ``config.json`` knows no blocks.

    An adapter may bring its own block length and threshold.
    """
    return Manifest(
        block_length=BLOCK_LENGTH,
        confidence_threshold=CONFIDENCE_THRESHOLD,
        mask_token_id=mask_token_id(config, vocab_size, names, mask_name),
        stop_token_ids=stop_token_ids(config, vocab_size, names, end_of_turn),
        max_model_len=max_model_len,
        shift=shift,
        bidirectional=True,  # Nothing in the format tells a base from a base with a student merged into it.
    )


def _token_id(key: str, value: object, vocab_size: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        raise CheckpointError(f"config.json: {key} is {value!r}, not an id of the {vocab_size} in the vocabulary")
    return value


def _unusable(config: Config, key: str, wanted: str) -> CheckpointError:
    found = f"is {config[key]!r}, not {wanted}" if key in config else f"is missing; it must be {wanted}"
    return CheckpointError(f"config.json: {key} {found}")
