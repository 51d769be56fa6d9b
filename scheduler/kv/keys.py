"""What the prefix cache knows prompts by."""

import hashlib
from array import array

from cdlm.model.config import Manifest
from cdlm.scheduler.blocks import first_block_start
from cdlm.scheduler.sequence import Sequence

Key = bytes


class PrefixKeys:
    """Hashes of a sequence's tokens, kept on the sequence: each token is hashed once.

    They are cryptographic, because whoever could make two prompts collide would read the other's cache. The request's
    ``cache_salt`` goes into each.

    Args:
        manifest: where blocks begin and what their rows see.
        unit: tokens that share a key; whole pages and whole blocks.
    """

    def __init__(self, manifest: Manifest, unit: int) -> None:
        self._manifest, self._unit = manifest, unit

    def of_prompt(self, sequence: Sequence) -> Key:
        """That of the whole prompt, where nothing less can be shared."""
        if not sequence.keys:
            sequence.keys.append(_digest(_root(b"whole", sequence), sequence.request.prompt_ids))
        return sequence.keys[0]

    def extend(self, sequence: Sequence, end: int) -> int:
        """Sees to it that there is a key for every unit that lies below position ``end``; how many that are.

        Each stands for all tokens up to its unit's end.
        """
        manifest = self._manifest
        if manifest.prompt_attention == "causal" and manifest.block_length > 1:
            # What a block's rows saw, the rows of a causal prompt do not see.
            end = min(end, first_block_start(sequence.prompt_length, manifest))
        elif manifest.block_origin == "prompt_end" and sequence.prompt_length % manifest.block_length:
            return 0  # No page ends at a border.
        keys, unit = sequence.keys, self._unit
        if not keys and end >= unit:
            keys.append(_digest(_root(b"chain", sequence), sequence.token_ids[:unit]))
        for start in range(len(keys) * unit, end - unit + 1, unit):
            keys.append(_digest(keys[-1], sequence.token_ids[start : start + unit]))
        return max(0, end // unit)


def _root(kind: bytes, sequence: Sequence) -> Key:
    salt = sequence.request.cache_salt.encode(errors="surrogatepass")
    return hashlib.sha256(kind + salt).digest()


def _digest(before: bytes, token_ids: list[int]) -> Key:
    return hashlib.sha256(before + array("q", token_ids).tobytes()).digest()
