"""What the engine needs to know to start: one frozen, typed object that crosses the process border."""

import msgspec

from cdlm.model.config import AttentionBackend, Quantization
from cdlm.model.decoding.rules import DEFAULT_ENTROPY_BOUND, DEFAULT_FACTOR, RuleName


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one engine.

    Attributes:
        model: checkpoint directory.
        adapter: directory of a LoRA adapter over it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, or the name of a torch dtype.
        block_length: tokens per block, in place of the checkpoint's or the adapter's.
        confidence_threshold: likewise, in (0, 1].
        decoding: the rule of requests that name none.
        decoding_factor, entropy_bound, steps_per_block: the rules' numbers where a request sends none; without
            ``steps_per_block`` a block takes one step per token.
        max_model_len, rope_scaling_factor: those of ``load_checkpoint``.
        max_num_seqs: sequences per batch.
        max_num_batched_tokens: tokens per forward.
        max_prefill_tokens: a request with more known tokens to compute is computed in pieces, each at most as much work
            per step as so many tokens.
        kv_cache_memory: bytes; ``None`` takes a share of the free memory, at most ``max_num_seqs`` full contexts.
        page_size: tokens per page.
        enable_prefix_caching: keep the pages of prompts for requests that begin alike.
        attention_backend: an implementation in ``model/attention/``.
        quantization: how the layers' weights are stored.
        pack_weights: bring large weights into the order that a CPU multiplies fastest.
        cuda_graphs: replay recorded forwards.
        tensor_parallel_size: processes that share the layers, one per device; ``kv_cache_memory`` and ``threads`` are
            those of each.
        threads: CPU threads of each step; ``None`` chooses by the work of a step.
    """

    model: str
    adapter: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    block_length: int | None = None
    confidence_threshold: float | None = None
    decoding: RuleName = "threshold"
    decoding_factor: float = DEFAULT_FACTOR
    entropy_bound: float = DEFAULT_ENTROPY_BOUND
    steps_per_block: int | None = None
    max_model_len: int | None = None
    rope_scaling_factor: float = 1.0
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 8192
    max_prefill_tokens: int = 512
    kv_cache_memory: int | None = None
    page_size: int = 32
    enable_prefix_caching: bool = True
    attention_backend: AttentionBackend = "sdpa"
    quantization: Quantization = "none"
    pack_weights: bool = True
    cuda_graphs: bool = False
    tensor_parallel_size: int = 1
    threads: int | None = None
