"""Block geometry: where blocks begin, and how known tokens are split into spans for the forward."""

from cdlm.model.config import Manifest
from cdlm.model.row import Span


def first_block_start(prompt_length: int, manifest: Manifest) -> int:
    """Position of the first block that holds generated tokens.

    If blocks count from the end of the prompt, it begins there. If they count from position 0, it may begin inside the
    prompt, whose last tokens then share the block.
    """
    if manifest.block_origin == "prompt_end":
        return prompt_length
    return prompt_length // manifest.block_length * manifest.block_length


def clean_spans(token_ids: list[int], start: int, end: int, prompt_length: int, manifest: Manifest) -> list[Span]:
    """Splits the known tokens at positions [start, end) into spans, each of which may attend to itself and all before.

    A span is a whole prompt (full attention), one block, or a causal run. ``start`` and ``end`` are block borders or 0,
    unless prompts and finished blocks are causal: then any position will do.
    """
    if manifest.commit_attention == "causal":
        return [Span(start, token_ids[start:end], causal=True)] if start < end else []
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
    """Splits at block borders, which lie at ``origin`` plus or minus multiples of ``block_length``."""
    spans = []
    while start < end:
        border = min(end, start + block_length - (start - origin) % block_length)
        spans.append(Span(start, token_ids[start:border]))
        start = border
    return spans
