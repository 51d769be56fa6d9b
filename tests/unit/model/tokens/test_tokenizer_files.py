"""Whatever stands in the files of a tokenizer: it loads, or the reason is one line that names the folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from cdlm.model.backbones.token_names import read_token_names
from cdlm.model.config import CheckpointError
from cdlm.server.text import TextCodec, TextError
from tests.support.server.tokenizer_kinds import byte_level

STORED = json.loads(byte_level().to_str())
CONFIG: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
ODD: list[Any] = [None, 5, "x", [], {}, [None], ["a"], [[]], [["a"]], [{}], {"a": None}, {"a": "1"}, {"a": 1.5},
                  [{"id": 3}], [{"content": "a"}], [{"content": "a", "id": "7"}], {"default": None}]  # fmt: skip


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def attempt(folder: Path) -> None:
    for load in (lambda: read_token_names(folder).check_fits(600, folder), lambda: TextCodec.load(folder)):
        try:
            load()
        except (CheckpointError, TextError) as error:
            reason = str(error)
        else:
            continue
        assert reason.startswith(str(folder))
        assert "\n" not in reason


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("member", ["added_tokens", "model", "vocab", "merges", "type", "normalizer", "decoder"])
def test_odd_members_of_the_tokenizer(member: str, value: object, tmp_path: Path) -> None:
    inside = member in ("vocab", "merges", "type")
    write(
        tmp_path,
        "tokenizer.json",
        STORED | ({"model": STORED["model"] | {member: value}} if inside else {member: value}),
    )
    write(tmp_path, "tokenizer_config.json", CONFIG)
    attempt(tmp_path)


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize(
    "member", ["eos_token", "added_tokens_decoder", "chat_template", "extra_special_tokens", "tokenizer_class"]
)
def test_odd_members_of_its_configuration(member: str, value: object, tmp_path: Path) -> None:
    write(tmp_path, "tokenizer.json", STORED)
    write(tmp_path, "tokenizer_config.json", CONFIG | {member: value})
    attempt(tmp_path)


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", ["tokenizer.json", "added_tokens.json", "special_tokens_map.json", "vocab.json"])
def test_odd_files(name: str, value: object, tmp_path: Path) -> None:
    if name != "vocab.json":
        write(tmp_path, "tokenizer.json", STORED)
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"} if name == "vocab.json" else CONFIG)
    (tmp_path / "merges.txt").write_text("")
    write(tmp_path, name, value)
    attempt(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"added_tokens": [{"content": "a", "id": "7"}]}, "tokenizer.json: the token 'a' has the id '7', which is no"),
        ({"added_tokens": [{"id": 3}]}, "tokenizer.json: a token of added_tokens has no content that is a text"),
        ({"added_tokens": ["a"]}, "tokenizer.json: added_tokens is no list of objects"),
        ({"model": {"vocab": [["a", 0.5], []]}}, "tokenizer.json: model.vocab is no list of texts with scores"),
        ({"model": {"vocab": {"a": None}}}, "tokenizer.json: the token 'a' has the id None"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    write(tmp_path, "tokenizer.json", STORED | changes)
    with pytest.raises(CheckpointError, match=reason):
        read_token_names(tmp_path)
