"""The format of SDAR with experts: Qwen3-MoE's layers, denoised in blocks as SDAR's are."""

from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.decoder import DecoderNames, read_shape
from cdlm.model.backbones.llama_qwen import SDAR, DecoderBackbone
from cdlm.model.config import MixtureConfig, TransformerConfig


class SdarMoeBackbone(DecoderBackbone):
    """Checkpoints of ``SDARMoeForCausalLM``, for example SDAR-30B-A3B-Chat: every layer has experts."""

    def shape(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Reads a softmax over all experts, of which the best are taken."""
        mixture = MixtureConfig(
            experts=keys.integer(config, "num_experts"),
            experts_per_token=keys.integer(config, "num_experts_per_tok"),
            width=keys.integer(config, "moe_intermediate_size"),
            normalized=keys.flag(config, "norm_topk_prob", False),
        )
        return read_shape(config, qkv_bias=False, qk_norm=self.qk_norm, mixture=mixture, implemented=("num_experts",))

    def module_name(self, stored: str) -> str | None:
        """The router is stored as ``mlp.gate``."""
        name = DecoderNames.module_name(self, stored)
        if name is None or name.endswith(".mlp.router"):
            return None
        return f"{name.removesuffix('.gate')}.router" if name.endswith(".mlp.gate") else name

    def stored_module(self, name: str) -> str:
        """The inverse of ``module_name``."""
        stored = DecoderNames.stored_module(self, name)
        return f"{stored.removesuffix('.router')}.gate" if stored.endswith(".mlp.router") else stored


SDAR_MOE = SdarMoeBackbone(
    name="sdar_moe",
    model_type="sdar_moe",
    architecture="SDARMoeForCausalLM",
    block_length=SDAR.block_length,
    mask=SDAR.mask,
    mask_name=SDAR.mask_name,
    assumed=SDAR.assumed,
    qk_norm=SDAR.qk_norm,
)
