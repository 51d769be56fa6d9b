"""Two-stream rows against hand-made masks, packed rows, and plain forwards of one block at a time."""

import random

import pytest
import torch

from cdlm.model.config import TransformerConfig
from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.attention import RowAttention, block_causal_mask
from cdlm.training.batches.packed import pack
from cdlm.training.batches.two_streams import draw_masks, masked_answers
from cdlm.training.student.objective import AskedLogits

MASK, END = 63, 62


def test_noisy_blocks_see_themselves_and_clean_blocks_before_them() -> None:
    text, hidden = torch.tensor([10, 11, 12, 13]), torch.tensor([False, True, True, True])
    rows, targets = pack([[]], [text], [hidden[None]], mask_id=MASK, block_length=2)
    assert rows.token_ids.tolist() == [[10, 11, 12, 13, 10, MASK, MASK, MASK]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    assert rows.asked.nonzero()[:, 1].tolist() == [5, 6, 7]
    assert targets.tolist() == [11, 12, 13]
    # The state before: nothing is before the text, the block before is seen clean, a block's own states are its own.
    assert rows.previous.tolist() == [[0, 0, 1, 2, 0, 4, 1, 6]]
    assert ["".join(str(int(seen)) for seen in row) for row in rows.mask[0]] == [
        "11000000",
        "11000000",
        "11110000",
        "11110000",
        "00001100",
        "00001100",
        "11000011",
        "11000011",
    ]


def test_a_text_is_a_packed_row_whose_first_block_is_its_prompt() -> None:
    """Behind the first block, a packed row with that block as its prompt has the same masks."""
    text, hidden = torch.arange(12), torch.tensor([False, False, False, False, True, False, True, True] + [True] * 4)
    ours, targets = pack([[]], [text], [hidden[None]], mask_id=MASK, block_length=4)
    theirs, same = pack([[0, 1, 2, 3]], [text[4:]], [hidden[None, 4:]], mask_id=MASK, block_length=4)
    kept = [*range(12), *range(16, 24)]  # Without the noisy copy of the first block.
    assert torch.equal(ours.token_ids[:, kept], theirs.token_ids)
    assert torch.equal(ours.positions[:, kept], theirs.positions)
    assert torch.equal(ours.mask[:, kept][:, :, kept], theirs.mask)
    assert torch.equal(ours.asked[:, kept], theirs.asked)
    assert torch.equal(targets, same)


@pytest.mark.parametrize("shift", [False, True])
def test_logits_are_those_of_one_forward_per_block(shift: bool) -> None:
    torch.manual_seed(0)
    model = Transformer(
        TransformerConfig(
            vocab_size=64, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
        )
    )
    rng = random.Random(1)
    texts = [list(range(10, 19)), [30, 31, 32]]
    rows, targets, _ = masked_answers(
        [([], text) for text in texts],
        mask_id=MASK,
        end_id=END,
        block_length=4,
        rng=rng,
        ratios=(0.3, 0.8),
        spared=int(shift),
    )
    with torch.no_grad():
        student = AskedLogits(model, shift=shift)
        logits = student(rows.token_ids, rows.positions, rows.previous, rows.mask, rows.asked)
        expected, truth = [], []
        for row, text in enumerate(texts):
            size = -(-len(text) // 4) * 4
            clean, noisy = rows.token_ids[row, :size], rows.token_ids[row, size : 2 * size]
            assert clean.tolist() == text + [END] * (size - len(text))
            for start in range(0, size, 4):
                ids = torch.cat((clean[:start], noisy[start : start + 4]))[None]
                mask = block_causal_mask(torch.tensor([0]), 4, start + 4)
                states = model(ids, torch.arange(start + 4)[None], RowAttention(mask))[0]
                for place in range(start, start + 4):
                    if noisy[place] == MASK:
                        expected.append(model.logits(states[place - 1 if shift else place]))
                        truth.append(int(clean[place]))
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert targets.tolist() == truth


def test_ratios_are_bounded_and_weights_are_their_inverse() -> None:
    texts = [([], list(range(16)))] * 200
    rows, targets, weights = masked_answers(
        texts, mask_id=MASK, end_id=END, block_length=8, ratios=(0.4, 0.6), spared=1, rng=random.Random(2)
    )
    assert len(targets) == len(weights) == int(rows.asked.sum())
    ratios = 1 / (weights * 16 * 200)
    assert 0.4 <= float(ratios.min()) < 0.41
    assert 0.59 < float(ratios.max()) <= 0.6001
    assert not rows.asked[:, 16].any()  # No state predicts a text's first token.
    assert 0.45 < float(rows.asked[:, 17:].float().mean()) < 0.55
    # 1/t makes the mean weight of a position 1/n, whatever the ratio; the first one has none.
    assert float(weights.sum()) == pytest.approx(15 / 16, abs=0.03)
    free, _, _ = masked_answers(
        texts, mask_id=MASK, end_id=END, block_length=8, ratios=(0.4, 0.6), rng=random.Random(2)
    )
    assert free.asked[:, 16].any()


def test_every_block_has_a_mask_and_spared_positions_have_none() -> None:
    rng, generator = random.Random(3), torch.Generator().manual_seed(3)
    for _ in range(200):
        masks, t = draw_masks(3, 4, rng=rng, generator=generator, ratios=(0.0, 0.1), spared=1)
        assert masks.any(-1).all()
        assert not masks[0, 0]
        assert t.flatten().tolist() == [0.25] * 3  # At least one of four, on average.
