"""Tiny random checkpoints of Nemotron-Labs-Diffusion, the same weights in transformers, and a plain decoder."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Ministral3Config, Ministral3ForCausalLM

VOCAB, EOS, MASK = 96, 11, 90

# As published, but for the sizes and the positions that the weights knew before.
CONFIG: dict[str, Any] = {
    "ar_loss_weight": 1.0,
    "architectures": ["NemotronLabsDiffusionModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_implementation": "sdpa",
    "auto_map": {
        "AutoConfig": "configuration_nemotron_labs_diffusion.NemotronLabsDiffusionConfig",
        "AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel",
    },
    "block_size": 32,
    "bos_token_id": 1,
    "dlm_loss_weight": None,
    "dlm_paradigm": "bidirectional",
    "dp_varying_mask_ratio": False,
    "eos_token_id": EOS,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 256,
    "mlp_bias": False,
    "model_type": "nemotron_labs_diffusion",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 16.0,
        "llama_4_scaling_beta": 0.1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 1e6,
        "rope_type": "yarn",
    },
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": False,
    "vocab_size": VOCAB,
}
_SHAPE_KEYS = ("head_dim", "rms_norm_eps", "rope_parameters", "max_position_embeddings", "tie_word_embeddings")


def reference(config: dict[str, Any], seed: int = 0, std: float = 0.35) -> Ministral3ForCausalLM:
    """The shape of ``config`` in transformers; with the default ``std`` thresholds decide something."""
    shape = {key: config[key] for key in config if key in _SHAPE_KEYS or key.endswith(("_size", "_heads", "_layers"))}
    model = Ministral3ForCausalLM(Ministral3Config(**shape))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        mean, spread = (0.0, std) if parameter.ndim == 2 else (float("norm" in name), 0.2)
        torch.nn.init.normal_(parameter, mean, spread, generator=generator)
    return model.eval()


def stored_name(name: str) -> str:
    """What the format calls a parameter or module of transformers' class."""
    return name.replace("model.", "encoder.", 1) if name.startswith("model.") else f"diffusion_head{name[7:]}"


def build(directory: Path, seed: int = 0, std: float = 0.35, **changes: Any) -> Ministral3ForCausalLM:
    """Writes a checkpoint, ``changes`` in its ``config.json``, and returns its reference."""
    config = CONFIG | changes
    model = reference(config, seed, std)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    tensors = {stored_name(name): parameter.detach() for name, parameter in model.named_parameters()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return model


def build_linear_spec_lora(directory: Path, model: Ministral3ForCausalLM, seed: int = 0) -> Ministral3ForCausalLM:
    """Writes the draft adapter in the layout of PEFT, and returns the model with it in all rows.

    As published it acts on the output projections of attention, and no file says how it drafts.
    """
    generator = torch.Generator().manual_seed(seed)
    drafting, rank, alpha = copy.deepcopy(model), 4, 8
    tensors: dict[str, Tensor] = {}
    for name, module in drafting.named_modules():
        if isinstance(module, nn.Linear) and name.endswith("o_proj"):
            down = torch.randn(rank, module.in_features, generator=generator) * 0.3
            up = torch.randn(module.out_features, rank, generator=generator) * 0.3
            module.weight.data += alpha / rank * up @ down
            stored = f"base_model.model.{stored_name(name)}"
            tensors |= {f"{stored}.lora_A.weight": down, f"{stored}.lora_B.weight": up}
    keys = {"peft_type": "LORA", "bias": "none", "r": rank, "lora_alpha": alpha, "target_modules": ["o_proj"]}
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(json.dumps(keys))
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return drafting


@torch.no_grad()
def plain_drafts(
    model: Ministral3ForCausalLM, drafting: Ministral3ForCausalLM, tokens: list[int], count: int
) -> list[int]:
    """What the window of ``count`` + 2 rows that begins with the last token drafts for its last ``count`` positions.

    As in the published decoder, the model has computed the tokens before the window causally, and in the window the
    adapter acts and all rows see each other.
    """
    past = model(torch.tensor([tokens[:-1]]), use_cache=True).past_key_values
    window = torch.tensor([[tokens[-1], *[MASK] * (count + 1)]])
    sees = torch.zeros(1, 1, count + 2, len(tokens) + count + 1)
    positions = torch.arange(len(tokens) - 1, len(tokens) + count + 1)[None]
    logits = drafting(window, attention_mask=sees, past_key_values=past, position_ids=positions).logits[0]
    logits[:, MASK] = float("-inf")
    return [int(token) for token in logits[2:].argmax(-1)]


def attention(length: int, start: int) -> Tensor:
    """[1, 1, length, length], to be added to the scores: causal, but the block from ``start`` on sees all of itself."""
    sees = torch.ones(length, length, dtype=torch.bool).tril()
    sees[start:] = True
    return torch.zeros(length, length).masked_fill(~sees, torch.finfo(torch.float32).min)[None, None]


@torch.no_grad()
def plain_answer(
    model: Ministral3ForCausalLM, prompt: list[int], max_tokens: int, block: int, threshold: float = 0.9
) -> tuple[list[int], list[int]]:
    """The tokens before the end token or the limit, and the steps of each whole block; no cache.

    As the decoder published with the checkpoints: a causal pass over what is finished gives a block's first token, then
    the block is denoised in place.
    """

    def predicted(canvas: list[int], start: int) -> Tensor:
        logits = model(torch.tensor([canvas]), attention_mask=attention(len(canvas), start)).logits[0]
        logits[:, MASK] = float("-inf")
        return logits

    canvas, steps = list(prompt), []
    while True:
        start = len(canvas)
        seed = int(predicted(canvas, start)[-1].argmax())
        canvas += [seed] + [MASK] * (block - 1)
        steps.append(1)
        masked = list(range(start + 1, start + block))
        while masked:
            confidence, best = predicted(canvas, start).softmax(-1).max(-1)
            surest = max(masked, key=lambda position: float(confidence[position]))
            for position in list(masked):
                if position == surest or confidence[position] > threshold:
                    canvas[position] = int(best[position])
                    masked.remove(position)
            steps[-1] += 1
        answer = canvas[len(prompt) :][:max_tokens]
        if EOS in answer:
            return answer[: answer.index(EOS)], steps[:-1]
        if len(answer) == max_tokens:
            return answer, steps[:-1]
