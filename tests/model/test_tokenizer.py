"""The tokenizers of the Hugging Face formats load from their own files, and no code of a checkpoint runs."""

from pathlib import Path
from typing import Any

import pytest

from model.config import CheckpointError
from model.tokenizer import load_tokenizer
from tests.hf_checkpoints import EOS, MASK, VOCAB, build_dream, build_llada


@pytest.mark.parametrize("build", [build_dream, build_llada])
def test_text_special_tokens_and_templates(
    tmp_path: Path, build: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(build(tmp_path))
    ids = tokenizer.encode("hello <|mask|>world", add_special_tokens=True)
    assert (ids[0], ids[2], len(tokenizer)) == (VOCAB - 5, MASK, VOCAB)  # One merged word, nothing before it.
    assert tokenizer.decode(ids) == "hello <|mask|>world"
    assert tokenizer.eos_token_id == EOS
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert "hi" in str(text)
    assert not capfd.readouterr().err
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")  # Of transformers about the config.
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = build_dream(tmp_path) / "tokenizer_config.json"
    (tmp_path / "tokenization_dream.py").write_text("raise SystemExit('ran')")
    assert load_tokenizer(tmp_path).eos_token_id == EOS
    path.write_text(path.read_text().replace('"DreamTokenizer"', '"SomeTokenizer"'))
    with pytest.raises(CheckpointError, match="cannot load the tokenizer"):
        load_tokenizer(tmp_path)


def test_an_unreadable_configuration_is_named(tmp_path: Path) -> None:
    (build_dream(tmp_path) / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: cannot be read"):
        load_tokenizer(tmp_path)
