"""What a checkpoint format defines: the shape, the manifest, and the name of each weight."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import Manifest, TransformerConfig

NO_NAMES = TokenNames()
# A buffer in older exports; computed from the configuration instead.
COMPUTED = "rotary_emb.inv_freq"


class Backbone(Protocol):
    """One checkpoint format, chosen by ``model_type`` and, if formats share that, ``architectures`` in ``config.json``.

    Module names are dotted paths without the final ``.weight`` or ``.bias``; tensors of checkpoints and of LoRA
    adapters start with them.

    Attributes:
        unused: endings of stored tensors that the transformer does not need.
        draft_window: masked rows in a group of the draft adapter that comes with checkpoints of the format, and drafts
            in place; 0 if none comes with them.
    """

    model_type: str
    unused: tuple[str, ...]
    draft_window: int

    @property
    def name(self) -> str:
        """What the format is called: its ``model_type``, unless another format has that one too."""
        ...

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads shape and manifest from ``config.json``.

        ``names`` are the tokenizer's tokens, by which formats find the end of a turn and the mask.

        Raises:
            CheckpointError: a key is missing or unusable; the message names it.
        """
        ...

    def module_name(self, stored: str) -> str | None:
        """The name in ``Transformer`` of the module that the format calls ``stored``; ``None`` if there is none.

        Of several modules that the format stores as one, whose rows follow each other, the last parts of their names
        are joined: ``layers.0.self_attn.q_proj+k_proj+v_proj``.
        """
        ...

    def stored_module(self, name: str) -> str:
        """The inverse of ``module_name``; raises ``ValueError`` for a module without a name in the format."""
        ...


def parameter_name(backbone: Backbone, stored: str) -> str | None:
    """The name in ``Transformer`` of the parameter that the tensor ``stored`` fills; ``None`` if there is none."""
    module, _, leaf = stored.rpartition(".")
    name = backbone.module_name(module)
    return f"{name}.{leaf}" if name else None


def split_name(name: str) -> list[str]:
    """The names of the modules, or of their parameters, that a joined name stands for; of others the name itself."""
    match = re.fullmatch(r"(.*\.)?([^.+]+(?:\+[^.+]+)+)(\..*)?", name)
    if match is None:
        return [name]
    return [f"{match[1] or ''}{part}{match[3] or ''}" for part in match[2].split("+")]
