"""Counts a transformer's weights, and the cost of attention relative to them."""

from dataclasses import dataclass

from cdlm.model.config import TransformerConfig


@dataclass(frozen=True, slots=True)
class Parameters:
    """Number of weights of a ``Transformer``, by their use in a forward.

    Attributes:
        matrices: the layers' projections, used by every token.
        experts: those of the layers' experts, of which a token uses a part.
        vectors: norms and biases.
        embedding: looked up; read as a whole only if it is also the LM head.
        head: the LM head; 0 if it is the embedding.
    """

    matrices: int
    experts: int
    vectors: int
    embedding: int
    head: int

    @property
    def total(self) -> int:
        """The number of all weights."""
        return self.matrices + self.experts + self.vectors + self.embedding + self.head


def count_parameters(config: TransformerConfig) -> Parameters:
    """Counts the weights: q, k, v, o, gate, up, down and two norms per layer, last norm, embedding, LM head.

    Layers with experts have a router and perhaps a shared expert in place of gate, up and down.
    """
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    matrices = config.num_layers * 2 * (width + kv_width) + config.dense_layers * 3 * config.intermediate_size
    vectors = 2 * config.hidden_size
    vectors += width + 2 * kv_width if config.attention_bias else 0
    vectors += 2 * config.head_dim if config.qk_norm else 0
    vectors = config.num_layers * vectors + config.hidden_size
    experts = 0
    if config.mixture is not None:
        mixed = config.num_layers - config.dense_layers
        matrices += mixed * (config.mixture.experts + 3 * config.mixture.shared_width)
        vectors += mixed * config.mixture.experts if config.mixture.biased else 0
        experts = mixed * config.mixture.experts * 3 * config.hidden_size * config.mixture.width
    table = config.vocab_size * config.hidden_size
    return Parameters(
        matrices=config.hidden_size * matrices,
        experts=experts,
        vectors=vectors,
        embedding=table,
        head=0 if config.tie_word_embeddings else table,
    )


def weights_per_token(config: TransformerConfig) -> float:
    """The weights of the layers' matrices that one token is multiplied with: of the experts, its own."""
    count = count_parameters(config)
    mixture = config.mixture
    return count.matrices + (0 if mixture is None else count.experts * mixture.experts_per_token / mixture.experts)


def active_parameters(config: TransformerConfig) -> int:
    """How many parameters one token uses: all but the experts that it does not choose."""
    count, mixture = count_parameters(config), config.mixture
    unused = 0 if mixture is None else count.experts * (mixture.experts - mixture.experts_per_token) // mixture.experts
    return count.total - unused


def share_of_experts(config: TransformerConfig, tokens: float) -> float:
    """The share of the experts that ``tokens`` tokens use together, if each chooses evenly and by itself.

    Real tokens agree more than that, so they use fewer.
    """
    mixture = config.mixture
    return 0.0 if mixture is None else 1 - (1 - mixture.experts_per_token / mixture.experts) ** tokens


def attention_share(config: TransformerConfig) -> float:
    """FLOPs of one query-key pair in all layers, divided by FLOPs of one token's projections in all layers."""
    return 4 * config.num_heads * config.head_dim * config.num_layers / (2 * weights_per_token(config))
