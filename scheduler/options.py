"""The engine's settings, in one frozen object that can be sent to the engine process."""

import msgspec

from cdlm.model.config import AttentionBackend, Quantization
from cdlm.model.decoding.rules import DEFAULT_ENTROPY_BOUND, DEFAULT_FACTOR, RuleName


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one engine.

    Attributes:
        model: checkpoint directory.
        adapter: directory of a LoRA adapter for it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, or the name of a torch dtype.
        block_length: tokens per block; replaces the checkpoint's and the adapter's value.
        confidence_threshold: in (0, 1]; replaces the checkpoint's and the adapter's value.
        decoding: the finalization rule of requests that name none.
        decoding_factor, entropy_bound, steps_per_block: default numbers of the rules; without ``steps_per_block`` a
            block takes one step per token.
        max_model_len, rope_scaling_factor: as in ``load_checkpoint``.
        max_num_seqs: most sequences per step.
        max_num_batched_tokens: most tokens per forward.
        max_prefill_tokens: requests with more known tokens to compute are prefilled in pieces, with at most the work of
            this many tokens per step.
        kv_cache_memory: bytes of KV cache; ``None`` uses a share of the free memory, at most ``max_num_seqs`` full
            contexts.
        page_size: tokens per page.
        enable_prefix_caching: cache the pages of prefixes for later requests.
        attention_backend: an implementation in ``model/attention/``.
        quantization: how the layers' weights are stored.
        pack_weights: pack large weights into the layout that is fastest on a CPU.
        cuda_graphs: record forwards as CUDA graphs and replay them.
        tensor_parallel_size: number of ranks, one process per device; ``kv_cache_memory`` and ``threads`` are per rank.
        threads: CPU threads per step; ``None`` chooses by the work of each step.
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
