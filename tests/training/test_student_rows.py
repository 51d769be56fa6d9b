"""A student's rows: index sets and masks on hand-made trajectories, and the states the engine would see."""

import random
from itertools import islice

import pytest
import torch

from model.checkpoint import load_checkpoint
from tests.checkpoints import EOS, MASK, build_checkpoint
from tests.oracle import hidden_states, visibility
from training.errors import TrainingError
from training.student.objective import AskedLogits
from training.student.rows import StudentBatch, student_rows
from training.student.stream import StudentStream
from training.trajectories.trajectory import Trajectory

BLOCK = 4


def trajectory(prompt: list[int], order: list[int], truth: list[int]) -> Trajectory:
    """Position i decoded to 10 + i, with a hidden state of all i."""
    n = len(order)
    hidden = torch.arange(n).bfloat16()[:, None].expand(n, 3).contiguous()
    return Trajectory(prompt, truth, torch.arange(10, 10 + n), torch.tensor(order), hidden, 0.0, n)


def rows(trajectories: list[Trajectory], finalised: list[int], seed: int = 0) -> StudentBatch:
    rng = random.Random(seed)
    return student_rows(trajectories, finalised, mask_id=MASK, end_id=EOS, block_length=BLOCK, rng=rng)


SHORT = trajectory([1, 2], [1, 0, 3, 2], [5, EOS])
LONG = trajectory([1, 2, 3], [3, 0, 2, 1, 6, 4, 7, 5], [5, 6, 7, 8, EOS])


def test_states_are_the_canvas_after_k_and_after_the_active_block() -> None:
    batch = rows([SHORT, LONG], [1, 2])
    assert batch.state.tolist() == [
        [1, 2, MASK, 11, MASK, MASK, EOS, EOS, EOS, EOS, EOS],
        [1, 2, 3, MASK, 11, MASK, 13, MASK, MASK, MASK, MASK],
    ]
    assert batch.completed.tolist() == [
        [1, 2, 10, 11, 12, 13, EOS, EOS, EOS, EOS, EOS],
        [1, 2, 3, 10, 11, 12, 13, MASK, MASK, MASK, MASK],
    ]


def test_sets_are_the_masks_of_the_active_block_and_of_the_later_ones() -> None:
    batch = rows([SHORT, LONG], [1, 2])
    assert batch.undecided.nonzero().tolist() == [[0, 2], [0, 4], [0, 5], [1, 3], [1, 5]]
    assert batch.remaining.nonzero().tolist() == [[1, 7], [1, 8], [1, 9], [1, 10]]
    assert batch.teacher_hidden[:, 0].tolist() == [0, 2, 3, 0, 2]


def test_nothing_remains_in_the_last_block() -> None:
    batch = rows([LONG], [4])
    assert batch.undecided.nonzero()[:, 1].tolist() == [7, 8, 9, 10]
    assert not batch.remaining.any()


def test_a_row_sees_its_prompt_and_blocks_but_no_later_block_and_no_filling() -> None:
    for mask, lengths in ((rows([SHORT, LONG], [1, 2]).state_mask, (6, 11)),):
        for row, (prompt, length) in enumerate(zip((2, 3), lengths, strict=True)):
            assert torch.equal(mask[row, :length, :length], visibility(length, prompt, "full", BLOCK))
            assert not mask[row, :, length:].any()
            assert mask[row].any(-1).all()  # A softmax over nothing would not be a number.


def test_the_truth_is_filled_to_whole_blocks_and_masked_at_its_targets() -> None:
    for seed in range(20):
        batch = rows([SHORT, LONG], [0, 0], seed)
        assert batch.lengths.tolist() == [4, 8]
        asked = batch.targets >= 0
        assert asked.any(-1).all()
        assert torch.equal(batch.truth == MASK, asked)
        clean = torch.where(asked, batch.targets, batch.truth)
        assert clean.tolist() == [[1, 2, 5, EOS, EOS, EOS] + [EOS] * 5, [1, 2, 3, 5, 6, 7, 8, EOS, EOS, EOS, EOS]]
        assert torch.equal(batch.truth_mask[0, :6, :6], visibility(6, 2, "full", BLOCK))
        assert not batch.truth_mask[0, :, 6:].any()


def test_ratios_are_uniform_above_one_mask_a_row_and_are_the_share_masked() -> None:
    many = trajectory([1], list(range(4)), list(range(1, 61)))
    batch = rows([many] * 300, [0] * 300)
    assert batch.ratios.min() >= 1 / 60
    assert batch.ratios.mean() == pytest.approx(0.5, abs=0.06)
    masked = (batch.targets >= 0).sum(-1) / 60
    assert (masked - batch.ratios).abs().mean() < 0.06


@pytest.mark.parametrize("axis", ["plain", "shifted"])
def test_a_batched_row_predicts_what_the_engine_would_see(tmp_path, axis) -> None:
    """The active block's logits in a batch are those of [prompt | blocks up to the active one] alone."""
    checkpoint = load_checkpoint(build_checkpoint(tmp_path, axis, block_length=BLOCK))
    model = checkpoint.transformer
    weights, k = dict(model.state_dict()), (1, 5)
    batch = rows([SHORT, LONG], list(k))
    logits = AskedLogits(model, shift=checkpoint.manifest.shift)(batch.state, batch.state_mask, batch.undecided)

    expected = []
    for row, (item, done) in enumerate(zip((SHORT, LONG), k, strict=True)):
        prompt = len(item.prompt)
        end = prompt + (done // BLOCK + 1) * BLOCK
        hidden = hidden_states(weights, model.config, batch.state[row, :end], visibility(end, prompt, "full", BLOCK))
        for position in range(end - BLOCK, end):
            if batch.state[row, position] == MASK:
                expected.append(weights["lm_head.weight"] @ hidden[position - checkpoint.manifest.shift])
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-4, atol=1e-4)


def _store(count: int) -> list[Trajectory]:
    """Trajectories of different lengths, told apart by their first id."""
    return [
        trajectory([number, *[60] * (number % 5)], list(range(BLOCK * (1 + number % 3))), [EOS])
        for number in range(count)
    ]


def _stream(count: int = 30, **options: float) -> StudentStream:
    return StudentStream(_store(count), seed="s", mask_id=MASK, end_id=EOS, block_length=BLOCK, **options)  # type: ignore[arg-type]


def test_batches_fill_a_budget_that_counts_all_three_forwards() -> None:
    seen: list[int] = []
    for epoch, _, batch in _stream(max_tokens=150).batches():
        if epoch:
            break
        assert 2 * batch.state.numel() + batch.truth.numel() <= 150
        seen += batch.state[:, 0].tolist()
    assert sorted(seen) == list(range(30))


def test_held_out_trajectories_are_never_visited() -> None:
    drawn = _stream(held_out=3, max_rows=4).batches()
    assert min(number for _, _, batch in islice(drawn, 30) for number in batch.state[:, 0].tolist()) == 3


def _same(left: StudentBatch, right: StudentBatch) -> bool:
    return torch.equal(left.state, right.state) and torch.equal(left.truth, right.truth)


def test_a_stream_continues_at_any_batch_and_epochs_differ() -> None:
    whole = list(islice(_stream(max_rows=4).batches(), 20))
    epoch, index, _ = whole[12]
    assert epoch == 1
    for left, right in zip(whole[12:], _stream(max_rows=4).batches(epoch, index), strict=False):
        assert left[:2] == right[:2]
        assert _same(left[2], right[2])
    assert not _same(whole[0][2], whole[8][2])


def test_ranks_take_different_trajectories_in_the_same_number_of_steps() -> None:
    taken = []
    for rank in range(2):
        batches = _stream(max_rows=4, rank=rank, world_size=2).batches()
        taken.append([batch.state[:, 0] for epoch, _, batch in islice(batches, 4) if epoch == 0])
    assert len(taken[0]) == len(taken[1]) == 4
    first, second = (set(torch.cat(part).tolist()) for part in taken)
    assert not first & second


def test_a_trajectory_beyond_the_budget_and_too_few_trajectories_are_refused() -> None:
    with pytest.raises(TrainingError, match="a worker's batch holds 20"):
        _stream(max_tokens=20)
    with pytest.raises(TrainingError, match="too few for 2 workers"):
        next(_stream(count=1, world_size=2).batches())
