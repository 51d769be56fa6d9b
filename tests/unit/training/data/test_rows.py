"""Rows of the first two stages hold what a decoder will see, and ask for what it will need."""

import random

import pytest
import torch

from cdlm.model.config import TransformerConfig
from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.attention import RowAttention, block_causal_mask
from cdlm.training.batches.rows import Example, block_rows, frontier_rows, masked_rows, next_token_rows
from cdlm.training.pretraining.objectives import prediction_rows, token_loss

MASK, END, PAD = 63, 62, 61
EXAMPLES = [
    Example([1, 2, 3], [10, 11, 12, END]),
    Example([4, 5], [20, 21, 22, 23, 24, 25, 26, 27, 28, END]),
    Example([6], [30, END]),
]


def tiny(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(
        TransformerConfig(
            vocab_size=64, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
        )
    )


def test_next_token_rows_ask_for_the_answer_and_are_causal() -> None:
    batch = next_token_rows(EXAMPLES, pad_id=PAD)
    assert batch.token_ids[0].tolist() == [1, 2, 3, 10, 11, 12, END] + [PAD] * 5
    assert batch.targets[0].tolist() == [-1, -1, -1, 10, 11, 12, END] + [-1] * 5
    model = tiny()
    changed = batch.token_ids.clone()
    changed[:, 6:] = 40
    before, after = (model(ids, batch.positions, batch.attention) for ids in (batch.token_ids, changed))
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-6)
    assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-3)


def test_a_shifted_prediction_comes_from_the_state_before() -> None:
    hidden = torch.arange(8.0).reshape(1, 4, 2)
    assert prediction_rows(hidden, shift=False) is hidden
    assert prediction_rows(hidden, shift=True)[0, :, 0].tolist() == [0, 0, 2, 4]


def test_masked_rows_hide_only_answers_and_ask_only_for_what_is_hidden() -> None:
    lengths = set()
    for seed in range(40):
        batch = masked_rows(
            EXAMPLES, mask_id=MASK, end_id=END, generation_length=16, block_length=4, rng=random.Random(seed)
        )
        lengths.add(batch.token_ids.shape[1])
        for row, example in enumerate(EXAMPLES):
            start = len(example.prompt)
            ids, targets = batch.token_ids[row], batch.targets[row]
            assert ids[:start].tolist() == example.prompt
            canvas = torch.full((len(ids) - start,), END)
            canvas[: len(example.answer)] = torch.tensor(example.answer)
            hidden = ids[start:] == MASK
            assert torch.equal(ids[start:][~hidden], canvas[~hidden])
            asked = targets[start:] >= 0
            assert torch.equal(targets[start:][asked], canvas[asked])
            assert (targets[:start] == -1).all()
            assert not (asked & ~hidden).any()
            weights, run = batch.weights[row, start:], 0
            for position, is_hidden in enumerate(hidden.tolist()):
                assert float(weights[position]) == pytest.approx((1 + run) ** -0.5)
                run = run + 1 if is_hidden else 0
            if not torch.equal(asked, hidden):  # A step of block-wise decoding.
                block = torch.arange(len(hidden)) // 4
                active = int(block[asked].min()) if asked.any() else int(block[hidden].min()) - 1
                assert not hidden[block < active].any()
                assert hidden[block > active].all()
                assert not asked[block != active].any()
    assert min(lengths) == 12  # The longest example as it is.
    assert 12 < max(lengths) <= 17  # One prompt token and the whole canvas.


def test_block_rows_hold_the_clean_answer_and_masked_copies_of_it() -> None:
    all_masked = 0
    for seed in range(40):
        batch = block_rows(EXAMPLES, mask_id=MASK, end_id=END, block_length=4, copies=2, rng=random.Random(seed))
        assert batch.token_ids.shape == (3, 2 + 3 * 12)
        for row, example in enumerate(EXAMPLES):
            start, size = len(example.prompt), -(-len(example.answer) // 4) * 4
            ids, targets = batch.token_ids[row], batch.targets[row]
            clean = torch.full((size,), END)
            clean[: len(example.answer)] = torch.tensor(example.answer)
            assert ids[: start + size].tolist() == [*example.prompt, *clean.tolist()]
            assert (targets[: start + size] == -1).all()
            for copy in range(2):
                at = start + size * (copy + 1)
                part, wanted = ids[at : at + size], targets[at : at + size]
                hidden = part == MASK
                assert torch.equal(hidden, wanted >= 0)
                assert torch.equal(torch.where(hidden, wanted, part), clean)
                assert hidden.view(-1, 4).any(-1).all()
                weights, run = batch.weights[row, at : at + size], 0
                for position, is_hidden in enumerate(hidden.tolist()):
                    run = 0 if position % 4 == 0 else run  # The block before is seen clean.
                    assert float(weights[position]) == pytest.approx((1 + run) ** -0.5 if is_hidden else 0)
                    run = run + 1 if is_hidden else 0
                all_masked += int(hidden.view(-1, 4).all(-1).sum())
            assert (targets[start + 3 * size :] == -1).all()
    assert 0.25 < all_masked / (40 * 2 * 5) < 0.55  # A quarter, and those that come out so.


@pytest.mark.parametrize("shift", [False, True])
def test_packed_blocks_predict_what_they_do_in_a_row_of_their_own(shift) -> None:
    model, block = tiny(), 4
    batch = block_rows(EXAMPLES, mask_id=MASK, end_id=END, block_length=block, copies=2, rng=random.Random(5))
    hidden = model(batch.token_ids, batch.positions, batch.attention)
    packed = prediction_rows(hidden, shift=shift, previous=batch.previous)
    for row, example in enumerate(EXAMPLES):
        start, size = len(example.prompt), -(-len(example.answer) // block) * block
        for copy in range(2):
            for offset in range(0, size, block):
                at = start + size * (copy + 1) + offset
                ids = batch.token_ids[row]
                alone = torch.cat((ids[: start + offset], ids[at : at + block]))[None]
                mask = block_causal_mask(torch.tensor([start]), block, alone.shape[1])
                own = model(alone, torch.arange(alone.shape[1])[None], RowAttention(mask))
                expected = prediction_rows(own, shift=shift)[0, -block:]
                torch.testing.assert_close(packed[row, at : at + block], expected, rtol=1e-4, atol=1e-5)


def test_frontier_rows_ask_for_the_first_unknown_token_alone() -> None:
    for seed in range(20):
        batch = frontier_rows(EXAMPLES, mask_id=MASK, block_length=4, rng=random.Random(seed))
        for row, example in enumerate(EXAMPLES):
            asked = batch.targets[row] >= 0
            assert asked.sum() == 1
            at = int(asked.nonzero()[0])
            whole = example.prompt + example.answer
            assert at >= len(example.prompt)
            assert batch.token_ids[row, :at].tolist() == whole[:at]
            assert (batch.token_ids[row, at:] == MASK).all()
            assert int(batch.targets[row, at]) == whole[at]


def test_the_loss_weighs_positions() -> None:
    model = tiny()
    batch = masked_rows(EXAMPLES, mask_id=MASK, end_id=END, generation_length=16, block_length=4, rng=random.Random(3))
    loss, accuracy = token_loss(model, batch, shift=False)
    logits = model.logits(model(batch.token_ids, batch.positions, RowAttention(None)))
    top = bottom = 0.0
    for row in range(len(EXAMPLES)):
        for position in range(batch.token_ids.shape[1]):
            if (target := int(batch.targets[row, position])) >= 0:
                weight = float(batch.weights[row, position])
                top -= weight * float(logits[row, position].log_softmax(-1)[target].detach())
                bottom += weight
    assert abs(float(loss.detach()) - top / bottom) < 1e-4
    assert 0 <= float(accuracy) <= 1


def test_block_causal_mask_by_hand() -> None:
    sees = block_causal_mask(torch.tensor([2, 1]), 2, 6)
    assert sees[0].int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]
    assert sees[1].int().sum(-1).tolist() == [1, 3, 3, 5, 5, 6]


def test_masked_keys_do_not_change_what_others_see() -> None:
    model = tiny()
    ids = torch.randint(0, 60, (1, 9))
    mask = torch.ones(1, 9, 9, dtype=torch.bool)
    mask[:, :, 7:] = False
    positions = torch.arange(9)[None]
    wide = model(ids, positions, RowAttention(mask))[:, :7]
    narrow = model(ids[:, :7], positions[:, :7], RowAttention(None))
    assert torch.allclose(wide, narrow, atol=1e-5)
