"""The project's own format: ``transformer`` and ``manifest`` sections spelled like the dataclasses."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from cdlm.model.backbones.base import COMPUTED, NO_NAMES
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest, MixtureConfig, RotaryScaling, TransformerConfig


class NativeBackbone:
    """Checkpoints written by ``cdlm.model.loading.export.save_checkpoint``."""

    name = model_type = "cdlm"
    unused: tuple[str, ...] = (COMPUTED,)
    draft_window: int = 0

    def read(self, config: Mapping[str, Any], _names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads both sections; raises ``CheckpointError`` for a missing or unknown key."""
        manifest = dict(_section(config, "manifest", Manifest))
        manifest["stop_token_ids"] = tuple(manifest["stop_token_ids"])
        shape = dict(_section(config, "transformer", TransformerConfig))
        if shape.get("rotary_scaling") is not None:
            shape["rotary_scaling"] = RotaryScaling(**_section(shape, "rotary_scaling", RotaryScaling))
        if shape.get("mixture") is not None:
            shape["mixture"] = MixtureConfig(**_section(shape, "mixture", MixtureConfig))
        return TransformerConfig(**shape), Manifest(**manifest)

    def module_name(self, stored: str) -> str:
        """Names are stored as they are."""
        return stored

    def stored_module(self, name: str) -> str:
        """Names are stored as they are."""
        return name


def _section(config: Mapping[str, Any], name: str, kind: type[Any]) -> Mapping[str, Any]:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise CheckpointError(f"config.json: section {name!r} is missing")
    known = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    for problem, keys in (("missing", needed - section.keys()), ("unknown", section.keys() - known)):
        if keys:
            raise CheckpointError(f"config.json: {problem} keys in {name!r}: {', '.join(sorted(keys))}")
    return section
