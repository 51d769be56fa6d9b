"""Guide models: autoregressive checkpoints that say how many tokens each step of a diffusion model finalizes."""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError
from cdlm.model.network.transformer import Transformer

if TYPE_CHECKING:
    from cdlm.model.loading.checkpoint import Description


def check_guide(guide: "Description", model: "Description") -> None:
    """Checks that a checkpoint can guide another one.

    Raises:
        CheckpointError: the guide is not a next-token model, the other one is, their tokens differ, or the guide was
            trained for fewer positions than a request may have.
    """
    what, manifest = f"guide_model {guide.directory}", guide.manifest
    if not (manifest.block_length == 1 and manifest.shift and manifest.prompt_attention == "causal"):
        raise CheckpointError(f"{what}: is not a next-token model; only a causal one can guide")
    if model.manifest.block_length == 1:
        raise CheckpointError(f"{what}: {model.directory} decides one token per step, there is nothing to guide")
    longest = manifest.trained_len or manifest.max_model_len
    if longest < model.manifest.max_model_len:
        raise CheckpointError(
            f"{what}: was trained for {longest} positions, fewer than the max_model_len {model.manifest.max_model_len}"
        )
    _check_tokens(what, guide.names, model.names, model.manifest.mask_token_id)


def _check_tokens(what: str, guide: TokenNames, model: TokenNames, mask_token_id: int) -> None:
    """Compares the tokens of two tokenizers, but for the mask token.

    Each token of the model's vocabulary has the same id in the guide's. Added tokens may be in one of them only; where
    both have a token of one id, it is the same.
    """
    if guide.known != model.known:
        which = (
            "it has no tokenizer, and the model has" if model.known else "it has a tokenizer, and the model has none"
        )
        raise CheckpointError(f"{what}: {which}: the tokens cannot be compared")
    known = {**guide.ordinary, **guide.added}
    texts = {ident: text for text, ident in known.items()}
    for text, ident in (*model.ordinary.items(), *model.added.items()):
        if ident == mask_token_id:
            continue
        if known.get(text, ident) != ident or texts.get(ident, text) != text:
            other = f"id {known[text]}" if known.get(text, ident) != ident else f"{texts[ident][:64]!r}"
            known_as = f"token {ident} is {text[:64]!r}, and {other} in the guide"
            raise CheckpointError(f"{what}: has another tokenizer: {known_as}")
        if text in model.ordinary and ident not in texts:
            raise CheckpointError(f"{what}: has another tokenizer: it lacks token {ident}, {text[:64]!r}")


def cut_vocabulary(guide: Transformer, vocab_size: int) -> None:
    """Drops the tokens of a guide from ``vocab_size`` on: padding, or tokens that the other model cannot generate."""
    if guide.config.vocab_size <= vocab_size:
        return
    guide.config = replace(guide.config, vocab_size=vocab_size)
    embedding = guide.embed_tokens.weight[:vocab_size]
    guide.embed_tokens = nn.Embedding(vocab_size, guide.config.hidden_size, _weight=embedding)
    guide.lm_head.weight = nn.Parameter(guide.lm_head.weight[:vocab_size], requires_grad=False)
    guide.lm_head.out_features = vocab_size
    guide.tie_weights()
