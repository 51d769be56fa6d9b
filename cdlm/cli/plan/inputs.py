"""The validated inputs of ``cdlm plan``: model, device, load. Errors name the option."""

from dataclasses import dataclass
from pathlib import Path

from cdlm.cli.plan.presets import PRESETS
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.config import CheckpointError, Manifest, TransformerConfig
from cdlm.model.roofline.accelerators import Accelerator
from cdlm.model.roofline.cost import PRECISIONS, Decoding, ModelCost, Precision
from cdlm.model.roofline.roof import Roof

NANO = "cdlm-nano"
MODELS = (*PRESETS, NANO)


class PlanError(ValueError):
    """An option is invalid; the message begins with its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model: its shape and manifest, and the directory of its weights if it has one."""

    name: str
    config: TransformerConfig
    manifest: Manifest
    directory: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All inputs of a plan, validated.

    Attributes:
        stated: whether tokens per forward were given rather than the default.
        context: cached positions per row.
        compute_efficiency, memory_efficiency: assumed shares of the device's peak rates.
    """

    shape: Shape
    block_length: int
    device: Accelerator
    dtype: str
    context: int
    prompt_length: int
    tokens_per_forward: float
    stated: bool
    tokens_per_request: int
    batches: tuple[int, ...]
    tensor_parallel: int
    compute_efficiency: float
    memory_efficiency: float
    reserve: float
    page_size: int
    target_tokens_per_s: float | None
    target_requests_per_s: float | None

    @property
    def precision(self) -> Precision:
        """How weights are stored and multiplied."""
        return PRECISIONS[self.dtype]

    @property
    def cost(self) -> ModelCost:
        """The model's costs on each device."""
        return ModelCost(self.shape.config, self.precision, self.tensor_parallel)

    @property
    def roof(self) -> Roof:
        """The device's peak rates times the assumed efficiencies."""
        return self.device.roof(self.precision, self.compute_efficiency, self.memory_efficiency)

    @property
    def decoding(self) -> Decoding:
        """Averages of decoding a block."""
        blocks = -(-self.tokens_per_request // self.block_length)
        return Decoding(
            block_length=self.block_length,
            tokens_per_forward=self.tokens_per_forward,
            # A block of one token is only computed clean.
            commit_share=1.0 if self.block_length == 1 else (blocks - 1) / blocks,
            commit_alone=self.shape.manifest.first_token == "autoregressive",
        )

    @property
    def requests_per_s(self) -> float | None:
        """The target load in requests per second, if given."""
        if self.target_tokens_per_s is not None:
            return self.target_tokens_per_s / self.tokens_per_request
        return self.target_requests_per_s


def read_shape(model: str) -> Shape:
    """Reads the shape of a preset or checkpoint, without its weights."""
    from cdlm.model.backbones import find_backbone
    from cdlm.model.backbones.token_names import TokenNames, read_token_names
    from cdlm.model.files import read_json
    from cdlm.model.gguf.directory import checkpoint_directory

    directory = BUNDLED_STUDENT if model == NANO else None if model in PRESETS else Path(model)
    if directory is not None and not directory.exists():
        raise PlanError(f"--model: {model!r} is no checkpoint and no preset; presets: {', '.join(MODELS)}")
    try:
        directory = None if directory is None else checkpoint_directory(directory)
        config = PRESETS[model] if directory is None else read_json(directory, "config.json")
        names = TokenNames() if directory is None else read_token_names(directory)
        shape, manifest = find_backbone(config).read(config, names)
    except CheckpointError as error:
        raise PlanError(f"--model: {error}") from error
    return Shape(name=model, config=shape, manifest=manifest, directory=directory)


def read_block_length(shape: Shape, given: int | None) -> int:
    """The given block length, else the checkpoint's."""
    trained = shape.manifest.block_length
    if trained == 1 and given not in (None, 1):
        raise PlanError(f"--block-length: {shape.name} is autoregressive, its blocks have one token")
    return trained if given is None else given


def read_tokens_per_forward(shape: Shape, block_length: int, given: float | None) -> float:
    """Tokens that a forward finalizes per row; by default an eighth of the block, at least one."""
    value = max(1.0, block_length / 8) if given is None else given
    # With a separate commit pass, a block takes at least two forwards.
    two = shape.manifest.first_token == "autoregressive" and block_length > 1
    most = block_length / 2 if two else block_length
    if not 1 <= value <= most:
        why = f"{'half ' if two else ''}the block length {block_length}"
        raise PlanError(f"--tokens-per-forward: {value:g} is not between 1 and {why}")
    return value


def read_batches(text: str) -> tuple[int, ...]:
    """Parses comma-separated batch sizes; returns them ascending, without duplicates."""
    try:
        batches = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise PlanError(f"--batch: {text!r} is not a list of whole numbers such as 1,8,64") from None
    if batches[0] < 1:
        raise PlanError(f"--batch: {batches[0]} is not a batch size")
    return tuple(batches)


def check_tensor_parallel(shape: Shape, devices: int) -> None:
    """Raises ``PlanError`` unless the heads can be divided over ``devices``."""
    heads, kv_heads = shape.config.num_heads, shape.config.num_kv_heads
    if heads % devices or (kv_heads % devices and devices % kv_heads):
        raise PlanError(
            f"--tensor-parallel: {devices} devices cannot share {heads} heads and {kv_heads} key-value heads evenly"
        )
