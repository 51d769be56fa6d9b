"""Training rows under the block-causal mask: one clean answer and noisy copies of it share a forward.

A row is ``[prompt | clean answer | noisy copy 1 | ... | noisy copy C]``. Block b of a noisy copy sees the
prompt, the clean blocks before b, and itself, which is exactly what a denoise step of the engine sees
(the vectorised form of block diffusion training, arXiv 2503.09573). Two noisy copies carry complementary
masks, so every answer token is predicted once.
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

COPIES = 2
PAD_BLOCK = 1 << 20  # A block number no query ever reaches.


@dataclass(frozen=True, slots=True)
class Example:
    """Prompt and answer ids; the answer ends with the end token and fills whole blocks."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows of one shape. L = C + N: context C = prompt and clean answer, N = the noisy copies of the answer.

    Attributes:
        token_ids: [rows, L] int64.
        positions: [rows, L] int64, the position each token has at inference.
        context_mask: [rows, 1, C, C] bool, true where a context query (third axis) sees a context key.
        noisy_mask: [rows, 1, N, C] bool, true where a noisy query sees a context key; its own block it always sees.
        targets: [rows, L] int64, the true id at masked positions, -1 elsewhere.
    """

    token_ids: Tensor
    positions: Tensor
    context_mask: Tensor
    noisy_mask: Tensor
    targets: Tensor

    @property
    def tokens(self) -> int:
        """Tokens that go through the forward, padding included."""
        return self.token_ids.numel()


def fill_blocks(answer: list[int], block_length: int, eos: int) -> list[int]:
    """Appends the end token once, then as often as it takes to fill the last block."""
    length = len(answer) + 1
    return answer + [eos] * (1 + -length % block_length)


def collate(
    examples: list[Example], *, block_length: int, mask_id: int, pad_id: int, rng: random.Random, round_to: int = 16
) -> RowBatch:
    """Lays examples out as rows; each block draws its own mask ratio t ~ U(0, 1), its complement is copy 2."""
    prompt_width = -(-max(len(example.prompt) for example in examples) // round_to) * round_to
    answer_width = max(len(example.answer) for example in examples)
    rows, length = len(examples), prompt_width + (1 + COPIES) * answer_width
    token_ids = torch.full((rows, length), pad_id)
    positions = torch.zeros((rows, length), dtype=torch.long)
    block = torch.full((rows, length), PAD_BLOCK)
    targets = torch.full((rows, length), -1)
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    for row, example in enumerate(examples):
        prompt, answer = len(example.prompt), len(example.answer)
        token_ids[row, :prompt] = torch.tensor(example.prompt)
        positions[row, :prompt] = torch.arange(prompt)
        block[row, :prompt] = -1
        truth = torch.tensor(example.answer)
        offsets = torch.arange(answer)
        ratio = torch.rand(answer // block_length, generator=generator).repeat_interleave(block_length)
        hidden = torch.rand(answer, generator=generator) < ratio
        for index, masked in enumerate((None, hidden, ~hidden)):
            start = prompt_width + index * answer_width
            span = slice(start, start + answer)
            token_ids[row, span] = truth if masked is None else truth.masked_fill(masked, mask_id)
            positions[row, span] = prompt + offsets
            block[row, span] = offsets // block_length
            if masked is not None:
                targets[row, span] = truth.masked_fill(~masked, -1)
    context = prompt_width + answer_width
    return RowBatch(
        token_ids,
        positions,
        context_mask=_sees(block[:, :context], block[:, :context], strict=False)[:, None],
        noisy_mask=_sees(block[:, context:], block[:, :context], strict=True)[:, None],
        targets=targets,
    )


def _sees(query_block: Tensor, key_block: Tensor, *, strict: bool) -> Tensor:
    """[rows, queries], [rows, keys] -> [rows, queries, keys]: keys of earlier blocks, and of the own unless strict.

    Queries that are padding see every real key: their output is unused, but must stay finite.
    """
    query, key = query_block[:, :, None], key_block[:, None, :]
    return ((key < query) if strict else (key <= query)) & (key < PAD_BLOCK)
