import pytest
import torch

from cdlm.model.decoding.logits.draws import replace_drawn
from cdlm.model.decoding.logits.noise import gumbel_noise
from cdlm.model.decoding.logits.sampling import Filters, sample
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.row import RowWork
from cdlm.model.uploads import place_on


def kept(logits: list[float], **how: float) -> list[int]:
    """The tokens that may be drawn, beside a row that leaves out others."""
    rows = [DecodingParams(**how), DecodingParams(top_k=1, top_p=0.5, min_p=0.9), None]  # type: ignore[arg-type]
    filters = Filters.of(rows, place_on(torch.device("cpu")))
    assert filters is not None
    filtered = filters.apply(torch.tensor([logits] * 3)).isfinite()
    assert filtered.sum(-1).tolist()[1:] == [1, len(logits)]
    alone = Filters.of(rows[:1], place_on(torch.device("cpu")))
    assert alone is None or torch.equal(alone.apply(torch.tensor([logits])).isfinite(), filtered[:1])
    return filtered[0].nonzero()[:, 0].tolist()


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
    tokens = sample(logits.expand(draws, 4), noise, temperature=temperature)
    observed = torch.bincount(tokens, minlength=4) / draws
    torch.testing.assert_close(observed, (logits / temperature).softmax(-1), atol=0.01, rtol=0)


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-39, 1e-30, 1e-10])
def test_the_coldest_draw_is_the_most_probable_token(temperature: float) -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 5.0, -4.0], [-9.0, -2.0, -7.0, -3.0, float("-inf")]])
    noise = gumbel_noise(3, range(2), 5)
    assert sample(logits, noise, temperature=temperature).tolist() == [3, 1]


@pytest.mark.parametrize("temperature", [1e10, 1e38, 1e39, 1e300, float("inf")])
def test_the_hottest_draw_never_takes_a_token_that_was_ruled_out(temperature: float) -> None:
    logits = torch.tensor([[3.0, 1.0, float("-inf")]]).expand(64, -1)
    noise = gumbel_noise(3, range(64), 3)
    drawn = sample(logits, noise, temperature=temperature)
    assert drawn.tolist() == noise[:, :2].argmax(-1).tolist()


def test_every_position_of_a_row_has_its_own_best() -> None:
    """Two positions of one row, whose best tokens have logits that are far apart."""
    logits = torch.tensor([[9.0, 8.0, 1.0, 0.0], [0.0, -3.0, -1.0, -2.0]]).repeat(64, 1)
    work = RowWork(0, [0], [], 0, sampling=DecodingParams(temperature=2.0, seed=3, top_k=2))
    step = Step([work], [128], torch.arange(128))
    step.logits, step.token = logits, logits.argmax(-1)
    replace_drawn(step, 128)
    assert set(step.token[::2].tolist()) == {0, 1}
    assert set(step.token[1::2].tolist()) == {0, 2}
