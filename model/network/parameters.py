"""Counts a transformer's weights, and the cost of attention relative to them."""

from dataclasses import dataclass

from cdlm.model.config import TransformerConfig


@dataclass(frozen=True, slots=True)
class Parameters:
    """Number of weights of a ``Transformer``, by their use in a forward.

    Attributes:
        matrices: the layers' projections, used by every token.
        vectors: norms and biases.
        embedding: looked up; read as a whole only if it is also the LM head.
        head: the LM head; 0 if it is the embedding.
    """

    matrices: int
    vectors: int
    embedding: int
    head: int

    @property
    def total(self) -> int:
        """The number of all weights."""
        return self.matrices + self.vectors + self.embedding + self.head


def count_parameters(config: TransformerConfig) -> Parameters:
    """Counts the weights: q, k, v, o, gate, up, down and two norms per layer, last norm, embedding, LM head."""
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    matrices = config.hidden_size * (2 * width + 2 * kv_width + 3 * config.intermediate_size)
    vectors = 2 * config.hidden_size
    vectors += width + 2 * kv_width if config.attention_bias else 0
    vectors += 2 * config.head_dim if config.qk_norm else 0
    table = config.vocab_size * config.hidden_size
    return Parameters(
        matrices=config.num_layers * matrices,
        vectors=config.num_layers * vectors + config.hidden_size,
        embedding=table,
        head=0 if config.tie_word_embeddings else table,
    )


def attention_share(config: TransformerConfig) -> float:
    """FLOPs of one query-key pair in all layers, divided by FLOPs of one token's projections in all layers."""
    return 4 * config.num_heads * config.head_dim * config.num_layers / (2 * count_parameters(config).matrices)
