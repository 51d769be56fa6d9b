"""What the engine needs to know to start: options that are flags of the server, declared once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cdlm.model.config import AttentionBackend, Quantization
from cdlm.model.decoding.rules import DEFAULT_ENTROPY_BOUND, DEFAULT_FACTOR, RuleName
from cdlm.model.roofline.rows import DEFAULT_ROWS
from cdlm.scheduler.sizes import ByteSize

Location = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]


def _row_limit(value: object) -> object:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("expected auto, or a whole number of at least 1")


RowLimit = Annotated[int | Literal["auto"], BeforeValidator(_row_limit)]


class EngineOptions(BaseModel):
    """Options of one engine. They cross the process border, and a server's settings have them all."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Location = Field(description="Checkpoint directory.")
    adapter: Location | None = Field(
        default=None,
        description="Directory or id of a PEFT LoRA adapter, merged into --model when it is loaded.",
    )
    draft_adapter: Location | None = Field(
        default=None,
        description="Directory or id of a gated PEFT LoRA adapter: it drafts tokens that an autoregressive model then "
        "verifies, so that answers do not change.",
    )
    draft_window: int | None = Field(
        default=None, ge=1, le=64, description="Most tokens that are drafted at once. Default: the draft adapter's."
    )
    draft_rows: int | None = Field(
        default=None,
        ge=1,
        description="Rows of a step that drafts, which its sequences share; sequences that get fewer than four each do "
        "not draft. Default: as many as write most tokens per second, by the measured times of steps; at most 32 on a "
        "CPU.",
    )
    guide_model: Location | None = Field(
        default=None,
        description="Directory or id of a small next-token model with the same tokens: it says how many predictions of "
        "--model a denoise step finalizes (rule guide).",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Compute type of the model: auto, float32, bfloat16 or float16."
    )
    block_length: int | None = Field(
        default=None, ge=1, le=4096, description="Tokens per block. Default: the checkpoint's."
    )
    confidence_threshold: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Confidence at which a token is finalized, in (0, 1]. Default: the checkpoint's.",
    )
    decoding: RuleName | None = Field(
        default=None,
        description="Finalization rule of requests that name none: threshold, factor, entropy_bound, fixed_steps or "
        "guide. Default: guide with --guide-model, else threshold.",
    )
    decoding_factor: float = Field(
        default=DEFAULT_FACTOR, gt=0, description="Number of the rule factor if a request sends none."
    )
    entropy_bound: float = Field(
        default=DEFAULT_ENTROPY_BOUND,
        ge=0,
        description="Number of the rule entropy_bound, in nats, if a request sends none.",
    )
    steps_per_block: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Number of the rule fixed_steps if a request sends none. Default: one step per token.",
    )
    edit_threshold: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Confidence above which a step replaces a decided token of the block, if a request sends none; 1 "
        "replaces none. Default: the checkpoint's, which few have: LLaDA2.1 wants 0.9.",
    )
    max_model_len: int | None = Field(
        default=None, ge=2, description="Most tokens of prompt and answer together. Default: the checkpoint's."
    )
    rope_scaling_factor: float = Field(
        default=1.0, ge=1, le=64, description="Extends the context that the weights know (NTK-aware scaling)."
    )
    max_num_seqs: RowLimit = Field(
        default=DEFAULT_ROWS,
        description="Most sequences in one batch. auto: as many as a GPU of known rates computes while it reads the "
        "weights, at most what the KV pool holds; 64 elsewhere.",
    )
    max_num_batched_tokens: int = Field(default=8192, ge=1, description="Most tokens per forward pass.")
    max_prefill_tokens: int = Field(
        default=512,
        ge=1,
        description="Longer prompts are prefilled in pieces, at most this many tokens per step.",
    )
    kv_cache_memory: ByteSize | None = Field(
        default=None,
        ge=1,
        description="Memory of the KV pool, such as 512M or 2GiB. Default: a share of the free memory, "
        "at most max_num_seqs full contexts.",
    )
    page_size: int = Field(default=32, ge=1, description="Tokens per KV cache page.")
    enable_prefix_caching: bool = Field(default=True, description="Reuse the KV cache of prompts with equal prefixes.")
    attention_backend: AttentionBackend = Field(
        default="auto",
        description="sdpa runs everywhere; triton has kernels of our own that read the pages in place, on CUDA only; "
        "flex compiles a kernel that does. auto is triton on CUDA, and sdpa on a CPU.",
    )
    quantization: Quantization = Field(
        default="none",
        description="int8 stores one byte per weight of the layers: less memory, not more speed. fp8 multiplies in "
        "such bytes too, on GPUs of compute capability 8.9 or newer.",
    )
    pack_weights: bool = Field(default=True, description="On a CPU with AVX-512, pack large weights for its kernels.")
    cuda_graphs: bool | None = Field(
        default=None,
        description="Record the kernels of a forward and replay them. Default: on where it can be done, which is with "
        "triton attention on one device.",
    )
    tensor_parallel_size: int = Field(
        default=1, ge=1, description="Tensor-parallel processes, one per GPU; kv_cache_memory is per process."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads of the engine. Default: by the work of each step, at most the cores it may use.",
    )

    @property
    def default_rule(self) -> RuleName:
        """The finalization rule of requests that name none."""
        return self.decoding or ("threshold" if self.guide_model is None else "guide")

    @property
    def rows(self) -> int:
        """``max_num_seqs``; for ``auto``, the number where nothing is known of the device."""
        return DEFAULT_ROWS if self.max_num_seqs == "auto" else self.max_num_seqs
