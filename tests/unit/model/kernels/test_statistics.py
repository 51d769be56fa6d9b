"""One reading of a row of logits, against float64 and against the noise of the CPU."""

import pytest
import torch

from cdlm.model.decoding.logits.noise import gumbel_noise
from cdlm.model.kernels.statistics import row_statistics

INFINITE, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [5, 1024, 2500])
def test_statistics_equal_float64(dtype: torch.dtype, vocab: int, device: torch.device) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(4, vocab, device=device) * 6).to(dtype)
    logits[1] += 80  # What exp would not hold.
    logits[2, 2:] = -INFINITE
    found, entropy, _ = row_statistics(logits, 3, entropy=True)
    wide = logits.double()
    wide[:, 3] = -INFINITE
    probability = wide.softmax(-1)
    assert found.token.equal(wide.argmax(-1))
    assert found.top.equal(wide.amax(-1).float())
    assert entropy is not None
    torch.testing.assert_close(found.confidence.double(), probability.amax(-1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), torch.special.entr(probability).sum(-1), atol=1e-5, rtol=1e-5)


def test_of_equal_logits_the_first_wins(device: torch.device) -> None:
    logits = torch.zeros(1, 3000, device=device)
    logits[0, [1500, 40, 2900]] = 2.0
    assert row_statistics(logits, 3000)[0].token.tolist() == [40]


@pytest.mark.parametrize("bad", [NAN, INFINITE])
def test_a_row_that_is_not_finite_says_so_and_no_other_does(bad: float, device: torch.device) -> None:
    logits = torch.randn(4, 1500, device=device)
    logits[1, 1400] = bad
    logits[2] = -INFINITE
    logits[3, 2] = bad  # The mask token's own logit is never looked at.
    found, entropy, drawn = row_statistics(logits, 2, entropy=True, draw=draw(4, device))
    assert found.confidence.isnan().tolist() == [False, True, True, False]
    assert found.top.isnan().tolist() == [False, True, False, False]
    assert found.top[2] == -INFINITE
    assert entropy is not None
    assert entropy.isnan().tolist() == [False, True, True, False]
    assert drawn is not None
    assert found.token.tolist()[1:3] == drawn.tolist()[1:3] == [0, 0]


def draw(rows: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    seeds = torch.tensor([3, -4, 2**63 - 1, -(2**63)][:rows], device=device)
    return torch.linspace(0.3, 2.0, rows, device=device), seeds, torch.arange(rows, device=device) * 1000


@pytest.mark.parametrize("vocab", [7, 1030])
def test_draws_are_those_of_the_cpu(vocab: int, device: torch.device) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, vocab, device=device)
    temperatures, seeds, positions = draw(4, device)
    _, _, found = row_statistics(logits, 1, draw=(temperatures, seeds, positions))
    noise = torch.cat([gumbel_noise(int(s), [int(p)], vocab) for s, p in zip(seeds, positions, strict=True)])
    noisy = logits.cpu() / temperatures.cpu()[:, None] + noise
    noisy[:, 1] = -INFINITE
    assert found is not None
    assert found.tolist() == noisy.argmax(-1).tolist()


def test_no_row_at_all(device: torch.device) -> None:
    assert row_statistics(torch.empty(0, 9, device=device), 9)[0].token.shape == (0,)
