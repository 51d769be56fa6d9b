"""A checkpoint's configuration: the transformer's shape, and how its blocks are decoded."""

from dataclasses import dataclass
from typing import Literal, get_args

BlockOrigin = Literal["prompt_end", "absolute"]
PromptAttention = Literal["full", "block_causal", "causal"]
CommitAttention = Literal["block", "causal"]
FirstToken = Literal["masked", "autoregressive"]
AttentionBackend = Literal["auto", "sdpa", "flex", "triton"]
Quantization = Literal["none", "int8", "fp8"]
RouterScores = Literal["softmax", "sigmoid"]


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded; the message names the file and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryScaling:
    """Rotary angles stretched by YaRN (Peng et al., 2023, arXiv 2309.00071), and queries scaled by their position.

    Attributes:
        factor: what the slow angles are divided by.
        positions: positions that the weights knew before.
        beta_fast, beta_slow: angles with more turns within ``positions`` than the first stay, those with fewer than the
            second are divided; those between are blended.
        truncate: whether the pairs at which blending begins and ends are rounded outward to whole ones.
        attention_factor: what cosines and sines are multiplied by.
        query_beta: a query at position p is multiplied by 1 + ``query_beta`` * log(1 + floor(p / ``positions``)).
    """

    factor: float
    positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    query_beta: float = 0.0

    def __post_init__(self) -> None:
        for name in ("factor", "positions", "beta_slow", "attention_factor"):
            if not getattr(self, name) > 0:
                raise CheckpointError(f"rotary_scaling: {name} must be positive, got {getattr(self, name)}")
        if not self.beta_fast > self.beta_slow:
            raise CheckpointError(
                f"rotary_scaling: beta_fast {self.beta_fast:g} must exceed beta_slow {self.beta_slow:g}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """Shape of the mixtures of experts, which are the feed-forwards of all layers but the first.

    Attributes:
        experts: experts of a layer.
        experts_per_token: how many of them compute a token.
        width: hidden units of an expert.
        shared_width: hidden units of the expert that computes every token; 0 if there is none.
        scores: the function that makes the router's scores.
        biased: whether experts are chosen by score plus a stored bias; it does not weigh their outputs.
        groups: equal groups of experts; a group's score is the sum of its two best scores.
        groups_per_token: the best groups, from which a token's experts come.
        normalized: whether the scores of a token's experts are divided by their sum.
        scale: factor of the experts' outputs, but not of the shared expert's.
        dense_layers: the first layers, which have an ordinary feed-forward.
    """

    experts: int
    experts_per_token: int
    width: int
    shared_width: int = 0
    scores: RouterScores = "softmax"
    biased: bool = False
    groups: int = 1
    groups_per_token: int = 1
    normalized: bool = True
    scale: float = 1.0
    dense_layers: int = 0

    def __post_init__(self) -> None:
        for name in ("experts", "experts_per_token", "width", "groups", "groups_per_token"):
            if getattr(self, name) < 1:
                raise CheckpointError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("shared_width", "dense_layers"):
            if getattr(self, name) < 0:
                raise CheckpointError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.scores not in get_args(RouterScores):
            raise CheckpointError(f"scores must be one of {', '.join(get_args(RouterScores))}, got {self.scores!r}")
        if self.experts % self.groups:
            raise CheckpointError(f"{self.experts} experts cannot be dealt to {self.groups} groups")
        if self.groups > 1 and self.experts == self.groups:
            raise CheckpointError(f"{self.groups} groups of one expert have no two best scores")
        if self.groups_per_token > self.groups:
            raise CheckpointError(f"a token cannot have {self.groups_per_token} of {self.groups} groups")
        found = self.experts // self.groups * self.groups_per_token
        if self.experts_per_token > found:
            raise CheckpointError(f"a token cannot have {self.experts_per_token} of {found} experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Shape of the transformer. Sizes are numbers of elements; ``head_dim`` is even.

    The first ``partial_rotary_factor`` of a head's width turns with the position. ``mixture`` replaces feed-forwards of
    ``intermediate_size``; ``None`` for none.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    rotary_scaling: RotaryScaling | None = None
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = False
    partial_rotary_factor: float = 1.0
    mixture: MixtureConfig | None = None

    @property
    def rotary_dim(self) -> int:
        """The width of a head that turns with the position."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def dense_layers(self) -> int:
        """How many layers have an ordinary feed-forward; they are the first."""
        return self.num_layers if self.mixture is None else min(self.mixture.dense_layers, self.num_layers)

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads")
        for name in sizes:
            if getattr(self, name) < 1:
                raise CheckpointError(f"{name} must be positive, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim < 2 or self.head_dim % 2:
            raise CheckpointError(f"head_dim must be even and positive, got {self.head_dim}")
        if not 0.0 < self.partial_rotary_factor <= 1.0 or self.rotary_dim < 2 or self.rotary_dim % 2:
            raise CheckpointError(
                f"partial_rotary_factor {self.partial_rotary_factor:g} turns {self.rotary_dim} of {self.head_dim}"
                " dimensions of a head; it must be an even number"
            )


# Why a checkpoint cannot replace decided tokens.
CANNOT_REPLACE = "the first token of a block comes from the block before it, and cannot be replaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """How a checkpoint's blocks are decoded; follows from its training.

    Attributes:
        block_length: tokens per block, which are denoised together.
        confidence_threshold: a masked position is finalized when its confidence exceeds this.
        mask_token_id: the id that stands for "not yet known"; never generated.
        stop_token_ids: ids that end a request.
        max_model_len: most tokens of a request, prompt plus answer.
        edit_threshold: confidence above which a step replaces a decided token of the current block; ``None`` if the
            weights were not trained for that.
        trained_len: positions that the weights were trained for, if more than ``max_model_len``.
        shift: the prediction for position i is read from the hidden state at i - 1.
        block_origin: where the first block begins: at the end of the prompt, or at position 0.
        prompt_attention: what a prompt token sees: the whole prompt, its own and earlier blocks, or earlier tokens.
        commit_attention: what a token of a finished block sees beside earlier blocks: its whole block, or the tokens
            before it.
        first_token: whether the first token of a block is denoised with the others or taken from the commit pass, which
            predicts it from the token before.
        bidirectional: the weights are a teacher's, trained to see later blocks too. The engine decodes them block by
            block, which is less accurate than the teacher's own decoder and than a student.
    """

    block_length: int
    confidence_threshold: float
    mask_token_id: int
    stop_token_ids: tuple[int, ...]
    max_model_len: int
    shift: bool = False
    block_origin: BlockOrigin = "prompt_end"
    prompt_attention: PromptAttention = "full"
    commit_attention: CommitAttention = "block"
    first_token: FirstToken = "masked"
    bidirectional: bool = False
    trained_len: int | None = None
    edit_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.block_length < 1:
            raise CheckpointError(f"block_length must be positive, got {self.block_length}")
        if not 0.0 < self.confidence_threshold <= 1.0:
            raise CheckpointError(f"confidence_threshold must lie in (0, 1], got {self.confidence_threshold}")
        if self.edit_threshold is not None and not 0.0 < self.edit_threshold <= 1.0:
            raise CheckpointError(f"edit_threshold must lie in (0, 1], got {self.edit_threshold}")
        if self.edit_threshold is not None and not self.can_replace:
            raise CheckpointError(f"edit_threshold: {CANNOT_REPLACE}")
        if self.max_model_len < 2:
            raise CheckpointError(f"max_model_len must be at least 2, got {self.max_model_len}")
        if self.block_origin == "absolute" and self.prompt_attention == "full":
            # Generated tokens would share a block with prompt tokens that must not see them.
            raise CheckpointError("block_origin 'absolute' needs prompt_attention 'block_causal' or 'causal'")
        if self.commit_attention == "causal" and self.prompt_attention != "causal":
            raise CheckpointError("commit_attention 'causal' needs prompt_attention 'causal'")

    @property
    def can_replace(self) -> bool:
        """Whether a step can replace decided tokens: not where a block's first token comes from the commit pass."""
        return self.first_token == "masked"

    @property
    def has_border(self) -> bool:
        """Whether a block's first token is predicted from the hidden state of the token before the block."""
        return self.shift or self.first_token == "autoregressive"


def check_mask(manifest: Manifest, vocab_size: int) -> None:
    """Raises ``CheckpointError`` if the mask token is not in the vocabulary but blocks start as masks.

    Blocks of one token that is predicted from the token before need no mask.
    """
    alone = manifest.block_length == 1 and manifest.first_token == "autoregressive"
    if manifest.mask_token_id < 0 or (manifest.mask_token_id >= vocab_size and not alone):
        raise CheckpointError(f"mask_token_id {manifest.mask_token_id} is not in the vocabulary of {vocab_size} tokens")
