"""Computes the cost of a forward pass: FLOPs, and bytes moved between memory and cores.

Counts matrix products, weights, keys and values. Leaves out activations, logits, norms, softmax, launches and
communication: times derived from it are lower bounds. Of experts, a forward reads as many as its tokens would choose if
they chose evenly and each by itself. All values are per device of ``tensor_parallel``.
"""

from dataclasses import dataclass

from cdlm.model.config import PromptAttention, TransformerConfig
from cdlm.model.network.parameters import count_parameters, share_of_experts, weights_per_token
from cdlm.model.roofline.roof import Work


@dataclass(frozen=True, slots=True)
class Precision:
    """How weights are stored, and which units multiply them.

    Attributes:
        matrix_bytes: bytes per weight of the layers' matrices.
        other_bytes: bytes per element of embedding, LM head, norms, biases, keys and values.
        half: whether arithmetic runs on the 16-bit matrix units, else in fp32.
        speed: arithmetic relative to that.
    """

    matrix_bytes: float
    other_bytes: int
    half: bool
    speed: float = 1.0


# int8 and int4 are weight-only: matrices are converted to 16 bits before products. Scales and zero points (two bytes or
# more per group) are not counted. fp8 multiplies at twice the 16-bit rate; attention and LM
# head, which do not, are counted as if they did.
PRECISIONS = {
    "bfloat16": Precision(2.0, 2, True),
    "float16": Precision(2.0, 2, True),
    "float32": Precision(4.0, 4, False),
    "int8": Precision(1.0, 2, True),
    "int4": Precision(0.5, 2, True),
    "fp8": Precision(1.0, 2, True, speed=2.0),
}


@dataclass(frozen=True, slots=True)
class Decoding:
    """Averages of decoding a block.

    Attributes:
        block_length: B, tokens per block.
        tokens_per_forward: k, tokens that one forward finalizes per row; a block takes B/k forwards.
        commit_share: share of the blocks that are committed; the last block of an answer is not.
        commit_alone: whether the commit is a separate forward, which also finalizes the next block's first token, or
            part of the next block's first step.
    """

    block_length: int
    tokens_per_forward: float
    commit_share: float
    commit_alone: bool = False

    @property
    def forwards(self) -> float:
        """s, forwards per block."""
        return self.block_length / self.tokens_per_forward

    @property
    def denoise_tokens(self) -> float:
        """Mean tokens denoised per forward: B, or less if some forwards only commit."""
        return self.block_length - (self.tokens_per_forward if self.commit_alone else 0.0)

    @property
    def commit_tokens(self) -> float:
        """Mean clean tokens per forward: B in one of s forwards."""
        return self.commit_share * self.tokens_per_forward

    @property
    def tokens(self) -> float:
        """Mean tokens of a row per forward: (s B + B) / s if a block is committed with the next block's first step."""
        return self.denoise_tokens + self.commit_tokens

    @property
    def predicted(self) -> float:
        """Mean positions per forward for which the LM head runs: those still masked.

        B, B - k, ..., k have mean (B + k)/2. With a separate commit, s forwards run it on 1, then on B - 1 down to (B -
        1)/(s - 1) positions: mean 1/s + (B - 1)/2.
        """
        if self.commit_alone:
            return 1 / self.forwards + (self.block_length - 1) / 2
        return (self.block_length + self.tokens_per_forward) / 2


@dataclass(frozen=True, slots=True)
class ModelCost:
    """Costs of a transformer in one precision, per device of ``tensor_parallel``.

    Weights and FLOPs are divided evenly, keys and values by whole heads: with more devices than key-value heads, heads
    are duplicated.
    """

    config: TransformerConfig
    precision: Precision
    tensor_parallel: int = 1

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights."""
        count = count_parameters(self.config)
        matrices = count.matrices + count.experts
        return self._weights(matrices, count.total - matrices)

    @property
    def streamed_bytes(self) -> float:
        """Weight bytes that a forward of many tokens reads: all but an untied embedding, which is only looked up."""
        return self._streamed(1.0)

    @property
    def weights(self) -> Work:
        """The work of reading the weights once, with all experts."""
        return Work(0.0, self.streamed_bytes)

    def read(self, tokens: float) -> Work:
        """The work of reading the weights that ``tokens`` tokens use: of the experts, those that they choose."""
        return Work(0.0, self._streamed(share_of_experts(self.config, tokens)))

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of one position's keys and values: 2 (K and V) * layers * key-value heads * head width * bytes."""
        heads = self.config.num_kv_heads / min(self.tensor_parallel, self.config.num_kv_heads)
        return 2 * self.config.num_layers * heads * self.config.head_dim * self.precision.other_bytes

    def row(self, tokens: float, pairs: float, cached: float, predicted: float) -> Work:
        """Work of one row in a forward, without reading the weights.

        ``tokens`` run through the layers, with 2 FLOPs per weight each; each of ``pairs`` (a query and a key it sees)
        costs 4 * heads * head_dim FLOPs per layer (QK^T and PV); the LM head runs on ``predicted`` positions. Keys and
        values of ``cached`` positions are read once, those of ``tokens`` are written.
        """
        config = self.config
        linear = 2 * tokens * weights_per_token(config)
        attention = 4 * pairs * config.num_heads * config.head_dim * config.num_layers
        head = 2 * predicted * config.vocab_size * config.hidden_size
        flops = (linear + attention + head) / self.tensor_parallel
        return Work(flops, (cached + tokens) * self.kv_bytes_per_token, tokens)

    def student_row(self, decoding: Decoding, context: float) -> Work:
        """Mean work per forward of a student's row with ``context`` positions before its block.

        The block's tokens see context and block. Committed tokens are the last B of the context: they see the context
        only, and their keys and values are written, not read.
        """
        pairs = decoding.denoise_tokens * (context + decoding.block_length) + decoding.commit_tokens * context
        cached = max(0.0, context - decoding.commit_tokens)
        return self.row(decoding.tokens, pairs, cached, decoding.predicted)

    def autoregressive_row(self, context: float) -> Work:
        """Work per forward of an autoregressive model's row: one token, which sees the context and itself."""
        return self.row(1, context + 1, context, 1)

    def prefill(self, prompt: int, attention: PromptAttention, block_length: int) -> Work:
        """Work of a prefill without reading the weights. It predicts nothing.

        By ``attention``, a query sees the whole prompt, or on average half of it and half a block, or half of it and
        itself.
        """
        seen = float(prompt)
        if attention != "full":
            seen = (prompt + min(prompt, block_length if attention == "block_causal" else 1)) / 2
        return self.row(prompt, prompt * seen, 0, 0)

    def forward(self, row: Work, batch: float) -> Work:
        """Work of a forward of ``batch`` such rows, which read the weights that they use once."""
        return self.read(row.tokens * batch) + row.times(batch)

    def _streamed(self, share: float) -> float:
        count = count_parameters(self.config)
        return self._weights(count.matrices + share * count.experts, count.vectors + (count.head or count.embedding))

    def _weights(self, matrices: float, other: int) -> float:
        precision = self.precision
        return (matrices * precision.matrix_bytes + other * precision.other_bytes) / self.tensor_parallel
