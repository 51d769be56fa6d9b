"""How many weights a transformer has, and what attention costs beside them."""

from dataclasses import dataclass

from cdlm.model.config import TransformerConfig


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many weights ``model.network.transformer.Transformer`` has, by what a forward does with them.

    Attributes:
        matrices: the layers' projections, multiplied with every token.
        vectors: norms and biases.
        embedding: looked up, not multiplied; read whole only where it is the LM head too.
        head: the LM head; 0 where it is the embedding.
    """

    matrices: int
    vectors: int
    embedding: int
    head: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.matrices + self.vectors + self.embedding + self.head


def count_parameters(config: TransformerConfig) -> Parameters:
    """Weights of q, k, v, o, gate, up and down, of two norms a layer and one at the end, embedding and LM head."""
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
    """FLOPs of one query over one key in all layers, over those of one token's projections in them."""
    return 4 * config.num_heads * config.head_dim * config.num_layers / (2 * count_parameters(config).matrices)
