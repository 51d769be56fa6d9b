"""A student's rows: index sets and masks on hand-made trajectories, and the states the engine would see."""

import math
import random
from itertools import islice

import pytest
import torch
from torch import Tensor

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.training.batches.packed import AskedRows
from cdlm.training.batches.two_streams import masked_answers
from cdlm.training.errors import TrainingError
from cdlm.training.student.objective import AskedLogits
from cdlm.training.student.rows import StudentBatch, later_blocks, packed_states
from cdlm.training.student.stream import StudentStream
from cdlm.training.trajectories.states import state_after
from cdlm.training.trajectories.trajectory import Trajectory
from tests.support.models.checkpoints import EOS, MASK, build_checkpoint
from tests.support.oracle.network import hidden_states, visibility

BLOCK = 4


def trajectory(prompt: list[int], order: list[int], truth: list[int]) -> Trajectory:
    """Position i decoded to 10 + i, with a hidden state of all i."""
    n = len(order)
    hidden = torch.arange(n).bfloat16()[:, None].expand(n, 3).contiguous()
    return Trajectory(prompt, truth, torch.arange(10, 10 + n), torch.tensor(order), hidden, 0.0, n)


SHORT = trajectory([1, 2], [1, 0, 3, 2], [5, EOS])
LONG = trajectory([1, 2, 3], [3, 0, 2, 1, 6, 4, 7, 5], [5, 6, 7, 8, EOS])


def test_a_trajectory_is_exact_up_to_the_truths_end() -> None:
    assert trajectory([1], [0, 1, 2, 3], [10, 11, 12]).exact
    assert trajectory([1], [0, 1, 2, 3], [10, 11, 12, 13]).exact
    assert not trajectory([1], [0, 1, 2, 3], [10, 11, 13]).exact
    assert not trajectory([1], [0, 1, 2, 3], [10, 11, 12, 13, 14]).exact


def test_every_block_of_a_packed_row_is_in_a_state_of_its_own() -> None:
    states, hidden = packed_states([SHORT, LONG], [[1], [2, 3]], mask_id=MASK, block_length=BLOCK)
    clean = torch.where(states.token_ids == MASK, -1, states.token_ids).tolist()
    assert clean == [
        [1, 2, 10, 11, 12, 13, -1, 11, -1, -1] + [0] * 9,
        [1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, -1, 11, -1, 13, 14, 15, -1, 17],
    ]
    assert torch.equal(states.asked, states.token_ids == MASK)
    assert hidden[:, 0].tolist() == [0, 2, 3, 0, 2, 6]


def test_later_blocks_are_asked_before_and_after_the_active_one_is_complete() -> None:
    state, completed = later_blocks([SHORT, LONG], [1, 2], mask_id=MASK, block_length=BLOCK)
    assert state.token_ids.tolist() == [
        [1, 2, MASK, 11, MASK, MASK, 0, 0, 0, 0, 0],
        [1, 2, 3, MASK, 11, MASK, 13, MASK, MASK, MASK, MASK],
    ]
    assert completed.tolist() == [
        [1, 2, 10, 11, 12, 13, 0, 0, 0, 0, 0],
        [1, 2, 3, 10, 11, 12, 13, MASK, MASK, MASK, MASK],
    ]
    assert state.asked.nonzero().tolist() == [[1, 7], [1, 8], [1, 9], [1, 10]]
    for row, (prompt, length) in enumerate(((2, 6), (3, 11))):
        assert torch.equal(state.mask[row, :length, :length], visibility(length, prompt, "full", BLOCK))
        assert not state.mask[row, :, length:].any()
        assert state.mask[row].any(-1).all()  # A softmax over nothing would not be a number.


def test_nothing_remains_in_the_last_block() -> None:
    state, _ = later_blocks([LONG], [4], mask_id=MASK, block_length=BLOCK)
    assert not state.asked.any()


def _truth(examples: list[tuple[list[int], list[int]]], seed: int = 0) -> tuple[AskedRows, Tensor, Tensor]:
    return masked_answers(examples, mask_id=MASK, end_id=EOS, block_length=BLOCK, rng=random.Random(seed))


def test_the_truth_is_filled_to_whole_blocks_and_masked_at_its_targets() -> None:
    for seed in range(20):
        rows, targets, weights = _truth([([1, 2], [5, EOS]), ([1, 2, 3], [5, 6, 7, 8, EOS])], seed)
        assert torch.equal(rows.asked, rows.token_ids == MASK)
        assert len(targets) == len(weights) == rows.asked.sum()
        whole = rows.token_ids.clone()
        whole[rows.asked] = targets
        short, long = [5, EOS, EOS, EOS], [5, 6, 7, 8, EOS, EOS, EOS, EOS]
        assert whole.tolist() == [[1, 2, *short, *short] + [0] * 9, [1, 2, 3, *long, *long]]
        for block in (rows.asked[0, 6:10], rows.asked[1, 11:15], rows.asked[1, 15:19]):
            assert block.any()


def test_masks_weigh_one_over_their_blocks_ratio_and_the_canvas() -> None:
    """1/t makes up for the share that was masked: whatever the ratios, a row's weights sum to 1 on average."""
    rows, _, weights = _truth([([1], list(range(1, 13)))] * 400)
    assert weights.sum() == pytest.approx(1.0, abs=0.15)  # Above it by the blocks that would have no mask.
    ratios = 1 / (weights * 12 * 400)  # Every block draws one.
    assert ratios.min() >= 1 / BLOCK - 1e-6
    blocks = rows.asked[:, 13:].reshape(-1, BLOCK).sum(-1)
    per_block = torch.stack([part[0] for part in ratios.split(blocks.tolist())])
    assert per_block.mean() == pytest.approx(0.53, abs=0.03)  # U(0, 1), not below 1/4.
    assert (blocks / BLOCK - per_block).mean().abs() < 0.06  # The same.


@pytest.mark.parametrize("axis", ["plain", "shifted"])
def test_a_packed_row_predicts_what_the_engine_would_see(tmp_path, axis) -> None:
    """The logits of a block's state are those of [prompt | clean blocks before | the block] alone."""
    checkpoint = load_checkpoint(build_checkpoint(tmp_path, axis, block_length=BLOCK))
    model = checkpoint.transformer
    weights, counts = dict(model.state_dict()), [[1], [2, 3]]
    rows, _ = packed_states([SHORT, LONG], counts, mask_id=MASK, block_length=BLOCK)
    student = AskedLogits(model, shift=checkpoint.manifest.shift)
    logits = student(rows.token_ids, rows.positions, rows.previous, rows.mask, rows.asked)

    expected = []
    for item, done in zip((SHORT, LONG), counts, strict=True):
        prompt = len(item.prompt)
        for block, count in enumerate(done):
            end = prompt + (block + 1) * BLOCK
            state = torch.cat((torch.tensor(item.prompt), state_after(item, block * BLOCK + count, MASK)))[:end]
            hidden = hidden_states(weights, model.config, state, visibility(end, prompt, "full", BLOCK))
            for position in range(end - BLOCK, end):
                if state[position] == MASK:
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


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_batches_fill_a_budget_that_counts_all_forwards(share) -> None:
    seen: list[int] = []
    for epoch, _, batch in _stream(max_tokens=150, consistency_share=share).batches():
        if epoch:
            break
        ids = (batch.states.token_ids, batch.state.token_ids, batch.completed, batch.truth.token_ids)
        assert sum(rows.numel() for rows in ids) <= 150
        assert len(batch.state.token_ids) == math.ceil(share * len(batch.states.token_ids))
        seen += batch.states.token_ids[:, 0].tolist()
    assert sorted(seen) == list(range(30))


def test_blocks_can_be_taken_before_their_first_finalization() -> None:
    for share, masked in ((1.0, 1.0), (0.0, 5 / 8)):  # Uniform over 0..3 finalizations: 2.5 of 4 are masked.
        batches = [batch for _, _, batch in islice(_stream(first_step=share, max_rows=4).batches(), 60)]
        asked = sum(int(batch.states.asked.sum()) for batch in batches)
        positions = sum(len(_store(30)[n].tokens) for b in batches for n in b.states.token_ids[:, 0].tolist())
        assert asked / positions == pytest.approx(masked, abs=0.08 if share < 1 else 0)


def test_a_trajectorys_own_truth_can_be_masked_several_times() -> None:
    _, _, batch = next(_stream(max_rows=3, truths=2).batches())
    assert len(batch.truth.token_ids) == 2 * len(batch.states.token_ids) == 6


def test_the_truth_can_come_from_fresh_examples() -> None:
    drawn: list[tuple[str, int]] = []

    def fresh(seed: str, count: int) -> list[tuple[list[int], list[int]]]:
        drawn.append((seed, count))
        return [([7], [8, EOS])] * count

    batches = list(islice(_stream(max_rows=3, fresh_truth=fresh, truths=2).batches(), 2))
    assert [count for _, count in drawn] == [len(batch.truth.token_ids) for _, _, batch in batches]
    assert [count for _, count in drawn] == [2 * len(batch.states.token_ids) for _, _, batch in batches]
    assert len({seed for seed, _ in drawn}) == 2
    assert all((batch.truth.token_ids[:, 0] == 7).all() for _, _, batch in batches)


def test_held_out_trajectories_are_never_visited() -> None:
    drawn = _stream(held_out=3, max_rows=4).batches()
    assert min(number for _, _, batch in islice(drawn, 30) for number in batch.states.token_ids[:, 0].tolist()) == 3


def _same(left: StudentBatch, right: StudentBatch) -> bool:
    pairs = ((left.states, right.states), (left.state, right.state), (left.truth, right.truth))
    return all(torch.equal(one.token_ids, other.token_ids) for one, other in pairs)


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
        taken.append([batch.states.token_ids[:, 0] for epoch, _, batch in islice(batches, 4) if epoch == 0])
    assert len(taken[0]) == len(taken[1]) == 4
    first, second = (set(torch.cat(part).tolist()) for part in taken)
    assert not first & second


def test_a_trajectory_beyond_the_budget_and_too_few_trajectories_are_refused() -> None:
    with pytest.raises(TrainingError, match="a worker's batch holds 20"):
        _stream(max_tokens=20)
    with pytest.raises(TrainingError, match="too few for 2 workers"):
        next(_stream(count=1, world_size=2).batches())
