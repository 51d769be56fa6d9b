"""Checkpoints to measure: the bundled student, and random weights in the layouts of Dream and Qwen."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.speed.contenders.vocabulary import write_vocabulary
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.backbones.decoder import DecoderNames
from cdlm.model.backbones.native import NativeBackbone
from cdlm.model.config import TransformerConfig
from cdlm.model.files import read_json
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.transformer import Transformer

CONTEXT = 2048
_LAYOUT = 1  # Part of the cache's file names: a change here builds everything anew.


@dataclass(frozen=True, slots=True)
class Shape:
    """A transformer to measure.

    Attributes:
        config: ``None`` is the bundled student's.
        parameters: exact count, a tied embedding counted once.
    """

    name: str
    config: TransformerConfig | None
    parameters: int

    def directory(self, cache: Path) -> Path:
        """The checkpoint that the engine serves; random ones are built in ``cache`` on first use."""
        return BUNDLED_STUDENT if self.config is None else _random(self.config, cache)

    def teacher_directory(self, cache: Path) -> Path:
        """A checkpoint of the same shape for the bidirectional decoders."""
        bundled = BUNDLED_STUDENT.with_name(f"{BUNDLED_STUDENT.name}-teacher")
        return bundled if self.config is None else self.directory(cache)

    def autoregressive_directory(self, cache: Path) -> Path:
        """The same weights as a causal model that the engine, transformers and vLLM all load."""
        return _causal_twin(self.directory(cache), cache)

    def transformer(self) -> TransformerConfig:
        """The sizes."""
        config = read_json(BUNDLED_STUDENT, "config.json")
        return NativeBackbone().read(config)[0] if self.config is None else self.config


def _dream(hidden: int, intermediate: int, layers: int, heads: int, vocab: int = 152_064) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_layers=layers, num_heads=heads,
        num_kv_heads=2, head_dim=hidden // heads, rope_theta=1e6, attention_bias=True, tie_word_embeddings=True,
    )  # fmt: skip


# Tied embeddings: two matrices of 152064 rows would be most of the parameters.
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("nano", None, 1_312_768),
        Shape("dream-0.1b", _dream(384, 1536, 20, 6), 101_674_880),
        Shape("dream-0.5b", _dream(896, 4864, 24, 14), 494_147_456),
        Shape("tiny", _dream(32, 48, 2, 4, vocab=512), 32_032),  # For tests of the benchmark itself.
    )
}


def default_cache() -> Path:
    """Where built checkpoints lie unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cdlm-serve" / "speed"


def _random(config: TransformerConfig, cache: Path) -> Path:
    def write(directory: Path) -> None:
        model = Transformer(config)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.02, generator=generator)
        mask = write_vocabulary(directory, config.vocab_size, "DreamTokenizer")
        extra = {"mask_token_id": mask, "attention_bias": config.attention_bias}
        _write_model(directory, model, "Dream", "DreamModel", extra)

    return _built(cache, f"dream-{config.num_layers}x{config.hidden_size}-{_digest(config)}", write)


def _causal_twin(source: Path, cache: Path) -> Path:
    """A Qwen directory with the weights of ``source``; queries and keys with norms are Qwen3's, without Qwen2's."""

    def write(directory: Path) -> None:
        model = load_checkpoint(source).transformer
        name = "Qwen3" if model.config.qk_norm else "Qwen2"
        _write_model(directory, model, name.lower(), f"{name}ForCausalLM", {"head_dim": model.config.head_dim})
        if (source / "vocab.json").exists():
            write_vocabulary(directory, model.config.vocab_size, "Qwen2Tokenizer")
        else:
            for file in source.glob("*token*.json"):
                shutil.copy(file, directory)

    weights = (source / "model.safetensors").stat()
    return _built(cache, f"{source.name}-causal-{_digest((weights.st_size, weights.st_mtime_ns))}", write)


def _write_model(
    directory: Path, model: Transformer, model_type: str, architecture: str, extra: dict[str, Any]
) -> None:
    """``config.json`` with the keys that Qwen introduced and Dream kept, and bfloat16 weights."""
    shape = model.config
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tie_word_embeddings,
        "max_position_embeddings": CONTEXT,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
        **extra,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    names = DecoderNames()
    tensors = {}
    for name, parameter in model.named_parameters():  # A tied head is listed once, as the embedding.
        module, _, leaf = name.rpartition(".")
        tensors[f"{names.stored_module(module)}.{leaf}"] = parameter.detach().to(torch.bfloat16).contiguous()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _digest(what: object) -> str:
    return hashlib.sha256(f"{_LAYOUT} {what!r}".encode()).hexdigest()[:8]


def _built(cache: Path, name: str, write: Callable[[Path], None]) -> Path:
    """``cache / name``, written on first use; a run that is killed leaves nothing half-written under that name."""
    target = cache / name
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            (built := Path(scratch) / name).mkdir()
            write(built)
            if not target.is_dir():
                built.rename(target)
    return target
