"""Keys of the prefix cache."""

import hashlib
from array import array
from typing import TYPE_CHECKING

from cdlm.model.config import Manifest
from cdlm.scheduler.blocks import first_block_start
from cdlm.scheduler.messages import GenerateRequest, ScoreRequest
from cdlm.scheduler.sequence import Sequence

if TYPE_CHECKING:
    from cdlm.scheduler.scoring.request import Scoring

Key = bytes


class PrefixKeys:
    """Computes hashes of a sequence's prefixes and stores them on the sequence: each token is hashed once.

    The hash is cryptographic: a client that finds a collision could read another client's cache. It includes the
    request's ``cache_salt``.

    Args:
        manifest: where blocks begin and what prompt tokens see.
        unit: tokens per key; a multiple of the page size, and of the block length unless finished blocks are causal.
    """

    def __init__(self, manifest: Manifest, unit: int) -> None:
        self._manifest, self._unit = manifest, unit

    def of_prompt(self, sequence: Sequence) -> Key:
        """The key of a whole prompt, for checkpoints that can only share whole prompts."""
        if not sequence.keys:
            sequence.keys.append(_digest(_root(b"whole", sequence.request), sequence.request.prompt_ids))
        return sequence.keys[0]

    def of_text(self, text: "Scoring", end: int) -> int:
        """Extends ``text.keys`` to all whole units below position ``end``; returns their number.

        A text has blocks from position 0. Its keys are those of prompts whose tokens see the same.
        """
        manifest = self._manifest
        causal = manifest.commit_attention == "causal" or manifest.block_length == 1
        alike = manifest.prompt_attention == "block_causal" or (manifest.prompt_attention == "causal" and causal)
        kind = b"chain" if alike else b"text"
        return self._chain(text.keys, _root(kind, text.request), text.ids, end)

    def extend(self, sequence: Sequence, end: int) -> int:
        """Extends ``sequence.keys`` to all whole units below position ``end``; returns their number.

        Each key covers all tokens up to the end of its unit.
        """
        manifest = self._manifest
        if manifest.commit_attention == "block":
            if manifest.prompt_attention == "causal" and manifest.block_length > 1:
                # Generated blocks attend within the block, tokens of a causal prompt do not: their keys differ.
                end = min(end, first_block_start(sequence.prompt_length, manifest))
            elif manifest.block_origin == "prompt_end" and sequence.prompt_length % manifest.block_length:
                return 0  # No page ends at a block border.
        return self._chain(sequence.keys, _root(b"chain", sequence.request), sequence.token_ids, end)

    def _chain(self, keys: list[Key], root: Key, token_ids: list[int], end: int) -> int:
        unit = self._unit
        for start in range(len(keys) * unit, end - unit + 1, unit):
            keys.append(_digest(keys[-1] if keys else root, token_ids[start : start + unit]))
        return max(0, end // unit)


def _root(kind: bytes, request: GenerateRequest | ScoreRequest) -> Key:
    salt = request.cache_salt.encode(errors="surrogatepass")
    return hashlib.sha256(kind + salt).digest()


def _digest(before: bytes, token_ids: list[int]) -> Key:
    return hashlib.sha256(before + array("q", token_ids).tobytes()).digest()
