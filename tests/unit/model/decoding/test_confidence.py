"""Confidence is that of the exact softmax, whatever way the head's logits are searched."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cdlm.model.decoding.logits import confidence as module
from cdlm.model.decoding.logits.confidence import confidence_and_best, entropy, peaks_of_head
from cdlm.model.network.head import LmHead, Peaks
from tests.support.matrix import matrix

Searching = Callable[[Tensor, LmHead, int, int], Peaks]
SEARCHES: dict[str, Searching] = {"groups": module._search_groups, "device": module._search}


def test_confidence_is_the_largest_probability_without_the_mask_token() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    allowed = logits.clone()
    allowed[:, 3] = float("-inf")
    expected = allowed.softmax(-1).max(-1)
    confidence, token = confidence_and_best(logits, mask_token_id=3)
    torch.testing.assert_close(confidence, expected.values)
    assert token.tolist() == expected.indices.tolist()
    assert 3 not in token.tolist()


def head_of(weight: Tensor) -> LmHead:
    head = LmHead(weight.shape[1], len(weight), bias=False)
    head.weight = nn.Parameter(weight, requires_grad=False)
    return head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [0, 1500, 4096, 4097])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_head_in_parts_gives_what_all_its_logits_give(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, mask: int, rows: int
) -> None:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 16, generator=generator).to(dtype)
    weight = torch.randn(4 * 1024 + 1, 16, generator=generator).to(dtype)  # The last part has one column.
    expected = confidence_and_best(nn.functional.linear(hidden, weight), mask)
    head = head_of(weight)
    whole = peaks_of_head(hidden, head, mask)
    monkeypatch.setattr(
        "cdlm.model.decoding.logits.confidence._HEAD_PART_BYTES", {"cpu": 4 * 1024 * 5}
    )  # Five rows of the least columns.
    parts = peaks_of_head(hidden, head, mask)
    for confidence, token, top in (whole, parts):
        assert top.equal(nn.functional.linear(hidden, weight).index_select(1, token).diagonal().float())
        torch.testing.assert_close(confidence, expected[0])
        assert token.tolist() == expected[1].tolist()
        assert confidence.dtype == torch.float32


def test_of_equal_logits_in_two_parts_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdlm.model.decoding.logits.confidence._HEAD_PART_BYTES", {"cpu": 4})
    weight = torch.zeros(3000, 2)
    weight[[700, 2900]] = 1.0
    confidence, token, _ = peaks_of_head(torch.ones(1, 2), head_of(weight), 3000)
    assert token.tolist() == [700]
    assert confidence.item() == pytest.approx(math.exp(2) / (2 * math.exp(2) + 2998))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_confidence_over_a_large_vocabulary_is_that_of_the_stored_logits(dtype: torch.dtype) -> None:
    logits = (5 * torch.randn(3, 40_000, generator=torch.Generator().manual_seed(0))).to(dtype)
    exact = logits.double().softmax(-1).amax(-1)
    confidence, _ = confidence_and_best(logits, mask_token_id=40_000)
    assert confidence.dtype == torch.float32
    torch.testing.assert_close(confidence.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("search", "dtype", "mask", "scale"),
    matrix(list(SEARCHES.values()), [torch.float32, torch.bfloat16], [0, 300, 2047, 2048, 2500], [2**-7, 1, 32, 256]),
)
def test_every_search_finds_what_the_exact_softmax_has(
    search: Searching, dtype: torch.dtype, mask: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(mask)
    # Fractions whose products are exact: a product of fewer columns may round its sums in another way.
    hidden, weight = (torch.randint(-64, 65, (rows, 4), generator=generator) / 16 for rows in (9, 2304))
    hidden, head = (scale * hidden).to(dtype), head_of(weight.to(dtype))  # Parts of 1024 are whole groups.
    logits = head(hidden).double()
    logits[:, mask : mask + 1] = -math.inf
    expected = logits.softmax(-1).max(-1)
    # Single columns are slow, and their own case.
    for columns in (1024, 1000, 2303, *((1,) if (mask, scale) == (300, 1) else ())):
        confidence, token, top = search(hidden, head, columns, mask)
        assert top.equal(logits.amax(-1).float())
        assert confidence.dtype == torch.float32
        assert confidence.le(1).all()
        assert token.tolist() == expected.indices.tolist(), columns
        torch.testing.assert_close(confidence.double(), expected.values, rtol=1e-5, atol=0)


@pytest.mark.parametrize("offset", [-5000.0, -100.0, -60.0, 70.0, 88.0, 1e4])
def test_logits_far_from_zero_are_as_sure_as_those_near_it(offset: float) -> None:
    weight = torch.randn(3000, 1, generator=torch.Generator().manual_seed(0))
    head = head_of(torch.cat((weight, torch.ones(3000, 1)), dim=1))
    hidden = torch.tensor([[1.0, 0.0], [2.0, offset], [0.5, 0.0], [3.0, offset]])
    confidence, token, _ = module._search_groups(hidden, head, 1024, 3000)
    logits = head(hidden).double()
    assert token.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(confidence.double(), logits.softmax(-1).amax(-1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_a_row_that_is_not_a_number_leaves_the_others_alone(search: Searching) -> None:
    head = head_of(torch.randn(3000, 2, generator=torch.Generator().manual_seed(0)))
    hidden = torch.tensor([[1.0, 0.5], [math.nan, 1.0], [-1.0, 2.0]])
    confidence, token, top = search(hidden, head, 1024, 3000)
    assert confidence.isnan().tolist() == top.isnan().tolist() == [False, True, False]
    assert token[[0, 2]].tolist() == head(hidden[[0, 2]]).argmax(-1).tolist()


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_infinite_logits_have_no_confidence(search: Searching, dtype: torch.dtype) -> None:
    """One of +inf among others, all of +inf, all of -inf; one of -inf is a token that is ruled out."""
    weight = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    weight[:, 1:3] = 0.0
    weight[7, 1], weight[:, 2] = 3e38, 3e38
    head = head_of(weight.to(dtype))
    plain = [1.0, 0.0, 0.0, 0.5]
    hidden = torch.tensor(
        [plain, [1.0, 9.0, 0.0, 0.5], [1.0, 0.0, 9.0, 0.5], [1.0, 0.0, -9.0, 0.5], [1.0, -9.0, 0.0, 0.5]], dtype=dtype
    )
    for confidence, token, top in (search(hidden, head, 1024, 3000), peaks_of_head(hidden, head, 3000)):
        assert top.isfinite().tolist() == [True, False, False, False, True]
        assert top[3] == -math.inf
        assert confidence.isnan().tolist() == [False, True, True, True, False]
        assert token[0] == token[4] == int(head(hidden[:1]).argmax())
        torch.testing.assert_close(confidence[0], confidence[4])


def test_entropy_is_in_nats_and_ignores_impossible_tokens() -> None:
    logits = torch.tensor([[0.0, 0.0, float("-inf"), 0.0], [99.0, 0.0, 0.0, float("-inf")]])
    torch.testing.assert_close(entropy(logits), torch.tensor([math.log(3), 0.0]))
