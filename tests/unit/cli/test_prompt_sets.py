"""Prompts of files."""

import json
from pathlib import Path

import pytest

from cdlm.cli.bench.prompts import Prompt, PromptError, read_prompts

SHAREGPT = {
    "id": "a",
    "conversations": [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Who?"},
        {"from": "gpt", "value": "Me."},
        {"from": "human", "value": "Why?"},
    ],
}
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]


def test_lines_of_every_form(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    items = ["a", {"prompt": "b"}, {"prompt": "c", "max_tokens": 7}, {"prompt": "d", "output_tokens": 8}, SHAREGPT]
    file.write_text("\n\n".join(map(json.dumps, items)))
    prompts = read_prompts(file, "completions")
    assert [prompt.content for prompt in prompts] == ["a", "b", "c", "d", "Who?"]
    assert [prompt.max_tokens for prompt in prompts] == [None, None, 7, 8, None]
    assert prompts[2].fields("completions") == {"prompt": "c", "max_tokens": 7}
    assert prompts[4].fields("chat") == {"messages": [{"role": "user", "content": "Who?"}]}


def test_an_array_is_a_file_of_sharegpt(tmp_path: Path) -> None:
    file = tmp_path / "sharegpt.json"
    file.write_text(json.dumps([SHAREGPT, SHAREGPT], indent=1))
    assert read_prompts(file, "completions") == [Prompt("Who?")] * 2


def test_messages_are_for_chats(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": MESSAGES}))
    assert read_prompts(file, "chat")[0].fields("chat") == {"messages": MESSAGES}
    with pytest.raises(PromptError, match="line 1: messages need --endpoint chat"):
        read_prompts(file, "completions")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompt"),
        ('"a"\nb\n', "line 2 is not JSON"),
        ('["a", "b"\n', "line 1 is not JSON"),
        ("3", "line 1: expected a text or an object"),
        ('["a", 3]', "item 2: expected a text or an object"),
        ('{"text": "a"}', "line 1: expected a text or an object"),
        ('{"prompt": ""}', "line 1: prompt holds no text"),
        ('{"prompt": [1, 2]}', "line 1: prompt holds no text"),
        ('{"conversations": [{"from": "gpt", "value": "Hi"}]}', "line 1: conversations holds no text"),
        ('{"conversations": 3}', "line 1: conversations holds no text"),
        ('{"messages": []}', "line 1: expected"),
        ('{"prompt": "a", "max_tokens": 0}', "line 1: max_tokens must be a whole number above 0, not 0"),
        ('{"prompt": "a", "max_tokens": true}', "max_tokens"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(PromptError, match=message):
        read_prompts(file, "completions")
    with pytest.raises(PromptError, match=r"words, functions, random.*nowhere"):
        read_prompts(tmp_path / "nowhere", "completions")
