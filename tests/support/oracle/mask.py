"""What stands at positions that the slow decoder does not know yet."""

from typing import Any


def mask_token(manifest: Any, vocab_size: int) -> tuple[int, list[int]]:
    """The token at unknown positions, which is never written.

    A checkpoint without a mask token never looks at such places, so that any token may stand there.
    """
    if manifest.mask_token_id < vocab_size:
        return manifest.mask_token_id, [manifest.mask_token_id]
    return vocab_size - 1, []
