"""A training row shows every noisy block exactly what a denoise step of the engine sees."""

import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from model.checkpoint import load_checkpoint
from tests.checkpoints import EOS, MASK, build_checkpoint
from tests.oracle import hidden_states, visibility
from training.attention import BlockDiffusionAttention
from training.rows import Example, collate, fill_blocks

BLOCK = 8


def examples() -> list[Example]:
    rng = random.Random(4)
    return [
        Example(
            [rng.randrange(EOS) for _ in range(rng.randint(1, 20))],
            fill_blocks([rng.randrange(EOS) for _ in range(rng.randint(1, 30))], BLOCK, EOS),
        )
        for _ in range(5)
    ]


def test_fill_blocks_always_ends_with_the_end_token() -> None:
    for length in range(20):
        filled = fill_blocks([1] * length, BLOCK, EOS)
        assert len(filled) % BLOCK == 0
        assert filled[:length] == [1] * length
        assert set(filled[length:]) == {EOS}


def test_the_two_noisy_copies_are_complementary_and_cover_the_answer() -> None:
    rows = examples()
    batch = collate(rows, block_length=BLOCK, mask_id=MASK, pad_id=0, rng=random.Random(0))
    prompt_width = batch.context_mask.shape[-1] - max(len(row.answer) for row in rows)
    answer_width = max(len(row.answer) for row in rows)
    for index, row in enumerate(rows):
        width = len(row.answer)
        copies = [
            batch.targets[index, prompt_width + copy * answer_width :][:width] for copy in (1, 2)
        ]
        assert ((copies[0] >= 0) ^ (copies[1] >= 0)).all()
        assert torch.maximum(*copies).tolist() == row.answer
        masked = batch.token_ids[index] == MASK
        assert torch.equal(masked, batch.targets[index] >= 0)


def test_hidden_states_of_masked_positions_equal_the_plain_forward(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "qk_norm_tied")
    checkpoint = load_checkpoint(directory)
    weights = load_file(directory / "model.safetensors")
    rows = examples()
    batch = collate(rows, block_length=BLOCK, mask_id=MASK, pad_id=0, rng=random.Random(1))
    attention = BlockDiffusionAttention(batch.context_mask, batch.noisy_mask, BLOCK)
    hidden = checkpoint.transformer(batch.token_ids, batch.positions, attention)
    context, answer_width = batch.context_mask.shape[-1], max(len(row.answer) for row in rows)
    for index, row in enumerate(rows):
        prompt = len(row.prompt)
        for copy in (0, 1):
            for start in range(0, len(row.answer), BLOCK):
                noisy = context + copy * answer_width + start
                block_ids = batch.token_ids[index, noisy : noisy + BLOCK]
                seen = torch.cat((torch.tensor(row.prompt + row.answer[:start]), block_ids))
                truth = hidden_states(
                    weights, checkpoint.transformer.config, seen, visibility(len(seen), prompt, "full", BLOCK)
                )
                torch.testing.assert_close(hidden[index, noisy : noisy + BLOCK], truth[-BLOCK:], atol=1e-5, rtol=1e-5)
