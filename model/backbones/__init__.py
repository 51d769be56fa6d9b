"""Known checkpoint formats."""

from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones.base import Backbone, parameter_name
from cdlm.model.backbones.llada import LladaBackbone
from cdlm.model.backbones.llama_qwen import (
    DREAM_REASONER,
    FAST_DLLM_V2,
    LLAMA,
    QWEN2,
    QWEN3,
    SDAR,
    STABLE_DIFFCODER,
    DreamBackbone,
)
from cdlm.model.backbones.mixtures.llada2 import LLADA2
from cdlm.model.backbones.mixtures.sdar import SDAR_MOE
from cdlm.model.backbones.native import NativeBackbone
from cdlm.model.backbones.nemotron import NemotronBackbone
from cdlm.model.config import CheckpointError

_FORMATS: tuple[Backbone, ...] = (
    NativeBackbone(),
    DreamBackbone(),
    LladaBackbone(),
    LLADA2,
    SDAR,
    SDAR_MOE,
    FAST_DLLM_V2,
    NemotronBackbone(),
    QWEN2,
    QWEN3,
    LLAMA,
)
# Formats whose model_type is another format's too.
_BY_ARCHITECTURE = {(each.model_type, each.architecture): each for each in (DREAM_REASONER, STABLE_DIFFCODER)}
BACKBONES: dict[str, Backbone] = {each.name: each for each in (*_FORMATS, *_BY_ARCHITECTURE.values())}


def find_backbone(config: Mapping[str, Any]) -> Backbone:
    """Returns the format of a ``config.json``: that of its ``model_type``, unless its architecture is another's.

    Raises:
        CheckpointError: ``model_type`` is unknown; the message lists the known ones.
    """
    model_type = config.get("model_type")
    by_type = {backbone.model_type: backbone for backbone in _FORMATS}
    if not isinstance(model_type, str) or model_type not in by_type:
        known = ", ".join(sorted(by_type))
        raise CheckpointError(f"config.json: model_type {model_type!r} is not known; known: {known}")
    told = (_BY_ARCHITECTURE.get((model_type, name)) for name in _architectures(config))
    return next((backbone for backbone in told if backbone), by_type[model_type])


def _architectures(config: Mapping[str, Any]) -> list[str]:
    """The class names in ``architectures`` and, as ``module.Class``, in ``auto_map``, whose code is never loaded."""
    stated, mapped = config.get("architectures"), config.get("auto_map")
    names = [*(stated if isinstance(stated, list) else ()), *(mapped.values() if isinstance(mapped, Mapping) else ())]
    return [name.rpartition(".")[2] for name in names if isinstance(name, str)]


__all__ = ["BACKBONES", "Backbone", "find_backbone", "parameter_name"]
