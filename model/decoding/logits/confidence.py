"""Confidence of predictions: the most probable token of a row of logits, its probability, and the row's entropy."""

import torch
from torch import Tensor

from cdlm.model.network.head import LmHead, Peaks

# Bytes of logits reduced at once: on a CPU they stay in the cache from one reduction to the next, on a GPU the fp32
# copy stays small.
_PART_BYTES = {"cpu": 2 * 2**20, "cuda": 256 * 2**20}
# Bytes of logits per part of the vocabulary: smaller parts make the products inefficient, or read the head's weights
# more than once.
_HEAD_PART_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
# Logits per group: the search keeps the maximum of each group, and looks for the position in the best group only.
_GROUP = 128
# Sums of exponentials between these neither overflowed nor lost terms to underflow.
_LEAST_SUM, _LARGEST_SUM = 1e-25, 1e38


def confidence_and_best(logits: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """The most probable token of each row and its softmax probability.

    Sets the mask token's logit to -inf in ``logits`` [rows, vocab], in place; an id past the vocabulary means that
    there is no mask token. Returns confidence [rows] fp32 and token [rows] int64.
    """
    found = _peaks(logits, mask_token_id)
    return found.confidence, found.token


def peaks_of_head(hidden: Tensor, head: LmHead, mask_token_id: int) -> Peaks:
    """``confidence_and_best`` of the head's logits, computed without holding all logits at once.

    The vocabulary is processed in parts: on a CPU, writing and reading all logits takes longer than reducing them.

    Args:
        hidden: [rows, hidden_size].
        head: the LM head.
        mask_token_id: as in ``confidence_and_best``.
    """
    part_bytes = _HEAD_PART_BYTES.get(hidden.device.type, 2**24)
    columns = head.part_columns(len(hidden), part_bytes)
    if columns >= head.out_features:
        return _peaks(head(hidden), mask_token_id)
    search = _search_groups if hidden.device.type == "cpu" else _search
    most = max(1, part_bytes // (4 * columns))
    return joined([search(rows, head, columns, mask_token_id) for rows in torch.split(hidden, most)])


def joined(found: list[Peaks]) -> Peaks:
    """The peaks of the rows of all of ``found``, one after another."""
    return found[0] if len(found) == 1 else Peaks(*map(torch.cat, zip(*found, strict=True)))


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each row's softmax in nats: logits [rows, vocab], -inf allowed -> [rows] fp32."""
    out: Tensor = torch.special.entr(logits.float().softmax(-1)).sum(-1)
    return out


def _rows(logits: Tensor) -> int:
    """How many rows of ``logits`` [rows, columns] to reduce at once."""
    return max(1, _PART_BYTES.get(logits.device.type, 2**24) // (4 * logits.shape[-1]))


def _peaks(logits: Tensor, mask_token_id: int) -> Peaks:
    if mask_token_id < logits.shape[-1]:
        logits[:, mask_token_id].fill_(float("-inf"))
    return joined([_peaks_of_some(rows) for rows in torch.split(logits, _rows(logits))])


def _peaks_of_some(logits: Tensor) -> Peaks:
    wide = logits.float()
    top, token = wide.max(dim=-1, keepdim=True)
    return Peaks(torch.log_softmax(wide, dim=-1).gather(-1, token).exp_()[:, 0], token[:, 0], top[:, 0])


def _search(hidden: Tensor, head: LmHead, columns: int, mask_token_id: int) -> Peaks:
    """Searches with a running maximum and a running sum relative to it (Milakov and Gimelshein, 2018, arXiv
    1805.02867).

    Never waits for the device.
    """
    best = hidden.new_full((len(hidden), 1), float("-inf"), dtype=torch.float32)
    token, total = torch.zeros_like(best, dtype=torch.long), torch.zeros_like(best)
    for start, part in head.parts(hidden, columns):
        if start <= mask_token_id < start + part.shape[1]:
            if part.shape[1] == 1:
                continue  # Nothing but the mask token.
            part[:, mask_token_id - start].fill_(float("-inf"))
        wide = part.float()
        top, here = wide.max(dim=-1, keepdim=True)
        token = torch.where(top > best, here + start, token)
        # The part's sum relative to its maximum is 1 / (softmax probability of the maximum within the part).
        log_part_sum = -torch.log_softmax(wide, dim=-1).gather(-1, here)
        before, best = best, torch.maximum(best, top)
        total = total * (before - best).exp() + (top - best + log_part_sum).exp()
    return Peaks(total.reciprocal()[:, 0], token[:, 0], best[:, 0])


def _search_groups(hidden: Tensor, head: LmHead, columns: int, mask_token_id: int) -> Peaks:
    """Searches on a CPU with few passes over the logits: widen, maximum, exponential, sum.

    An argmax takes ten times as long as a maximum. It is therefore taken in one group per row, and only if the row has
    a new maximum. The exponentials are not shifted by the maximum; rows whose sum over- or underflows are searched
    again.
    """
    best = hidden.new_full((len(hidden),), float("-inf"), dtype=torch.float32)
    token, total = torch.zeros_like(best, dtype=torch.long), torch.zeros_like(best)
    for start, part in head.parts(hidden, columns):
        width = part.shape[1]
        if start <= mask_token_id < start + width:
            part[:, mask_token_id - start].fill_(float("-inf"))
        group = _GROUP if width % _GROUP == 0 else width
        reduced = [_group_tops_and_sum(some, group) for some in torch.split(part, _rows(part))]
        tops, sums = reduced[0] if len(reduced) == 1 else map(torch.cat, zip(*reduced, strict=True))
        total += sums
        top = tops.amax(dim=-1)
        rows = (top > best).nonzero()[:, 0]
        at = tops.index_select(0, rows).argmax(dim=-1)
        inside = part.view(-1, group).index_select(0, rows * tops.shape[1] + at).argmax(dim=-1)
        token.index_copy_(0, rows, inside + at * group + start)
        best = torch.maximum(best, top)
    confidence = (best.exp() / total).clamp_(max=1.0)
    again = ((total > _LEAST_SUM) & (total < _LARGEST_SUM)).logical_not_().nonzero()[:, 0]
    for rows in torch.split(again, max(1, _HEAD_PART_BYTES["cpu"] // (4 * head.out_features))) if len(again) else ():
        confidence[rows], token[rows] = confidence_and_best(head(hidden.index_select(0, rows)), mask_token_id)
    return Peaks(confidence, token, best)


def _group_tops_and_sum(logits: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """logits [rows, columns] -> maxima of groups of ``group`` columns [rows, groups] and sum(exp) [rows], both fp32."""
    wide = logits.float()
    tops = wide.view(len(wide), -1, group).amax(dim=-1)
    exponentials = wide.exp() if logits.dtype == torch.float32 else wide.exp_()
    return tops, exponentials.sum(dim=-1)
