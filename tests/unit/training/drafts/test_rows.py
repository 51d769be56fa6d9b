import random

import torch

from cdlm.training.batches.rows import Example
from cdlm.training.drafts.rows import DraftRows, can_draft, draft_rows

EXAMPLES = [Example([1, 2, 3], [4, 5, 6, 7, 8, 9]), Example([1], [2, 3])]


def test_masked_rows_see_the_text_up_to_their_known_token_and_no_row_behind_them() -> None:
    rows = DraftRows(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, 1]]), torch.ones(1, 2, 2, dtype=torch.bool), 2)
    expected = [
        "1000 1000",
        "1000 1100",
        "1100 0010",
        "1100 0011",
    ]
    found = ["".join(str(int(seen)) for seen in row) for row in rows.mask[0]]
    assert found == [line.replace(" ", "") for line in expected]
    assert rows.positions.tolist() == [[[1, 2], [2, 3]]]


def test_rows_are_asked_where_the_text_has_their_next_token() -> None:
    # The text 0 1 2 3: the row at position 2 predicts 3, the row at 3 has nothing to predict.
    rows = draft_rows([Example([0, 1], [2, 3])], window=3, groups=2, pad_id=9, rng=random.Random(0))
    assert rows.known.tolist() == [[1, 1]]
    assert rows.asked.tolist() == [[[True, False, False]] * 2]
    assert can_draft(Example([0, 1], [2, 3]))
    assert not can_draft(Example([0, 1], [2]))


def test_known_tokens_are_the_last_of_the_prompt_or_of_the_answer() -> None:
    rng = random.Random(1)
    seen: list[set[int]] = [set(), set()]
    for _ in range(200):
        rows = draft_rows(EXAMPLES, window=4, groups=4, pad_id=9, rng=rng)
        assert rows.token_ids.tolist() == [[*range(1, 10)], [1, 2, 3, 9, 9, 9, 9, 9, 9]]
        assert rows.asked[..., 0].all()  # No group is without a row that learns.
        for row, known in enumerate(rows.known.tolist()):
            seen[row] |= set(known)
    assert seen == [{2, 3, 4, 5, 6}, {0}]


def test_the_second_group_of_a_pair_begins_inside_the_first_ones_window() -> None:
    rng = random.Random(2)
    steps = set()
    for _ in range(200):
        rows = draft_rows([Example([0], [*range(1, 30)])], window=4, groups=6, pad_id=9, rng=rng)
        for first, second in zip(rows.known[0, ::2].tolist(), rows.known[0, 1::2].tolist(), strict=True):
            if first < 27:
                steps.add(second - first)
    assert steps == {1, 2, 3}


def test_pairs_are_rows_at_the_same_position_with_more_and_with_less_known() -> None:
    asked = torch.ones(1, 4, 3, dtype=torch.bool)
    asked[0, 3, 2] = False
    rows = DraftRows(torch.arange(12)[None], torch.tensor([[2, 3, 6, 7]]), asked, 3)
    # Groups stand at 3 4 5, 4 5 6, 7 8 9 and 8 9 10; flat indices count through them.
    assert [index.tolist() for index in rows.pairs()] == [[1, 2, 7, 8], [3, 4, 9, 10]]
    asked[0, 3, 1] = False
    assert [index.tolist() for index in rows.pairs()] == [[1, 2, 7], [3, 4, 9]]
