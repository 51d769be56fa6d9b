"""Configuration of an adapter's training: one TOML file, validated, unknown keys refused."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cdlm.training.config import AdapterDescentSection, CollectionSection, LossSection, Section, StepsSection

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class BackboneTrajectorySection(CollectionSection):
    """How a backbone's trajectories are collected.

    ``end_token`` ends every ground truth; without it the checkpoint's first stop token does.
    """

    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(0.0, 0.5), min_length=1)
    chat_template: bool = True
    end_token: str | None = None
    batch_size: int = Field(default=8, ge=1)
    shard_size: int = Field(default=256, ge=1)


class LoraSection(Section):
    """Rank, scale (alpha / r) and the linear layers that get an adapter, in every layer."""

    r: int = Field(ge=1)
    alpha: int = Field(ge=1)
    targets: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class NextTokenAdapterConfig(Section):
    """An adapter over a next-token model.

    ``start`` is the PEFT directory of an adapter of the same rank and scale, whose weights the training begins with;
    without it, the adapter is new.
    """

    seed: int
    model: Path
    start: Path | None = None
    lora: LoraSection
    optimization: AdapterDescentSection


class OptimizationSection(StepsSection):
    """AdamW on the adapter. The learning rate rises for ``warmup_steps``, then falls linearly to zero.

    ``batch_size`` counts the trajectories of a step over all processes; each process takes ``rows_per_forward`` of
    them at a time, so ``batch_size`` is a multiple of ``rows_per_forward`` times the number of processes.
    """

    warmup_steps: int = Field(default=0, ge=0)
    batch_size: int = Field(ge=1)
    rows_per_forward: int = Field(ge=1)
    mixed_precision: Literal["no", "bf16"] = "bf16"
    gradient_checkpointing: bool = True
    fsdp: bool = False
    checkpoint_every: int = Field(default=100, ge=1)
    log_every: int = Field(default=10, ge=1)


class AdapterConfig(Section):
    """An adapter that makes a bidirectional teacher a block-causal student.

    ``model`` is the teacher's checkpoint directory and ``data`` a JSON Lines file of {"prompt", "completion"};
    relative paths start at the working directory. Block length and threshold are the student's.
    """

    seed: int
    model: Path
    data: Path
    block_length: int = Field(default=32, ge=1)
    confidence_threshold: float = Field(default=0.9, gt=0, le=1)
    trajectories: BackboneTrajectorySection
    lora: LoraSection
    losses: LossSection
    optimization: OptimizationSection
