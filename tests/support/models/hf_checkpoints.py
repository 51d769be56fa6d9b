"""Tiny random checkpoints in the Hugging Face layouts of Dream and LLaDA."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>")
MERGES = (("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"))
EOS, MASK, VOCAB = 260, 263, 264

LAYERS, HIDDEN, INTERMEDIATE, HEADS = 2, 32, 48, 4

DREAM_CONFIG: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INTERMEDIATE,
    "mask_token_id": MASK,
    "max_position_embeddings": 512,
    "max_window_layers": LAYERS,
    "model_type": "Dream",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
    "pad_token_id": EOS,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1e6,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}

LLADA_CONFIG: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": HIDDEN,
    "embedding_dropout": 0.0,
    "embedding_size": VOCAB,
    "eos_token_id": EOS,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_device": "meta",
    "init_fn": "mitchell",
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": MASK,
    "max_sequence_length": 512,
    "mlp_hidden_size": INTERMEDIATE,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": HEADS,
    "n_kv_heads": HEADS,
    "n_layers": LAYERS,
    "pad_token_id": EOS,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 5e5,
    "scale_logits": False,
    "vocab_size": VOCAB,
    "weight_tying": False,
}


def build_dream(directory: Path, seed: int = 0, shards: int = 1, std: float = 0.35, **changes: Any) -> Path:
    """A Dream directory; ``changes`` go into ``config.json`` and, where they are sizes or flags, into the weights.

    With the matrices' default ``std``, confidences spread over (0, 1) and thresholds decide something.
    """
    config = DREAM_CONFIG | changes
    kv_width = HIDDEN // HEADS * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for index in range(LAYERS):
        layer = f"model.layers.{index}"
        for name, width in (("q", HIDDEN), ("k", kv_width), ("v", kv_width)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (width, HIDDEN)
            shapes[f"{layer}.self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{layer}.mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{layer}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        shapes[f"{layer}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (HIDDEN,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    _write(directory, config, _random_tensors(shapes, seed, std), shards)
    _write_bpe_files(directory)
    return directory


def build_llada(directory: Path, seed: int = 0, shards: int = 1, std: float = 0.35, **changes: Any) -> Path:
    """A LLaDA directory; like ``build_dream``."""
    config = LLADA_CONFIG | changes
    kv_width = HIDDEN // HEADS * config["n_kv_heads"]
    shapes = {"model.transformer.wte.weight": (VOCAB, HIDDEN), "model.transformer.ln_f.weight": (HIDDEN,)}
    for index in range(LAYERS):
        block = f"model.transformer.blocks.{index}"
        for name, width in (("q", HIDDEN), ("k", kv_width), ("v", kv_width)):
            shapes[f"{block}.{name}_proj.weight"] = (width, HIDDEN)
        shapes[f"{block}.attn_out.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{block}.ff_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{block}.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{block}.ff_out.weight"] = (HIDDEN, INTERMEDIATE)
        shapes[f"{block}.attn_norm.weight"] = (HIDDEN,)
        shapes[f"{block}.ff_norm.weight"] = (HIDDEN,)
    if not config["weight_tying"]:
        shapes["model.transformer.ff_out.weight"] = (VOCAB, HIDDEN)
    _write(directory, config, _random_tensors(shapes, seed, std), shards)
    _tokenizer().save(str(directory / "tokenizer.json"))
    template = (
        "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
        "+ message['content'] + '<|eot_id|>' }}{% endfor %}"
    )
    _write_tokenizer_config(directory, tokenizer_class="PreTrainedTokenizerFast", chat_template=template)
    return directory


def _write(directory: Path, config: dict[str, Any], tensors: dict[str, Tensor], shards: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _random_tensors(shapes: dict[str, tuple[int, ...]], seed: int, std: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        mean = 1.0 if "norm" in name or "ln_f" in name else 0.0
        tensors[name] = noise * (std if len(shape) == 2 else 0.2) + mean
    return tensors


def _vocabulary() -> dict[str, int]:
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    return {piece: index for index, piece in enumerate(pieces)}


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(_vocabulary(), list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def _write_bpe_files(directory: Path) -> None:
    """Dream has no ``tokenizer.json``: Qwen2's two files, and a class that is Python code in the checkpoint."""
    (directory / "vocab.json").write_text(json.dumps(_vocabulary()))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES))
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
        "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    _write_tokenizer_config(
        directory,
        tokenizer_class="DreamTokenizer",
        auto_map={"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        added_tokens_decoder={str(EOS + i): {"content": token, **plain} for i, token in enumerate(SPECIAL)},
        mask_token="<|mask|>",
        errors="replace",
        chat_template=template,
    )


def _write_tokenizer_config(directory: Path, **keys: Any) -> None:
    shared = {"add_bos_token": False, "bos_token": SPECIAL[0], "eos_token": SPECIAL[0], "pad_token": SPECIAL[0]}
    (directory / "tokenizer_config.json").write_text(json.dumps(shared | keys, indent=2))
