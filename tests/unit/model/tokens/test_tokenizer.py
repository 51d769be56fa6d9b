"""The tokenizers of the Hugging Face formats load from their own files, and no code of a checkpoint runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from cdlm.model.config import CheckpointError
from cdlm.model.tokens.tokenizer import load_tokenizer
from tests.support.models.hf_checkpoints import EOS, MASK, VOCAB, build_dream, build_llada


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


def without_template(directory: Path) -> Path:
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["chat_template"]
    path.write_text(json.dumps(config))
    return directory


CHAT = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]


def test_directories_without_a_template_have_that_of_their_format(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(without_template(build_dream(tmp_path / "dream")))
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    llada = without_template(build_llada(tmp_path / "llada"))
    assert load_tokenizer(llada).chat_template is None  # Its vocabulary has not all of the template's special tokens.
    vocabulary = Tokenizer.from_file(str(llada / "tokenizer.json"))
    vocabulary.add_special_tokens(["<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    vocabulary.save(str(llada / "tokenizer.json"))
    assert load_tokenizer(llada).apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == (
        "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nbe<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_a_template_from_a_file_replaces_the_checkpoint_s(tmp_path: Path) -> None:
    directory, path = build_dream(tmp_path / "model"), tmp_path / "chat.jinja"
    path.write_text("{% for message in messages %}[{{ message['content'] }}]{% endfor %}")
    assert load_tokenizer(directory, path).apply_chat_template(CHAT, tokenize=False) == "[be][hi]"
    for content, reason in [
        ("{% for %}", "line 1"),
        ("{{ raise_exception('no users') }}", "refuses one message of a user: no users"),
        ("{{ messages.__class__.__mro__ }}", "refuses one message of a user: access to attribute"),
        ("{{ messages[0].content + 1 }}", "fails on one message of a user: TypeError"),
        (None, "cannot be read"),
    ]:
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        with pytest.raises(CheckpointError, match=rf"chat\.jinja: {reason}"):
            load_tokenizer(directory, path)
