"""Noise: a function of seed, position and id, equal to Philox by its definition."""

import math

import pytest
import torch

from cdlm.model.decoding.logits.noise import gumbel_noise
from tests.support.oracle.noise import philox, uniform


def test_published_vectors() -> None:
    """Of the authors' own library, for 4x64 with 10 rounds."""
    assert philox((0, 0, 0, 0), (0, 0)) == (
        0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B,
    )  # fmt: skip
    ones = 2**64 - 1
    assert philox((ones,) * 4, (ones,) * 2) == (
        0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 3, -1, 2**63 - 1, -(2**63)])
def test_noise_equals_its_definition(seed: int) -> None:
    noise = gumbel_noise(seed, [0, 7, 40_000], 19)
    expected = [[-math.log(-math.log1p(-uniform(seed, at, token, 19))) for token in range(19)] for at in (0, 7, 40_000)]
    torch.testing.assert_close(noise, torch.tensor(expected), atol=2e-6, rtol=2e-6)


def test_noise_depends_on_seed_position_and_id_alone() -> None:
    noise = gumbel_noise(3, range(64, 72), 11)
    torch.manual_seed(99)
    assert gumbel_noise(3, [66], 11).equal(noise[2:3])
    assert gumbel_noise(3, [65, 66, 70], 11).equal(noise[[1, 2, 6]])
    assert gumbel_noise(3, [66, 70, 65, 66], 11).equal(noise[[2, 6, 1, 2]])
    assert not gumbel_noise(4, [66], 11).equal(noise[2:3])
    assert len(noise.unique()) == noise.numel()


def test_noise_is_finite_and_spread_as_gumbel() -> None:
    noise = gumbel_noise(5, range(200), 5_000)
    assert noise.isfinite().all()
    assert noise.max() > 12  # The tail that a coarse uniform number would cut off.
    for quantile in (0.01, 0.5, 0.99, 0.9999):
        share = (noise < -math.log(-math.log(quantile))).double().mean()
        assert abs(float(share) - quantile) < 4 * math.sqrt(quantile * (1 - quantile) / noise.numel())
