"""Products of rows with the matrices of their groups, against float64."""

import pytest
import torch

from cdlm.model.kernels.grouped import grouped_product

NEAR = {torch.float32: 1e-5, torch.bfloat16: 1e-1, torch.float16: 2e-2}
# Groups without rows, with one, with exactly a tile, with more; all rows in one group; more rows than a small tile.
COUNTS = [[3, 0, 16, 1, 0, 17], [0, 0, 0, 0, 0, 5], [40, 0, 0, 0, 0, 0], [90, 70, 64, 65, 63, 80]]


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("size_in", "size_out"), [(64, 64), (96, 80), (40, 130)])
@pytest.mark.parametrize("counts", COUNTS)
def test_products(counts: list[int], size_in: int, size_out: int, dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(0)
    rows = torch.randn(sum(counts), size_in, device=device).to(dtype)
    weights = torch.randn(len(counts), size_out, size_in, device=device).to(dtype)
    of_row = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device)
    expected = (weights.double()[of_row] @ rows.double()[:, :, None])[:, :, 0]
    found = grouped_product(rows, weights, torch.tensor(counts, device=device).cumsum(0))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=NEAR[dtype], rtol=NEAR[dtype])


def test_no_rows(device: torch.device) -> None:
    ends = torch.zeros(4, dtype=torch.long, device=device)
    assert grouped_product(torch.zeros(0, 8, device=device), torch.zeros(4, 6, 8, device=device), ends).shape == (0, 6)


def test_a_row_does_not_depend_on_its_neighbors(device: torch.device) -> None:
    """Bit for bit, wherever it lies in its tile."""
    torch.manual_seed(0)
    rows, weights = torch.randn(30, 64, device=device), torch.randn(3, 64, 64, device=device)
    together = grouped_product(rows, weights, torch.tensor([4, 21, 30], device=device))
    alone = grouped_product(rows[10:11], weights, torch.tensor([0, 1, 1], device=device))
    assert alone[0].equal(together[10])
    rows[4:10] = rows[11:21] = 1e30
    assert grouped_product(rows, weights, torch.tensor([4, 21, 30], device=device))[10].equal(together[10])
