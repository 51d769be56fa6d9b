"""Training configuration: a TOML file, validated, unknown keys refused."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from model.config import TransformerConfig
from training.data.problem import Task


class ConfigError(ValueError):
    """A configuration file is unusable; the message names the file, the key and the reason."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenizerSection(_Section):
    """Byte-level BPE: vocabulary size and how many problems it is trained on."""

    vocab_size: int = Field(ge=300)
    samples: int = Field(ge=100)


class ManifestSection(_Section):
    """How the trained checkpoint is decoded; see ``model.config.Manifest``."""

    block_length: int = Field(ge=1)
    confidence_threshold: float = Field(gt=0, le=1)
    max_model_len: int = Field(ge=64)


def _known_keys(value: object) -> object:
    """Dataclasses ignore unknown keys; a configuration file must not have any."""
    unknown = value.keys() - {field.name for field in fields(TransformerConfig)} if isinstance(value, dict) else ()
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
    return value


class DirectConfig(_Section):
    """One run of direct training.

    ``tokens_per_batch`` counts every token of a forward, padding included. The learning rate rises for
    ``warmup_steps``, stays, and falls to zero over the last ``decay_fraction`` of the ``steps``.
    """

    seed: int
    steps: int = Field(ge=1)
    warmup_steps: int = Field(ge=1)
    decay_fraction: float = Field(gt=0, le=1)
    tokens_per_batch: int = Field(ge=256)
    pool_batches: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    embedding_learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    gradient_clip: float = Field(gt=0)
    checkpoint_every: int = Field(ge=1)
    log_every: int = Field(ge=1)
    mixture: dict[Task, float]
    tokenizer: TokenizerSection
    transformer: Annotated[TransformerConfig, BeforeValidator(_known_keys)]
    manifest: ManifestSection


def load_config(path: Path) -> DirectConfig:
    """Reads and validates a configuration file.

    Raises:
        ConfigError: unreadable file, unknown key or value out of range.
    """
    try:
        return DirectConfig.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        found = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"{path}: {'; '.join(found)}") from error
