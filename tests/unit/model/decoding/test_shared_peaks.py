"""The peaks of a vocabulary that is split are those of the whole, wherever the mask, equal logits or NaNs lie."""

import math

import pytest
import torch
from torch import Tensor, nn

from cdlm.model.decoding.logits.reader import find_reader
from cdlm.model.network.head import LmHead, Peaks
from cdlm.model.parallel.peaks import combined, packed, peaks_of_share

# The kernel runs in Triton's interpreter, which the kernels' own tests use too.
BACKENDS = ["sdpa", "triton"]


def shared(hidden: Tensor, weight: Tensor, mask: int, size: int, backend: str) -> Peaks:
    """What ``size`` ranks find together; each head has as many rows, of which the last may lack some."""
    search = find_reader(backend).peaks  # type: ignore[arg-type]
    rows = -(-len(weight) // size)
    parts = []
    for first in range(0, rows * size, rows):
        head = LmHead(weight.shape[1], rows, bias=False)
        own = weight[first : first + rows]
        # What a rank has no weights for is never looked at.
        padded = torch.cat((own, torch.full((rows - len(own), weight.shape[1]), math.nan, dtype=weight.dtype)))
        head.weight = nn.Parameter(padded, requires_grad=False)
        parts.append(packed(peaks_of_share(hidden, head, search, mask, first, len(weight) - first)))
    return combined([part[:, : len(hidden)] for part in parts])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "vocab"), [(2, 65), (3, 64), (4, 5), (8, 2500)])
def test_shares_find_what_the_exact_softmax_has(backend: str, dtype: torch.dtype, size: int, vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    # Fractions whose products are exact, so that how a product is cut does not matter. Many are equal.
    hidden = (torch.randint(-16, 17, (7, 4), generator=generator) / 4).to(dtype)
    weight = (torch.randint(-16, 17, (vocab, 4), generator=generator) / 8).to(dtype)
    for mask in (0, vocab // 2, vocab - 1, vocab):
        logits = nn.functional.linear(hidden, weight).double()
        logits[:, mask : mask + 1] = -math.inf
        expected = logits.softmax(-1).max(-1)
        confidence, token, top = shared(hidden, weight, mask, size, backend)
        assert (confidence.dtype, token.dtype) == (torch.float32, torch.int64)
        assert token.tolist() == expected.indices.tolist(), mask
        assert top.equal(logits.amax(-1).float())
        torch.testing.assert_close(confidence.double(), expected.values, rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_logits_the_lowest_id_wins_on_whatever_rank_it_lies(backend: str) -> None:
    weight = torch.zeros(64, 2)
    hidden = torch.ones(1, 2)
    for best in ([40, 20, 63], [33, 32], [31, 32], [0, 63], [1, 2]):
        weight.zero_()[best] = 1.0
        assert shared(hidden, weight, 64, 4, backend).token.tolist() == [min(best)]
    weight.zero_()[[5, 50]] = 1.0
    assert shared(hidden, weight, 5, 4, backend).token.tolist() == [50]
    assert shared(hidden, weight.zero_(), 0, 4, backend).token.tolist() == [1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [0, 20, 63])
def test_rows_are_broken_as_they_are_without_ranks(backend: str, bad: int) -> None:
    """Sound, NaN, +inf, all -inf, -inf for the tokens of all ranks but one, and +inf for the mask token alone."""
    weight = torch.zeros(64, 6)
    weight[:, 0] = torch.linspace(0, 1, 64)
    weight[bad, 1], weight[bad, 2], weight[:, 3], weight[:48, 4], weight[30, 5] = math.nan, 3e38, 3e38, 3e38, 3e38
    hidden = torch.eye(6)
    hidden[:, 0] = 1.0
    hidden[2] *= 9
    hidden[3, 3] = hidden[4, 4] = -9.0
    hidden[5, 5] = 9.0
    hidden[1:, 1] = 0.0
    hidden[1] = torch.tensor([1.0, 1.0, 0, 0, 0, 0])
    # A NaN times zero is a NaN, so only the row that has the token sees it in a product of its own.
    for row, broken in enumerate([False, True, True, True, False, False]):
        own = weight if row == 1 else weight.nan_to_num()
        alone = find_reader("sdpa").peaks(hidden[row : row + 1], head_of(own), 30)
        found = shared(hidden[row : row + 1], own, 30, 4, backend)
        assert found.confidence.isnan().item() == alone.confidence.isnan().item() == broken, row
        if not broken:
            assert found.token.equal(alone.token)
            torch.testing.assert_close(found.confidence, alone.confidence)


def head_of(weight: Tensor) -> LmHead:
    head = LmHead(weight.shape[1], len(weight), bias=False)
    head.weight = nn.Parameter(weight, requires_grad=False)
    return head
