"""The finalisation rules: which masked positions of a batch of blocks become tokens in a denoise step."""

import torch
from torch import Tensor

from model.head import Head
from model.rules import RULES

# Rows are taken in parts of about so many bytes: on a CPU what is read for one reduction is still in the cache for the
# next, and on a GPU what is held in fp32 stays small.
_PART_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}
# Logits of one part of the vocabulary, likewise; smaller ones make products that are too small.
_HEAD_PART_BYTES = {"cpu": 4 * 2**20, "cuda": 512 * 2**20}


def confidence_and_best(logits: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """The most probable token of each row and its softmax probability.

    ``logits`` [rows, vocab] is changed in place: the mask token can never be generated. An id past the vocabulary
    means that there is no mask token. Returns confidence [rows] fp32 and token [rows] int64.
    """
    if mask_token_id < logits.shape[-1]:
        logits[:, mask_token_id] = float("-inf")
    rows = max(1, _PART_BYTES.get(logits.device.type, 2**24) // (4 * logits.shape[-1]))
    parts = [_confidence_and_best(part) for part in torch.split(logits, rows)]
    confidence, token = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
    return confidence[:, 0], token[:, 0]


def confidence_and_best_of_head(hidden: Tensor, head: Head, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """``confidence_and_best`` of the head's logits, which are never all held at once.

    The vocabulary is taken in parts, with a running maximum and a running logarithm of the sum (Milakov and
    Gimelshein, 2018, arXiv 1805.02867): to write and read all logits costs a CPU more than to reduce them.

    Args:
        hidden: [rows, hidden_size].
        head: the LM head.
        mask_token_id: as in ``confidence_and_best``.
    """
    part_bytes = _HEAD_PART_BYTES.get(hidden.device.type, 2**24)
    columns = head.part_columns(len(hidden), part_bytes)
    if columns >= head.out_features:
        return confidence_and_best(head(hidden), mask_token_id)
    most = max(1, part_bytes // (4 * columns))
    found = [_search(rows, head, columns, mask_token_id) for rows in torch.split(hidden, most)]
    confidence, token = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
    return confidence[:, 0], token[:, 0]


def _search(hidden: Tensor, head: Head, columns: int, mask_token_id: int) -> tuple[Tensor, Tensor]:
    best = hidden.new_full((len(hidden), 1), float("-inf"), dtype=torch.float32)
    token = torch.zeros_like(best, dtype=torch.long)
    log_sums = []
    for start, part in head.parts(hidden, columns):
        wide = part.float()
        if start <= mask_token_id < start + wide.shape[1]:
            if wide.shape[1] == 1:
                continue  # Nothing but the mask token.
            wide[:, mask_token_id - start] = float("-inf")
        top = wide.amax(dim=-1, keepdim=True)
        better = top > best
        if wide.device.type == "cpu":
            # Where a maximum lies costs ten times what it is; few rows have a new one in a later part.
            rows = better[:, 0].nonzero()[:, 0]
            token[rows] = wide.index_select(0, rows).argmax(dim=-1, keepdim=True) + start
        else:  # To ask how many those are would wait for the device.
            token = torch.where(better, wide.argmax(dim=-1, keepdim=True) + start, token)
        best = torch.maximum(best, top)
        # Any column but the mask token's tells the logarithm of the sum. (exp would meet numbers too small to be fast.)
        column = int(mask_token_id == start)
        log_sums.append(wide[:, column, None] - torch.log_softmax(wide, dim=-1)[:, column, None])
    return (best - torch.cat(log_sums, dim=-1).logsumexp(-1, keepdim=True)).exp_(), token


def _confidence_and_best(logits: Tensor) -> tuple[Tensor, Tensor]:
    wide = logits.float()
    token = wide.max(dim=-1, keepdim=True).indices
    return torch.log_softmax(wide, dim=-1).gather(-1, token).exp_(), token


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each row's softmax in nats: logits [rows, vocab], -inf allowed -> [rows] fp32."""
    out: Tensor = torch.special.entr(logits.float().softmax(-1)).sum(-1)
    return out


def choose(
    confidence: Tensor, masked: Tensor, rule: Tensor, limit: Tensor, at_least: Tensor, entropies: Tensor | None = None
) -> Tensor:
    """Positions to finalise now: those that pass their row's rule, and never fewer than ``at_least``.

    With masked positions ranked 1, 2, ... by descending confidence (``entropy_bound``: ascending entropy H):

    - ``threshold``: confidence above the limit.
    - ``factor``: the longest run from rank 1 on with confidence >= 1 - limit / (rank + 1); this bounds the error
      of deciding them together (Fast-dLLM, arXiv 2505.22618).
    - ``entropy_bound``: the longest run with sum(H) - max(H) <= limit (EB-Sampler, arXiv 2505.24857).
    - ``fixed_steps``: ``at_least`` of them and no more; the caller spreads a block over its steps with that.

    Args:
        confidence: [rows, block] fp32, anything at positions that are not masked.
        masked: [rows, block] bool, positions that have a prediction and no token yet.
        rule: [rows] int64, index into ``RULES``.
        limit: [rows] fp32.
        at_least: [rows] int64 >= 1, how many of the highest ranks pass regardless.
        entropies: [rows, block] fp32 in nats, like ``confidence``; may be left out when no row needs it.

    Returns:
        [rows, block] bool, a subset of ``masked``. Equal ranks are ordered from left to right.
    """
    score = confidence
    if entropies is not None:
        score = torch.where(rule[:, None] == RULES.index("entropy_bound"), -entropies, confidence)
    ranked, order = score.masked_fill(~masked, float("-inf")).sort(dim=-1, descending=True, stable=True)
    place = torch.arange(masked.shape[1], device=masked.device)  # Rank - 1.
    limits = limit[:, None]
    run = (ranked >= 1.0 - limits / (place + 2)).cumprod(-1).bool()
    passes = torch.where(rule[:, None] == RULES.index("factor"), run, ranked > limits)
    passes = passes & (rule[:, None] != RULES.index("fixed_steps"))
    if entropies is not None:
        # Sorted upwards, the largest entropy is the last one: the rest is what lies before it.
        before = torch.nn.functional.pad((-ranked).cumsum(-1)[:, :-1], (1, 0))
        passes = torch.where(rule[:, None] == RULES.index("entropy_bound"), before <= limits, passes)
    passes = passes | (place < at_least[:, None])
    return masked & torch.empty_like(passes).scatter_(-1, order, passes)


def choose_by_threshold(confidence: Tensor, limit: Tensor, at_least: Tensor | int) -> Tensor:
    """``choose`` where every row has the rule ``threshold`` or ``fixed_steps``, whose limit no confidence exceeds.

    confidence [rows, block] fp32, 0 at positions that may not be finalised; limit [rows]; at_least [rows] int64, or the
    same number for all rows -> [rows, block] bool.
    """
    now = confidence > limit[:, None]
    if isinstance(at_least, int) and at_least == 1:
        return now.scatter_(1, confidence.argmax(-1, keepdim=True), True)
    order = confidence.argsort(dim=-1, descending=True, stable=True)
    if isinstance(at_least, int):
        now.scatter_(1, order[:, :at_least], True)
    else:
        first = torch.arange(confidence.shape[1], device=confidence.device) < at_least[:, None]
        now.logical_or_(torch.empty_like(now).scatter_(1, order, first))
    return now.logical_and_(confidence > 0)


def frontier(masked: Tensor) -> Tensor:
    """Length of the finalised left prefix: masked [rows, block] bool -> [rows] int64."""
    block = masked.shape[1]
    positions = torch.arange(block, device=masked.device)
    return torch.where(masked, positions, block).amin(dim=-1)


def first_stop(tokens: Tensor, stop_ids: Tensor, first: Tensor, masked: Tensor) -> Tensor:
    """Where each block's first generated stop token lies; the block length where there is none.

    Args:
        tokens: [rows, block] int64.
        stop_ids: [rows, stops] int64, padded with -1.
        first: [rows] int64, where generated positions begin (the tail of a prompt may precede them).
        masked: [rows, block] bool, positions without a token.
    """
    block = tokens.shape[1]
    positions = torch.arange(block, device=tokens.device)
    stops = (tokens[:, :, None] == stop_ids[:, None, :]).any(-1) & ~masked & (positions >= first[:, None])
    return torch.where(stops, positions, block).amin(dim=-1)
