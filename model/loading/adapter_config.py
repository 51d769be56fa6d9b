"""Reads ``adapter_config.json`` and ``cdlm.json`` of a LoRA adapter."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdlm.model.config import CheckpointError
from cdlm.model.files import read_json

CONFIG_FILE = "adapter_config.json"
DECODING_FILE = "cdlm.json"

# Variants of LoRA that change more than single weights, or that a merge cannot express.
_REFUSED_KEYS = (
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
# Other initializations subtract B @ A from the base's weights before training.
_PLAIN_INITIALIZATIONS = (None, True, False, "gaussian", "eva")


class AdapterConfig:
    """The LoRA configuration in ``adapter_config.json``. Ignores unknown keys, since releases of PEFT add keys.

    Raises:
        CheckpointError: the file is unreadable, or a key asks for more than plain LoRA; the message names both.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / CONFIG_FILE
        self._keys = read_json(directory, CONFIG_FILE)
        if self._keys.get("peft_type") != "LORA":
            raise self._error(f"peft_type is {self._keys.get('peft_type')!r}; only 'LORA' can be merged")
        if self._keys.get("bias") not in (None, "none"):
            raise self._error(f"bias is {self._keys['bias']!r}; only 'none' can be merged")
        for key in _REFUSED_KEYS:
            if self._keys.get(key) not in (None, False, [], {}):
                raise self._error(f"{key} is {self._keys[key]!r}; only plain LoRA can be merged")
        if self._keys.get("init_lora_weights") not in _PLAIN_INITIALIZATIONS:
            value = self._keys["init_lora_weights"]
            raise self._error(f"init_lora_weights is {value!r}, which changes the base; convert it to plain LoRA first")
        self._targets = self._keys.get("target_modules")
        names = self._targets if isinstance(self._targets, list) else [self._targets]
        if not names or not all(isinstance(name, str) for name in names):
            raise self._error(f"target_modules is {self._targets!r}, neither a pattern nor a list of names")

    def rank(self, module: str) -> int:
        """The rank r of a module, by its stored name."""
        value = self._value("r", "rank_pattern", module)
        if not value.is_integer():
            raise self._error(f"r is {value!r} for {module!r}, not a whole number")
        return int(value)

    def scale(self, module: str) -> float:
        """The factor of B @ A: alpha / r, or alpha / sqrt(r) if rank-stabilized (arXiv 2312.03732)."""
        rank, alpha = self.rank(module), self._value("lora_alpha", "alpha_pattern", module)
        return alpha / (math.sqrt(rank) if self._keys.get("use_rslora") else rank)

    def targets(self, module: str) -> bool | None:
        """Whether ``target_modules`` matches a stored module name; ``None`` if other keys decide too."""
        if any(self._keys.get(key) for key in ("exclude_modules", "layers_to_transform")):
            return None
        if isinstance(self._targets, str):
            return None if self._targets == "all-linear" else self._match(self._targets, module)
        assert isinstance(self._targets, list)
        return any(module == name or module.endswith(f".{name}") for name in self._targets)

    def _value(self, key: str, pattern_key: str, module: str) -> float:
        """The value of the first pattern in ``pattern_key`` that matches an end of the module's name, else ``key``."""
        value, patterns = self._keys.get(key), self._keys.get(pattern_key) or {}
        if not isinstance(patterns, Mapping):
            raise self._error(f"{pattern_key} is {patterns!r}, not a mapping")
        for pattern, special in patterns.items():
            if self._match(rf"(.*\.)?({pattern})", module):
                key, value = pattern_key, special
                break
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self._error(f"{key} is {value!r} for {module!r}, not a positive number")
        return float(value)

    def _match(self, pattern: str, module: str) -> bool:
        try:
            return re.fullmatch(pattern, module) is not None
        except re.error as error:
            raise self._error(f"pattern {pattern!r} is not a regular expression: {error}") from error

    def _error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}")


@dataclass(frozen=True, slots=True)
class GatedDrafts:
    """How a gated adapter drafts: it acts on masked rows only, and the other rows verify what it drafts.

    Attributes:
        mask_token_id: the token that masked rows are embedded as.
        window: how many masked rows that draft stand behind a known token, at most.
        in_place: a masked row drafts the token of its own position, and sees its whole group, which begins with the
            known token once more; otherwise it drafts the next position's, and sees the rows before it.
        chained: a chain (``model/network/chain.py``) lets each draft depend on the token in front of it.
    """

    mask_token_id: int
    window: int
    in_place: bool = False
    chained: bool = False


@dataclass(frozen=True, slots=True)
class AdapterDecoding:
    """How an adapter's model is decoded.

    Attributes:
        block_length, confidence_threshold: of a student's adapter; ``None`` leaves the value to the base's manifest.
        drafts: of a gated adapter; ``None`` if the adapter acts on all rows.
    """

    block_length: int | None = None
    confidence_threshold: float | None = None
    drafts: GatedDrafts | None = None


def read_decoding(directory: Path) -> AdapterDecoding:
    """Reads ``cdlm.json`` of an adapter directory; adapters of block-causal students and gated ones have this file.

    Raises:
        CheckpointError: the file has an unknown key, lacks one, or has a value out of range.
    """
    path = directory / DECODING_FILE
    if not path.exists():
        return AdapterDecoding()
    values: dict[str, Any] = read_json(directory, DECODING_FILE)
    gated = values.pop("gated", False)
    if type(gated) is not bool:
        raise CheckpointError(f"{path}: gated is {gated!r}, neither true nor false")
    known = {"mask_token_id", "window", "in_place", "chained"} if gated else {"block_length", "confidence_threshold"}
    unknown = values.keys() - known
    if unknown:
        kind = "a gated adapter" if gated else "an adapter that is not gated"
        raise CheckpointError(f"{path}: unknown keys of {kind}: {', '.join(sorted(unknown))}")
    if gated:
        return AdapterDecoding(drafts=_read_drafts(path, values))
    decoding = AdapterDecoding(**values)
    length, threshold = decoding.block_length, decoding.confidence_threshold
    if length is not None and (type(length) is not int or length < 1):
        raise CheckpointError(f"{path}: block_length is {length!r}, not a positive whole number")
    if threshold is not None and (type(threshold) not in (int, float) or not 0 < threshold <= 1):
        raise CheckpointError(f"{path}: confidence_threshold is {threshold!r}, not a number in (0, 1]")
    return decoding


def _read_drafts(path: Path, values: Mapping[str, Any]) -> GatedDrafts:
    for key, least in (("mask_token_id", 0), ("window", 1)):
        if key not in values:
            raise CheckpointError(f"{path}: a gated adapter needs {key}")
        if type(values[key]) is not int or values[key] < least:
            raise CheckpointError(f"{path}: {key} is {values[key]!r}, not a whole number of at least {least}")
    for key in ("in_place", "chained"):
        if type(values.get(key, False)) is not bool:
            raise CheckpointError(f"{path}: {key} is {values[key]!r}, neither true nor false")
    return GatedDrafts(**values)
