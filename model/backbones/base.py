"""What a checkpoint format has to tell: the shape, the manifest, and where each weight lies."""

from collections.abc import Mapping
from typing import Any, Protocol

from model.config import Manifest, TransformerConfig


class Backbone(Protocol):
    """One checkpoint format, chosen by ``model_type`` in ``config.json``."""

    model_type: str

    def read(self, config: Mapping[str, Any]) -> tuple[TransformerConfig, Manifest]:
        """Shape and manifest from ``config.json``; raises ``CheckpointError`` naming a missing key."""
        ...

    def weight_name(self, stored: str) -> str:
        """The name in ``model.transformer.Transformer`` of a tensor stored as ``stored``."""
        ...
