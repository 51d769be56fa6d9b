"""The same weights in transformers, in an independent LLaDA and in PEFT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.attention import RowAttention
from tests.support.models.hf_checkpoints import HEADS, HIDDEN, INTERMEDIATE, LAYERS, VOCAB

STD = 0.15  # Matrices whose logits are about 1, so that 1e-5 is several units of fp32 noise.

# The names that the same weights have in transformers' Llama.
LLAMA_NAMES = {
    "wte": "model.embed_tokens",
    "ln_f": "model.norm",
    "ff_out": "lm_head",
    **{
        f"blocks.{index}.{ours}": f"model.layers.{index}.{theirs}"
        for index in range(LAYERS)
        for ours, theirs in {
            "attn_norm": "input_layernorm",
            "ff_norm": "post_attention_layernorm",
            "q_proj": "self_attn.q_proj",
            "k_proj": "self_attn.k_proj",
            "v_proj": "self_attn.v_proj",
            "attn_out": "self_attn.o_proj",
            "ff_proj": "mlp.gate_proj",
            "up_proj": "mlp.up_proj",
            "ff_out": "mlp.down_proj",
        }.items()
    },
}


def qwen2(tensors: dict[str, Tensor], **changes: Any) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        **{"num_key_value_heads": 2, "tie_word_embeddings": False, **changes},
    )
    return _filled(Qwen2ForCausalLM(config), tensors)


def llama(tensors: dict[str, Tensor], **changes: Any) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        **{"num_key_value_heads": HEADS, "tie_word_embeddings": False, **changes},
    )
    stems = {name.removeprefix("model.transformer.").removesuffix(".weight"): name for name in tensors}
    return _filled(LlamaForCausalLM(config), {f"{LLAMA_NAMES[stem]}.weight": tensors[stems[stem]] for stem in stems})


def _filled(model: Any, tensors: dict[str, Tensor]) -> Any:
    loaded = model.load_state_dict(tensors, strict=False)
    assert loaded.unexpected_keys == []
    assert loaded.missing_keys in ([], ["lm_head.weight"])  # A tied head follows the embedding.
    model.tie_weights()
    return model.eval()


def random_ids(seed: int, length: int = 40) -> Tensor:
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def logits(transformer: Transformer, ids: Tensor, mask: Tensor) -> Tensor:
    """ids [n], mask [n, n] bool -> logits [n, vocabulary]."""
    hidden = transformer(ids[None], torch.arange(len(ids))[None], RowAttention(mask[None]))
    return transformer.logits(hidden)[0]


class LladaReference(nn.Module):
    """LLaDA with the original's module names, for one row with full attention. Shares no code with ``model``."""

    def __init__(self) -> None:
        super().__init__()

        def block() -> nn.ModuleDict:
            widths = {
                **dict.fromkeys(("q_proj", "k_proj", "v_proj", "attn_out"), (HIDDEN, HIDDEN)),
                **dict.fromkeys(("ff_proj", "up_proj"), (HIDDEN, INTERMEDIATE)),
                "ff_out": (INTERMEDIATE, HIDDEN),
            }
            parts: dict[str, nn.Module] = {name: nn.Linear(*width, bias=False) for name, width in widths.items()}
            norms = {name: nn.RMSNorm(HIDDEN, eps=1e-5) for name in ("attn_norm", "ff_norm")}
            return nn.ModuleDict(parts | norms)

        self.model = nn.Module()
        self.model.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(VOCAB, HIDDEN),
                "blocks": nn.ModuleList(block() for _ in range(LAYERS)),
                "ln_f": nn.RMSNorm(HIDDEN, eps=1e-5),
                "ff_out": nn.Linear(HIDDEN, VOCAB, bias=False),
            }
        )

    def forward(self, ids: Tensor) -> Tensor:
        """ids [n] -> logits [n, vocabulary]."""
        parts: Any = self.model.transformer
        n, dim = len(ids), HIDDEN // HEADS
        angle = torch.arange(n)[:, None] * 5e5 ** (-torch.arange(dim // 2) * 2 / dim)

        def heads(x: Tensor, turn: bool) -> Tensor:
            x = x.view(n, HEADS, dim).transpose(0, 1)
            low, high = x.chunk(2, dim=-1)
            turned = (low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin())
            return torch.cat(turned, dim=-1) if turn else x

        x = parts.wte(ids)
        for block in parts.blocks:
            y = block.attn_norm(x)
            q, k, v = heads(block.q_proj(y), True), heads(block.k_proj(y), True), heads(block.v_proj(y), False)
            attended = (q @ k.transpose(1, 2) / dim**0.5).softmax(-1) @ v
            x = x + block.attn_out(attended.transpose(0, 1).reshape(n, HIDDEN))
            y = block.ff_norm(x)
            x = x + block.ff_out(nn.functional.silu(block.ff_proj(y)) * block.up_proj(y))
        logits: Tensor = parts.ff_out(parts.ln_f(x))
        return logits


def dream_base(directory: Path) -> Qwen2ForCausalLM:
    """Dream's module names are Qwen2's."""
    return qwen2(load_file(directory / "model.safetensors"))


def llada_base(directory: Path) -> LladaReference:
    model = LladaReference()
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model


def train_with_peft(base: nn.Module, directory: Path, seed: int = 0, **keys: Any) -> nn.Module:
    """A PEFT model with random matrices, and its directory as PEFT saves it."""
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(**{"r": 4, "lora_alpha": 8, **keys}))  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(directory), save_embedding_layers=False)
    return model.eval()


def random_lora(transformer: Transformer, r: int, pick: Callable[[str], bool]) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: (
            torch.randn(r, module.in_features, generator=generator) * 0.1,
            torch.randn(module.out_features, r, generator=generator) * 0.1,
        )
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and pick(name)
    }
