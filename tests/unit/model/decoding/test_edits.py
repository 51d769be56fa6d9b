"""The edits of logits, next to their definition token by token, in a batch where some rows ask for them."""

import math

import pytest
import torch

from cdlm.model.config import Manifest
from cdlm.model.decoding.canvas import Canvas
from cdlm.model.decoding.logits.logprobs import token_logprobs
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.processors.edits import Edits
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.decoding.rules import FinalizationRule
from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.row import RowWork
from cdlm.model.uploads import place_on
from tests.support.oracle.edits import OracleEdits, edit

VOCAB, MASK, BLOCK = 11, 10, 4
CPU = torch.device("cpu")
MANIFEST = Manifest(
    block_length=BLOCK, confidence_threshold=0.9, mask_token_id=MASK, stop_token_ids=(9,), max_model_len=64
)


def work(row: int, start: int) -> RowWork:
    return RowWork(row, [], [], start)


def open_row(editor: Edits, row: int, params: DecodingParams, prompt_ids: list[int], stop_ids: list[int]) -> None:
    editor.open_row(row, RowSettings(params, FinalizationRule("threshold", 0.9), BLOCK, stop_ids, prompt_ids))


def open_block(editor: Edits, row: int, generated: list[int]) -> None:
    editor.open_block(row, BlockStart([], generated, BLOCK, {}))


def apply(editor: Edits, works: list[RowWork], counts: list[int], chosen: torch.Tensor, logits: torch.Tensor) -> None:
    step = Step(works, counts, chosen)
    step.logits = logits
    editor.prepare(works, counts, place_on(logits.device))
    editor.edit(step)


def canvas_of(rows: list[list[int | None]], given: int = 0) -> Canvas:
    """A canvas whose blocks hold those tokens; ``None`` is masked."""
    canvas = Canvas(len(rows), MANIFEST, 8, CPU, torch.float32)
    for row, tokens in enumerate(rows):
        canvas.open_row(row, RowSettings(DecodingParams(), FinalizationRule("threshold", 0.9), BLOCK, [9], []))
        canvas.open_block(row, [token for token in tokens[:given] if token is not None])
        canvas.write_new(place_on(CPU))()
        for offset, token in enumerate(tokens[given:], given):
            if token is not None:
                canvas.tokens[row, offset], canvas.masked[row, offset] = token, False
    return canvas


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_gets_its_own_edits_and_others_none(dtype: torch.dtype) -> None:
    edits = DecodingParams(
        presence_penalty=1.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.3,
        logit_bias={2: 5.0, 3: -100.0},
        min_tokens=6,
    )
    other = DecodingParams(repetition_penalty=0.5)
    canvas = canvas_of([[4, None, None, 4], [None] * 4, [None, 6, None, None]])
    editor = Edits(canvas, VOCAB)
    open_row(editor, 0, edits, [1, 2, 2], [9])
    open_block(editor, 0, [5, 4, 5, 7])
    open_row(editor, 1, DecodingParams(temperature=1.0), [1], [9])
    open_row(editor, 2, other, [8], [])
    works = [work(0, 7), work(1, 7), work(2, 1)]
    chosen = canvas.masked[: canvas.rows].view(-1).nonzero()[:, 0]
    counts = canvas.masked[: canvas.rows].sum(-1).tolist()
    logits = torch.randn(len(chosen), VOCAB, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = logits.clone()
    apply(editor, works, counts, chosen, logits)

    assert torch.equal(logits[2:6], before[2:6])
    plain = OracleEdits(1.5, -0.5, 1.3, {2: 5.0, 3: -100.0}, min_tokens=6)
    for line, index in ((0, 5), (1, 6)):  # Four generated tokens are finished, so these are the answer's 5th and 6th.
        truth = edit(before[line].float(), plain, [1, 2, 2], [5, 4, 5, 7, 4, 4], index, (9,))
        assert torch.allclose(logits[line].float(), truth.to(dtype).float(), atol=1e-6)
        assert logits[line, 3] == -math.inf
        assert (logits[line, 9] == -math.inf) == (index < 6)
    for line in (6, 7, 8):
        truth = edit(before[line].float(), OracleEdits(repetition_penalty=0.5), [8], [6], line, ())
        assert torch.allclose(logits[line].float(), truth.to(dtype).float(), atol=1e-6)


def test_a_prompts_tail_in_the_block_is_no_generated_token() -> None:
    canvas = canvas_of([[1, 1, 5, None]], given=2)
    editor = Edits(canvas, VOCAB)
    open_row(editor, 0, DecodingParams(frequency_penalty=1.0), [1, 1], [])
    logits = torch.zeros(1, VOCAB)
    apply(editor, [work(0, 0)], [1], torch.tensor([3]), logits)
    assert logits.tolist() == [[-1.0 if token == 5 else 0.0 for token in range(VOCAB)]]


def test_tokens_are_counted_once_and_a_new_request_starts_anew() -> None:
    canvas = canvas_of([[None] * 4])
    editor = Edits(canvas, VOCAB)

    def edited() -> list[float]:
        logits = torch.zeros(4, VOCAB)
        apply(editor, [work(0, 8)], [4], torch.arange(4), logits)
        return logits[3].tolist()

    open_row(editor, 0, DecodingParams(frequency_penalty=1.0), [0], [])
    open_block(editor, 0, [5, 5])
    open_block(editor, 0, [5, 5, 6])
    assert edited() == [{5: -2.0, 6: -1.0}.get(token, 0.0) for token in range(VOCAB)]
    open_row(editor, 0, DecodingParams(frequency_penalty=1.0), [0], [])
    assert edited() == [0.0] * VOCAB


def test_a_vocabulary_of_several_parts() -> None:
    size = 40_000
    canvas = canvas_of([[None] * 4])
    editor = Edits(canvas, size)
    open_row(editor, 0, DecodingParams(logit_bias={39_999: 3.0, 16_384: -100.0}, repetition_penalty=2.0), [20_000], [])
    logits = torch.full((4, size), 4.0)
    apply(editor, [work(0, 8)], [4], torch.arange(4), logits)
    assert logits[2, [0, 16_383, 16_384, 20_000, 39_999]].tolist() == [4.0, 4.0, -math.inf, 2.0, 7.0]


def test_logprobs_leave_the_mask_out_and_agree_with_themselves() -> None:
    logits = torch.tensor([[1.0, 2.0, 9.0, 0.0], [3.0, 3.0, 0.0, 1.0]])
    found = token_logprobs(logits, torch.tensor([1, 0]), mask_token_id=2, top=3)
    assert found.shape == (2, 7)
    assert found[0, 1:4].tolist() == [1, 0, 3]
    assert found[0, 0] == found[0, 4] == pytest.approx(2 - math.log(math.exp(1) + math.exp(2) + 1), abs=1e-6)
    assert found[1, 0] == found[1, 4] == found[1, 5]
    assert found[:, 4:].exp().sum(-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert logits[0, 2] == 9.0
    assert token_logprobs(logits, torch.tensor([1, 0]), mask_token_id=99, top=0).shape == (2, 1)
