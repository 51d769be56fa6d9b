"""Computes what an engine on a GPU takes beside weights and pages."""

from cdlm.cli.plan.inputs import Inputs
from cdlm.model.attention.segments import PART
from cdlm.model.decoding.logits.reader import LOGITS_BYTES
from cdlm.model.forwards.shapes import all_shapes, buffer_bytes
from cdlm.model.uploads import HOST_BYTES
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.warm_up import RESERVE

BATCHED_TOKENS: int = EngineOptions.model_fields["max_num_batched_tokens"].default


def step_memory(inputs: Inputs, rows: int) -> dict[str, float]:
    """Bytes per device by their use, for ``rows`` rows; ``uploads`` lie in the host's memory.

    ``activations`` are the widest moment of a layer in the largest step, as far as shapes tell: two hidden states, and
    either the projections of attention, or gate, up and their product, or what each token's experts give. The engine
    measures the real peak at its start. What recorded graphs keep for themselves is not computed.
    """
    config, size = inputs.shape.config, inputs.precision.other_bytes
    attention = (3 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    widest = max(attention, 3 * config.intermediate_size) / inputs.tensor_parallel
    if config.mixture is not None:  # The outputs of each token's experts: as they are, and in fp32.
        widest = max(widest, config.mixture.experts_per_token * config.hidden_size * (1 + 4 / size))
    block, positions = inputs.block_length, inputs.shape.manifest.max_model_len + inputs.block_length
    pages = -(-positions // inputs.page_size)
    shapes = all_shapes(pages * inputs.page_size, PART) if inputs.tensor_parallel == 1 else []
    logits = rows * block * config.vocab_size * size / inputs.tensor_parallel
    return {
        "activations": BATCHED_TOKENS * size * (2 * config.hidden_size + widest),
        "logits": min(float(LOGITS_BYTES), logits),
        "graphs": float(sum(buffer_bytes(shape, block, pages) for shape in shapes)),
        "kept": float(RESERVE),
        "uploads": float(HOST_BYTES),
    }
