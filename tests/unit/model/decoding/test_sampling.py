import pytest
import torch

from cdlm.model.decoding.noise import gumbel_noise
from cdlm.model.decoding.sampling import filter_logits, sample


def kept(logits: list[float], **how: float) -> list[int]:
    settings = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, **how}
    filtered = filter_logits(torch.tensor([logits]), **settings)  # type: ignore[arg-type]
    return filtered[0].isfinite().nonzero()[:, 0].tolist()


def test_no_filter_keeps_all() -> None:
    assert kept([1.0, 2.0, 3.0]) == [0, 1, 2]


def test_top_k() -> None:
    assert kept([1.0, 2.0, 3.0, 0.0], top_k=2) == [1, 2]
    assert kept([1.0, 2.0], top_k=5) == [0, 1]


def test_top_p_keeps_the_smallest_nucleus_that_reaches_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert kept(logits, top_p=0.5) == [0]
    assert kept(logits, top_p=0.51) == [0, 1]
    assert kept(logits, top_p=0.81) == [0, 1, 2]
    assert kept(logits, top_p=0.0) == [0]


def test_min_p_is_relative_to_the_best() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert kept(logits, min_p=0.25) == [0, 1, 2]
    assert kept(logits, min_p=0.7) == [0]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_samples_follow_the_tempered_softmax(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    draws = 40_000
    noise = gumbel_noise(5, range(draws), 4)
    tokens = sample(logits.expand(draws, 4), noise, temperature=temperature, top_k=0, top_p=1.0, min_p=0.0)
    observed = torch.bincount(tokens, minlength=4) / draws
    torch.testing.assert_close(observed, (logits / temperature).softmax(-1), atol=0.01, rtol=0)


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-39, 1e-30, 1e-10])
def test_the_coldest_draw_is_the_most_probable_token(temperature: float) -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 5.0, -4.0], [-9.0, -2.0, -7.0, -3.0, float("-inf")]])
    noise = gumbel_noise(3, range(2), 5)
    assert sample(logits, noise, temperature=temperature, top_k=0, top_p=1.0, min_p=0.0).tolist() == [3, 1]


@pytest.mark.parametrize("temperature", [1e10, 1e38, 1e39, 1e300, float("inf")])
def test_the_hottest_draw_never_takes_a_token_that_was_ruled_out(temperature: float) -> None:
    logits = torch.tensor([[3.0, 1.0, float("-inf")]]).expand(64, -1)
    noise = gumbel_noise(3, range(64), 3)
    drawn = sample(logits, noise, temperature=temperature, top_k=0, top_p=1.0, min_p=0.0)
    assert drawn.tolist() == noise[:, :2].argmax(-1).tolist()
