"""What ships: the bundled student's size, tokenizer and context."""

from hypothesis import given
from hypothesis import strategies as st

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.pretraining.tokenizer import FILLING

TOKENIZER = load_tokenizer(BUNDLED_STUDENT)


def test_it_is_small() -> None:
    parameters = sum(p.numel() for p in load_checkpoint(BUNDLED_STUDENT).transformer.parameters())
    assert parameters <= 8_000_000
    assert sum(path.stat().st_size for path in BUNDLED_STUDENT.iterdir()) <= 20_000_000


def test_tokenizer_and_manifest_agree() -> None:
    checkpoint = load_checkpoint(BUNDLED_STUDENT)
    assert checkpoint.manifest.block_length == 32
    assert checkpoint.manifest.mask_token_id == TOKENIZER.mask_token_id
    assert checkpoint.manifest.stop_token_ids == (TOKENIZER.eos_token_id,)
    assert len(TOKENIZER) == checkpoint.transformer.config.vocab_size


@given(st.text(st.characters(exclude_characters=FILLING, exclude_categories=["Cs"]), max_size=40))
def test_any_text_encodes_and_comes_back(text: str) -> None:
    ids = TOKENIZER.backend_tokenizer.encode(text).ids
    assert TOKENIZER.backend_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_digits_are_split_and_small_numbers_stand_in_columns() -> None:
    equals, filling = TOKENIZER.tokenize("x="), TOKENIZER.tokenize(FILLING)
    assert TOKENIZER.tokenize("x=1234") == [*equals, "1", "2", "3", "4"]
    assert TOKENIZER.tokenize("x=12") == [*equals, *filling, "1", "2"]


def test_teacher_and_autoregressive_model_have_its_tokenizer() -> None:
    for other in ("teacher", "autoregressive"):
        directory = BUNDLED_STUDENT.with_name(f"{BUNDLED_STUDENT.name}-{other}")
        assert load_tokenizer(directory).get_vocab() == TOKENIZER.get_vocab()
