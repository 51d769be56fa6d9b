"""What the engine needs to know to start: one frozen, typed object that crosses the process border."""

import msgspec

from cdlm.model.config import AttentionBackend, Quantization
from cdlm.model.rules import DEFAULT_ENTROPY_BOUND, DEFAULT_FACTOR, RuleName


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one engine.

    ``model`` is a checkpoint directory, ``adapter`` that of a LoRA adapter over it; ``device`` and ``dtype`` may be
    ``"auto"``; ``block_length`` and ``confidence_threshold`` override the manifest's and the adapter's values;
    ``decoding`` is the rule of requests that name none, and ``decoding_factor``, ``entropy_bound`` and
    ``steps_per_block`` (``None`` is one step a token) are the numbers of requests that send none; ``max_model_len`` and
    ``rope_scaling_factor`` are those of ``cdlm.model.checkpoint.load_checkpoint``; ``kv_cache_memory`` is in bytes
    (``None`` takes a share of the free memory, at most ``max_num_seqs`` full contexts); ``max_num_batched_tokens``
    bounds one forward; a request with more than ``max_prefill_tokens`` known tokens to compute is computed in pieces,
    at most as much work a step as that many tokens; ``enable_prefix_caching`` keeps the pages of prompts for requests
    that begin alike; ``attention_backend`` names an implementation of attention (``model/attention/``),
    ``quantization`` how the layers' weights are stored (``model/quantization.py``); ``pack_weights`` brings large ones
    into the order that a CPU multiplies fastest (``model/packing.py``); ``cuda_graphs`` replays recorded forwards
    (``model/graphs.py``); ``tensor_parallel_size`` is how many processes, one a device, share the layers
    (``model/parallel/``), ``kv_cache_memory`` and ``threads`` being those of each (``None`` chooses by the work of a
    step).
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
