import torch

from model.finalise import choose, confidence_and_best, first_stop, frontier


def test_confidence_is_the_largest_probability_without_the_mask_token() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    allowed = logits.clone()
    allowed[:, 3] = float("-inf")
    expected = allowed.softmax(-1).max(-1)
    confidence, token = confidence_and_best(logits, mask_token_id=3)
    torch.testing.assert_close(confidence, expected.values)
    assert token.tolist() == expected.indices.tolist()
    assert 3 not in token.tolist()


def test_everything_above_the_threshold_passes() -> None:
    confidence = torch.tensor([[0.95, 0.2, 0.91, 0.5]])
    masked = torch.ones(1, 4, dtype=torch.bool)
    now = choose(confidence, masked, torch.tensor([0.9]), torch.tensor([1]))
    assert now.tolist() == [[True, False, True, False]]


def test_the_surest_position_always_passes_and_only_it() -> None:
    confidence = torch.tensor([[0.3, 0.4, 0.4, 0.1]])
    masked = torch.ones(1, 4, dtype=torch.bool)
    now = choose(confidence, masked, torch.tensor([0.9]), torch.tensor([1]))
    assert now.tolist() == [[False, True, False, False]]  # A tie goes to the left.


def test_confidence_equal_to_the_threshold_is_not_above_it() -> None:
    confidence = torch.tensor([[0.9, 0.95]])
    now = choose(confidence, torch.ones(1, 2, dtype=torch.bool), torch.tensor([0.9]), torch.tensor([1]))
    assert now.tolist() == [[False, True]]


def test_positions_with_a_token_never_change() -> None:
    confidence = torch.tensor([[0.99, 0.99, 0.99]])
    masked = torch.tensor([[False, True, False]])
    now = choose(confidence, masked, torch.tensor([0.5]), torch.tensor([3]))
    assert now.tolist() == [[False, True, False]]


def test_a_row_may_have_to_finalise_several() -> None:
    confidence = torch.tensor([[0.1, 0.3, 0.2, 0.05], [0.1, 0.3, 0.2, 0.05]])
    masked = torch.ones(2, 4, dtype=torch.bool)
    now = choose(confidence, masked, torch.tensor([0.9, 0.9]), torch.tensor([2, 1]))
    assert now.tolist() == [[False, True, True, False], [False, True, False, False]]


def test_frontier_is_the_finalised_left_prefix() -> None:
    masked = torch.tensor([[False, False, True, False], [False] * 4, [True] * 4])
    assert frontier(masked).tolist() == [2, 4, 0]


def test_stop_is_found_among_generated_finalised_positions_only() -> None:
    tokens = torch.tensor([[9, 9, 5, 9], [9, 5, 5, 5], [5, 5, 9, 5]])
    masked = torch.tensor([[False] * 4, [False] * 4, [False, False, True, False]])
    first = torch.tensor([2, 0, 0])
    stops = torch.tensor([[9, -1], [9, 7], [9, -1]])
    assert first_stop(tokens, stops, first, masked).tolist() == [3, 0, 4]
