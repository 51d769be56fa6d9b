"""What a forward pass costs on paper: FLOPs, and bytes moved between memory and the cores.

Counted are matrix products, weights, keys and values. Activations, logits, norms, softmax, launches and communication
are left out, so a time derived from here is a lower bound. Everything is for one device of ``tensor_parallel``.
"""

from dataclasses import dataclass

from cdlm.cli.plan.roofline import Work
from cdlm.model.config import PromptAttention, TransformerConfig
from cdlm.model.network.parameters import count_parameters


@dataclass(frozen=True, slots=True)
class Precision:
    """How weights are stored and in which unit they are multiplied.

    Attributes:
        matrix_bytes: bytes a weight of the layers' matrices takes.
        other_bytes: bytes an element of everything else takes: embedding, LM head, norms, biases, keys, values.
        half: the matrix units for 16-bit numbers do the arithmetic; else fp32.
    """

    matrix_bytes: float
    other_bytes: int
    half: bool


# int8 and int4 are weight-only: the layers' matrices are widened to 16 bits before they are multiplied. What scales
# and zero points add (two bytes and more a group) is left out.
PRECISIONS = {
    "bfloat16": Precision(2.0, 2, True),
    "float16": Precision(2.0, 2, True),
    "float32": Precision(4.0, 4, False),
    "int8": Precision(1.0, 2, True),
    "int4": Precision(0.5, 2, True),
}


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a block is decoded, on average.

    Attributes:
        block_length: B, tokens denoised together.
        tokens_per_forward: k, tokens of the answer that one forward of a row finalizes; a block takes B/k forwards.
        commit_share: blocks that are committed, of all: the last block of an answer is not.
        commit_alone: the commit has a forward of its own, which also finalizes the next block's first token;
            else it rides with the next block's first step.
    """

    block_length: int
    tokens_per_forward: float
    commit_share: float
    commit_alone: bool = False

    @property
    def forwards(self) -> float:
        """Forwards a block takes, s."""
        return self.block_length / self.tokens_per_forward

    @property
    def denoise_tokens(self) -> float:
        """Tokens denoised in a forward, mean: B, or less where some forwards only commit."""
        return self.block_length - (self.tokens_per_forward if self.commit_alone else 0.0)

    @property
    def commit_tokens(self) -> float:
        """Clean tokens in a forward, mean: B of them once in s forwards."""
        return self.commit_share * self.tokens_per_forward

    @property
    def tokens(self) -> float:
        """Tokens a row brings to a forward, mean: (s B + B) / s for a block that is committed with the next."""
        return self.denoise_tokens + self.commit_tokens

    @property
    def predicted(self) -> float:
        """Positions the LM head runs on in a forward, mean: those still masked.

        B, B - k, ..., k have mean (B + k)/2. With a commit of its own s forwards run it on 1, then on B - 1 down to
        (B - 1)/(s - 1): mean 1/s + (B - 1)/2.
        """
        if self.commit_alone:
            return 1 / self.forwards + (self.block_length - 1) / 2
        return (self.block_length + self.tokens_per_forward) / 2


@dataclass(frozen=True, slots=True)
class ModelCost:
    """Costs of a transformer in a precision, on one of ``tensor_parallel`` devices.

    Weights and FLOPs are divided evenly; keys and values by heads, and a head is never cut: with more devices than
    key-value heads they are kept more than once.
    """

    config: TransformerConfig
    precision: Precision
    tensor_parallel: int = 1

    @property
    def weight_bytes(self) -> float:
        """Memory that the weights take."""
        count = count_parameters(self.config)
        other = count.total - count.matrices
        return self._weights(count.matrices, other)

    @property
    def streamed_bytes(self) -> float:
        """Weight bytes that one forward reads, whatever its size: all but an embedding that is only looked up."""
        count = count_parameters(self.config)
        head = count.head or count.embedding
        return self._weights(count.matrices, count.vectors + head)

    @property
    def weights(self) -> Work:
        """Reading them once."""
        return Work(0.0, self.streamed_bytes)

    @property
    def kv_bytes_per_token(self) -> float:
        """Memory of one position's keys and values: 2 (K and V), layers, key-value heads, head width, bytes."""
        heads = self.config.num_kv_heads / min(self.tensor_parallel, self.config.num_kv_heads)
        return 2 * self.config.num_layers * heads * self.config.head_dim * self.precision.other_bytes

    def row(self, tokens: float, pairs: float, cached: float, predicted: float) -> Work:
        """One row of a forward, without reading the weights.

        ``tokens`` go through the layers, 2 FLOPs a weight each; ``pairs`` of a query and a key it sees cost
        4 heads head_dim FLOPs a layer (QK^T and PV); the LM head runs on ``predicted`` positions. The keys and values
        of ``cached`` positions are read once, those of ``tokens`` are written.
        """
        config = self.config
        linear = 2 * tokens * count_parameters(config).matrices
        attention = 4 * pairs * config.num_heads * config.head_dim * config.num_layers
        head = 2 * predicted * config.vocab_size * config.hidden_size
        flops = (linear + attention + head) / self.tensor_parallel
        return Work(flops, (cached + tokens) * self.kv_bytes_per_token)

    def student_row(self, decoding: Decoding, context: float) -> Work:
        """A row of a block student with ``context`` positions before its block: the mean over a block's forwards.

        The block's rows see the context and their block. Committed tokens are the last B of the context: they see
        the context only, and their keys and values are written instead of read.
        """
        pairs = decoding.denoise_tokens * (context + decoding.block_length) + decoding.commit_tokens * context
        cached = max(0.0, context - decoding.commit_tokens)
        return self.row(decoding.tokens, pairs, cached, decoding.predicted)

    def autoregressive_row(self, context: float) -> Work:
        """A row of an autoregressive model of this shape: one token, which sees the context and itself."""
        return self.row(1, context + 1, context, 1)

    def prefill(self, prompt: int, attention: PromptAttention, block_length: int) -> Work:
        """A prompt's keys and values, without reading the weights. Nothing is predicted: the first block does that.

        A query sees the whole prompt, or on average half of it and half a block, or half of it and itself.
        """
        seen = float(prompt)
        if attention != "full":
            seen = (prompt + min(prompt, block_length if attention == "block_causal" else 1)) / 2
        return self.row(prompt, prompt * seen, 0, 0)

    def forward(self, row: Work, batch: float) -> Work:
        """A forward of ``batch`` such rows: the weights are read once for all of them."""
        return self.weights + row.times(batch)

    def _weights(self, matrices: int, other: int) -> float:
        precision = self.precision
        return (matrices * precision.matrix_bytes + other * precision.other_bytes) / self.tensor_parallel
