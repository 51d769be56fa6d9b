"""What a checkpoint format has to tell: the shape, the manifest, and where each weight lies."""

from collections.abc import Mapping
from typing import Any, Protocol

from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import Manifest, TransformerConfig

NO_NAMES = TokenNames()


class Backbone(Protocol):
    """One checkpoint format, chosen by ``model_type`` in ``config.json``.

    Modules are dotted paths without the final ``.weight`` or ``.bias``: a checkpoint's tensors and a LoRA adapter's
    both name them.
    """

    model_type: str

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Shape and manifest from ``config.json``; raises ``CheckpointError`` naming a missing or unusable key.

        ``names`` are the tokenizer's: formats know the end of a turn and the mask by the names of their tokens.
        """
        ...

    def module_name(self, stored: str) -> str | None:
        """The module of ``Transformer`` that the format calls ``stored``; ``None`` if it has none."""
        ...

    def stored_module(self, name: str) -> str:
        """The inverse of ``module_name``; raises ``ValueError`` for a module that the format has no name for."""
        ...


def parameter_name(backbone: Backbone, stored: str) -> str | None:
    """The parameter of ``Transformer`` that a tensor stored as ``stored`` fills; ``None`` if there is none."""
    module, _, leaf = stored.rpartition(".")
    name = backbone.module_name(module)
    return f"{name}.{leaf}" if name else None
