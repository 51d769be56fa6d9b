"""Known checkpoint formats."""

from cdlm.model.backbones.autoregressive import LLAMA, QWEN2, QWEN3
from cdlm.model.backbones.base import Backbone, parameter_name
from cdlm.model.backbones.dream import DreamBackbone
from cdlm.model.backbones.fast_dllm_v2 import FastDllmV2Backbone
from cdlm.model.backbones.llada import LladaBackbone
from cdlm.model.backbones.native import NativeBackbone
from cdlm.model.backbones.sdar import SdarBackbone
from cdlm.model.config import CheckpointError

_FORMATS: tuple[Backbone, ...] = (
    NativeBackbone(),
    DreamBackbone(),
    LladaBackbone(),
    SdarBackbone(),
    FastDllmV2Backbone(),
    QWEN2,
    QWEN3,
    LLAMA,
)
BACKBONES: dict[str, Backbone] = {backbone.model_type: backbone for backbone in _FORMATS}


def find_backbone(model_type: object) -> Backbone:
    """Returns the format with that ``model_type``.

    Raises:
        CheckpointError: ``model_type`` is unknown; the message lists the known ones.
    """
    if isinstance(model_type, str) and model_type in BACKBONES:
        return BACKBONES[model_type]
    raise CheckpointError(f"config.json: model_type {model_type!r} is not known; known: {', '.join(sorted(BACKBONES))}")


__all__ = ["BACKBONES", "Backbone", "find_backbone", "parameter_name"]
