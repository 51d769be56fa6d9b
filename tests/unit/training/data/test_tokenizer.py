"""Nano's tokenizer writes numbers in columns, and gives back exactly the text it was given."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from cdlm.training.data.mixture import draw_problems
from cdlm.training.pretraining.tokenizer import FILLING, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(
        directory, vocab_size=400, samples=200, seed=1, weights={"words": 0.5, "functions": 0.5}, max_length=512
    )


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "12",
        "385+40=425",
        "1024 and 20481, not 3.14 or 1,204",
        "def f_2_12(n):\n    return n % 2 == 0",
        "Z\u00fcrich \u2603 \U0001f600 x1y22z333",
        "  two  spaces\t\n",
    ],
)
def test_text_comes_back_as_it_was(tokenizer, text) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_problems_come_back_as_they_were(tokenizer) -> None:
    for task in ("words", "functions"):
        for problem in draw_problems(task, 50, 3, "development"):
            for text in (problem.prompt, problem.completion):
                assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("number", ["0", "7", "10", "99", "100", "999"])
def test_a_number_below_a_thousand_takes_three_tokens(tokenizer, number) -> None:
    ids = tokenizer.encode(f"{number}+", add_special_tokens=False)[:-1]
    assert len(ids) == 3
    filling = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(FILLING))[0]
    digits = tokenizer.convert_tokens_to_ids(list(number))
    assert ids == [filling] * (3 - len(digits)) + digits


def test_larger_numbers_take_a_token_a_digit(tokenizer) -> None:
    assert len(tokenizer.encode("2048", add_special_tokens=False)) == 4
