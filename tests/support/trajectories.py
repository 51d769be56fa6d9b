"""Computes an answer's log-probabilities again, as a trainer does: from tokens and step map alone."""

from pathlib import Path

import torch

from tests.support.engines import read_checkpoint
from tests.support.oracle.mask import mask_token
from tests.support.oracle.network import hidden_states, visibility


def replay(directory: Path, prompt: list[int], tokens: list[int], step_map: list[int]) -> list[float]:
    """Log-probabilities of an answer's tokens, each where all tokens of its step and of later ones are masked.

    The answer ends with a block: tokens behind the end of an answer are not known, and those before them saw them.
    """
    weights, shape, manifest = read_checkpoint(directory)
    head = weights.get("lm_head.weight", weights["embed_tokens.weight"])
    mask, banned = mask_token(manifest, len(head))
    origin = len(prompt) if manifest.block_origin == "prompt_end" else 0
    places = range(len(prompt), len(prompt) + len(tokens))
    written = [((place - origin) // manifest.block_length, step) for place, step in zip(places, step_map, strict=True)]
    found: dict[int, float] = {}
    for now in sorted(set(written)):
        canvas = prompt + [
            token if when < now else mask for token, when in zip(tokens, written, strict=True) if when[0] <= now[0]
        ]
        sees = visibility(
            len(canvas), origin, manifest.prompt_attention, manifest.block_length, manifest.commit_attention
        )
        hidden = hidden_states(weights, shape, torch.tensor(canvas), sees)
        for place, token, when in zip(places, tokens, written, strict=True):
            if when == now:
                logits = head @ hidden[place - 1 if manifest.shift else place]
                logits[banned] = float("-inf")
                found[place] = float(logits.log_softmax(-1)[token])
    return [found[place] for place in places]
