"""Block geometry: where blocks begin, and into which spans known tokens are cut for the forward."""

from cdlm.model.config import Manifest
from cdlm.model.row import Span


def first_block_start(prompt_length: int, manifest: Manifest) -> int:
    """Position of the first block that holds generated tokens.

    Counted from the end of the prompt it begins right there; counted from position 0 it may begin inside
    the prompt, whose tail then shares the block.
    """
    if manifest.block_origin == "prompt_end":
        return prompt_length
    return prompt_length // manifest.block_length * manifest.block_length


def clean_spans(token_ids: list[int], start: int, end: int, prompt_length: int, manifest: Manifest) -> list[Span]:
    """Cuts the known tokens of positions [start, end) so that no span sees more than its rows may.

    Attention is unmasked inside a span, so a span is one whole prompt (full attention), one block, or a
    causal run. ``start`` and ``end`` are block borders, or 0.
    """
    spans: list[Span] = []
    origin = first_block_start(prompt_length, manifest)
    prompt_end = min(end, origin)
    if start < prompt_end:
        if manifest.prompt_attention == "block_causal":
            spans += _cut(token_ids, start, prompt_end, origin, manifest.block_length)
        else:
            causal = manifest.prompt_attention == "causal"
            spans.append(Span(start, token_ids[start:prompt_end], causal))
    return spans + _cut(token_ids, max(start, origin), end, origin, manifest.block_length)


def _cut(token_ids: list[int], start: int, end: int, origin: int, block_length: int) -> list[Span]:
    """Spans between block borders, which lie at ``origin`` plus or minus whole blocks."""
    spans = []
    while start < end:
        border = min(end, start + block_length - (start - origin) % block_length)
        spans.append(Span(start, token_ids[start:border]))
        start = border
    return spans
