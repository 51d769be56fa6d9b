"""How sure a prediction is: the most probable token of a row of logits, its probability, and the row's entropy."""

import torch
from torch import Tensor

from cdlm.model.network.head import Head

# Rows are taken in parts of about so many bytes: on a CPU what is read for one reduction is still in the cache for the
# next, and on a GPU what is held in fp32 stays small.
_PART_BYTES = {"cpu": 2 * 2**20, "cuda": 256 * 2**20}
# Logits of one part of the vocabulary, likewise: smaller ones make products that are too small, or read the weights of
# the head more than once.
_HEAD_PART_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
# Logits of which only the largest is kept while it is not known which part has the best.
_GROUP = 128
# Sums of exponentials between these have lost nothing: what a float cannot hold would not change them.
_LEAST_SUM, _LARGEST_SUM = 1e-25, 1e38


def confidence_and_best(logits: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """The most probable token of each row and its softmax probability.

    ``logits`` [rows, vocab] is changed in place: the mask token can never be generated. An id past the vocabulary
    means that there is no mask token. Returns confidence [rows] fp32 and token [rows] int64.
    """
    if mask_token_id < logits.shape[-1]:
        logits[:, mask_token_id] = float("-inf")
    rows = _rows(logits)
    if rows >= len(logits):
        return _confidence_and_best(logits)
    confidence, token = map(torch.cat, zip(*map(_confidence_and_best, torch.split(logits, rows)), strict=True))
    return confidence, token


def confidence_and_best_of_head(hidden: Tensor, head: Head, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """``confidence_and_best`` of the head's logits, which are never all held at once.

    The vocabulary is taken in parts: to write and read all logits costs a CPU more than to reduce them.

    Args:
        hidden: [rows, hidden_size].
        head: the LM head.
        mask_token_id: as in ``confidence_and_best``.
    """
    part_bytes = _HEAD_PART_BYTES.get(hidden.device.type, 2**24)
    columns = head.part_columns(len(hidden), part_bytes)
    if columns >= head.out_features:
        return confidence_and_best(head(hidden), mask_token_id)
    search = _search_groups if hidden.device.type == "cpu" else _search
    most = max(1, part_bytes // (4 * columns))
    found = [search(rows, head, columns, mask_token_id) for rows in torch.split(hidden, most)]
    confidence, token = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
    return confidence, token


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each row's softmax in nats: logits [rows, vocab], -inf allowed -> [rows] fp32."""
    out: Tensor = torch.special.entr(logits.float().softmax(-1)).sum(-1)
    return out


def _rows(logits: Tensor) -> int:
    """How many rows of ``logits`` [rows, columns] are reduced at once."""
    return max(1, _PART_BYTES.get(logits.device.type, 2**24) // (4 * logits.shape[-1]))


def _confidence_and_best(logits: Tensor) -> tuple[Tensor, Tensor]:
    wide = logits.float()
    token = wide.max(dim=-1, keepdim=True).indices
    return torch.log_softmax(wide, dim=-1).gather(-1, token).exp_()[:, 0], token[:, 0]


def _search(hidden: Tensor, head: Head, columns: int, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """With a running maximum and a running sum, relative to it (Milakov and Gimelshein, 2018, arXiv 1805.02867).

    It never asks the device for a value.
    """
    best = hidden.new_full((len(hidden), 1), float("-inf"), dtype=torch.float32)
    token, total = torch.zeros_like(best, dtype=torch.long), torch.zeros_like(best)
    for start, part in head.parts(hidden, columns):
        if start <= mask_token_id < start + part.shape[1]:
            if part.shape[1] == 1:
                continue  # Nothing but the mask token.
            part[:, mask_token_id - start] = float("-inf")
        wide = part.float()
        top, here = wide.max(dim=-1, keepdim=True)
        token = torch.where(top > best, here + start, token)
        # The part's sum relative to its own maximum is the inverse of how sure that is within the part.
        log_part_sum = -torch.log_softmax(wide, dim=-1).gather(-1, here)
        before, best = best, torch.maximum(best, top)
        total = total * (before - best).exp() + (top - best + log_part_sum).exp()
    return total.reciprocal()[:, 0], token[:, 0]


def _search_groups(hidden: Tensor, head: Head, columns: int, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """With as few passes over the logits as there are operators for: widen, maximum, exponential, sum.

    Where a maximum lies costs ten times what it is, so it is looked for in one group of a row, and only if the row has
    a new one. Nothing is subtracted before the exponential; rows whose sum does not stand that are searched again.
    """
    best = hidden.new_full((len(hidden),), float("-inf"), dtype=torch.float32)
    token, total = torch.zeros_like(best, dtype=torch.long), torch.zeros_like(best)
    for start, part in head.parts(hidden, columns):
        width = part.shape[1]
        if start <= mask_token_id < start + width:
            part[:, mask_token_id - start] = float("-inf")
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
    return confidence, token


def _group_tops_and_sum(logits: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """logits [rows, columns] -> the maxima of groups of that many columns [rows, groups] and sum(exp) [rows], fp32."""
    wide = logits.float()
    tops = wide.view(len(wide), -1, group).amax(dim=-1)
    exponentials = wide.exp() if logits.dtype == torch.float32 else wide.exp_()
    return tops, exponentials.sum(dim=-1)
