"""The recipe's configuration: one TOML file for all stages, validated, unknown keys refused."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from cdlm.model.config import TransformerConfig
from cdlm.training.data.problem import Task

Config = TypeVar("Config", bound=BaseModel)


class ConfigError(ValueError):
    """A configuration file is unusable; the message names the file, the key and the reason."""


class Section(BaseModel):
    """A table of a configuration file: frozen, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenizerSection(Section):
    """Byte-level BPE: vocabulary size and how many problems it is trained on."""

    vocab_size: int = Field(ge=300)
    samples: int = Field(ge=100)


class ManifestSection(Section):
    """How the student is decoded; see ``model.config.Manifest``."""

    block_length: int = Field(ge=1)
    confidence_threshold: float = Field(gt=0, le=1)
    max_model_len: int = Field(ge=64)


class StepsSection(Section):
    """Number and size of the steps, and the intervals of saving and logging, in steps."""

    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=250, ge=1)
    log_every: int = Field(default=20, ge=1)


class DescentSection(StepsSection):
    """Optimization of a stage.

    ``tokens_per_batch`` counts all tokens of a step, padding included, over all workers. The learning rate rises for
    ``warmup_steps``, stays constant, and falls to zero over the last ``decay_fraction`` of the ``steps``.
    """

    warmup_steps: int = Field(ge=1)
    decay_fraction: float = Field(gt=0, le=1)
    tokens_per_batch: int = Field(ge=256)


class AdapterDescentSection(DescentSection):
    """Optimization of an adapter over a frozen model.

    ``mixed_precision``: the model and its products are bfloat16 (``bf16``) or fp32 (``no``). On CPUs without AMX,
    fp32 is the faster one for batches of rows (docs/training.md).
    """

    mixed_precision: Literal["no", "bf16"] = "bf16"


class OptimizationSection(DescentSection):
    """Optimization of a whole model; the embedding has its own learning rate."""

    embedding_learning_rate: float = Field(gt=0)


class TeacherSection(OptimizationSection):
    """Masked training with full attention; canvases are at most ``generation_length`` tokens.

    A share ``rehearsal`` of the batches repeats next-token training, so that its skills are not lost; a share
    ``blockwise`` uses the block-causal mask with ``copies`` of each answer. Both train many more positions per token
    than rows with full attention.
    """

    generation_length: int = Field(ge=1)
    rehearsal: float = Field(default=0.0, ge=0, lt=1)
    blockwise: float = Field(default=0.0, ge=0, lt=1)
    copies: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _leave_masked_rows(self) -> "TeacherSection":
        if self.rehearsal + self.blockwise >= 1:
            raise ValueError("rehearsal and blockwise together must leave a share for rows with full attention")
        return self


class CollectionSection(Section):
    """The recording of a teacher: each problem decoded once per temperature, stored in shards of ``shard_size``.

    ``batch_size`` rows, of similar prompt length, are decoded together, on canvases of ``generation_length`` masks.
    """

    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    generation_length: int = Field(ge=1)
    shard_size: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class TrajectorySection(CollectionSection):
    """What the teacher records: ``examples`` problems but those whose answer is longer than ``generation_length``."""

    examples: int = Field(ge=1)


class LossSection(Section):
    """Weights of a student's three losses; 0 leaves one out."""

    distillation: float = Field(default=1.0, ge=0)
    consistency: float = Field(default=0.5, ge=0)
    dlm: float = Field(ge=0)

    @model_validator(mode="after")
    def _keep_a_loss(self) -> Self:
        if not (self.distillation or self.consistency or self.dlm):
            raise ValueError("the weights of the losses must not be all 0")
        return self


class StudentSection(LossSection, OptimizationSection):
    """Distillation of the teacher's trajectories, with the weights of its three losses.

    ``first_step``, ``consistency_share`` and ``truths``: see ``StudentStream``. ``fresh_truth`` takes the masked ground
    truth from new problems of the training split in place of those the teacher has solved. ``only_exact`` skips
    trajectories whose answer differs from the ground truth.
    """

    dlm: float = Field(default=0.1, ge=0)
    first_step: float = Field(default=0.0, ge=0, le=1)
    consistency_share: float = Field(default=1.0, gt=0, le=1)
    fresh_truth: bool = False
    truths: int = Field(default=1, ge=1)
    only_exact: bool = False


class TextSection(OptimizationSection):
    """Training of a block-causal student on whole texts; ``ratios`` bound the mask ratio of a block."""

    ratios: tuple[float, float] = (0.0, 1.0)

    @field_validator("ratios")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not 0 <= low < high <= 1:
            raise ValueError("must be two ascending numbers from 0 to 1")
        return value


def _known_keys(value: object) -> object:
    """Dataclasses ignore unknown keys; a configuration file must not have any."""
    unknown = value.keys() - {field.name for field in fields(TransformerConfig)} if isinstance(value, dict) else ()
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
    return value


class RecipeConfig(Section):
    """The whole recipe: a small model trained from random weights; ``texts`` is a stage beside the others."""

    seed: int
    mixture: dict[Task, float]
    tokenizer: TokenizerSection
    transformer: Annotated[TransformerConfig, BeforeValidator(_known_keys)]
    manifest: ManifestSection
    autoregressive: OptimizationSection
    teacher: TeacherSection
    trajectories: TrajectorySection
    student: StudentSection
    texts: TextSection | None = None


def read_config(path: Path, kind: type[Config]) -> Config:
    """Reads a TOML file into ``kind``.

    Raises:
        ConfigError: unreadable file, unknown key or value out of range.
    """
    try:
        return kind.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        found = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"{path}: {'; '.join(found)}") from error
