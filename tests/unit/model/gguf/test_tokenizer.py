"""Text is cut into words as the published tokenizers of each kind cut it."""

from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import Qwen2Tokenizer

from cdlm.model.gguf.file import GgufFile
from cdlm.model.gguf.tokenizer import build_tokenizer
from tests.support.models import hf_block_checkpoints
from tests.support.models.gguf_files import write_gguf

MERGES = [("1", "2"), ("12", "3"), ("Ġ", "1"), ("'", "s"), ("l", "l"), ("Ġ", "Ġ"), (".", "Ċ"), ("3", "4")]
TEXTS = [
    "Hello world, it's 12345 o'clock; I'LL pay 3.14 EUR.",
    "def f(x):\n\treturn x**2  # ünïcödé\n\n\n  end",
    "日本語のテキスト ½ ² ٣٤ Ⅷ 10,000",
    "   leading and trailing   \r\n \r\n",
    "a" * 40 + "!!!???\n\n--",
    "e\u0301 is é, \ufb01 is a ligature",
]


def trained(cut: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """A small vocabulary in which many merges cross what only some kinds cut."""
    merges, pieces = [], sorted(pre_tokenizers.ByteLevel.alphabet())
    for left, right in (
        ("1", "2"),
        ("12", "3"),
        ("Ġ", "1"),
        ("'", "s"),
        ("l", "l"),
        ("Ġ", "Ġ"),
        (".", "Ċ"),
        ("3", "4"),
    ):
        merges.append((left, right))
        pieces.append(left + right)
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = cut
    return tokenizer


def rebuilt(directory: Path, tokenizer: Tokenizer, pre: str) -> Tokenizer:
    rows = tokenizer.get_vocab_size()
    hf_block_checkpoints.build(directory / pre, "llama", vocab_size=rows, eos_token_id=0)
    return build_tokenizer(GgufFile(write_gguf(directory / pre, directory / f"{pre}.gguf", tokenizer, pre=pre)))


def assert_equal(found: Tokenizer, expected: Tokenizer) -> None:
    for text in TEXTS:
        assert found.encode(text).ids == expected.encode(text).ids, text


def test_smollm_cuts_numbers_into_digits_and_words_as_gpt2(tmp_path: Path) -> None:
    cut = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    expected = trained(pre_tokenizers.Sequence(cut))
    assert_equal(rebuilt(tmp_path, expected, "smollm"), expected)


def test_qwen2_is_the_tokenizer_of_transformers(tmp_path: Path) -> None:
    plain = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    reference = Qwen2Tokenizer(vocab=plain.get_vocab(), merges=MERGES)
    assert_equal(rebuilt(tmp_path, plain, "qwen2"), reference.backend_tokenizer)


def test_llama_bpe_cuts_numbers_into_threes(tmp_path: Path) -> None:
    published = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    cut = [
        pre_tokenizers.Split(published, behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    expected = trained(pre_tokenizers.Sequence(cut))
    expected.model.ignore_merges = True
    assert_equal(rebuilt(tmp_path, expected, "llama-bpe"), expected)


@pytest.mark.parametrize("pre", ["smollm", "qwen2", "llama-bpe"])
def test_kinds_differ_on_these_texts(tmp_path: Path, pre: str) -> None:
    """Otherwise the tests above could not fail."""
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    found = rebuilt(tmp_path, tokenizer, pre)
    assert any(found.encode(text).ids != tokenizer.encode(text).ids for text in TEXTS)
