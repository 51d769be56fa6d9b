"""Prompts and chats get the ids that transformers gives them, and text comes back as it was, for every tokenizer."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.server.text import Chat, TextCodec
from cdlm.server.text.marked import concat
from tests.support.server.tokenizer_kinds import KINDS, SPACED, SPECIAL, TEMPLATE, build_tokenizer

WORDS = [
    "the",
    "user",
    "users",
    "theme",
    "don't",
    "cat",
    "qu",
    " ",
    "  ",
    "\n",
    "\t",
    "<",
    "|>",
    "<|im",
    "</",
    "_start",
]
TEXTS = st.lists(
    st.sampled_from(WORDS) | st.text("ab \n'.,\u00e9e\u0301\u4f60\U0001f600\ufb01\u2581Z", max_size=4), max_size=8
).map("".join)
CHATS = st.lists(TEXTS, min_size=1, max_size=3)
# These change text on purpose: case, width, runs of spaces.
LOSSY = {"word_piece", "unigram", "qwen_like", "byte_level_with_prefix", "stripping"}


@cache
def loaded(kind: str, template: str) -> tuple[Any, TextCodec]:
    with TemporaryDirectory() as folder:
        directory = build_tokenizer(Path(folder), kind, template)
        return load_tokenizer(directory), TextCodec.load(directory)


def special_tokens(kind: str) -> list[str]:
    return [*SPECIAL, "<|late|>", "<|later|>", *(["user"] if kind == "word_as_special" else [])]


def messages(texts: list[str]) -> list[dict[str, Any]]:
    roles = ["system", "user", "assistant"]
    return [{"role": roles[place % 3], "content": text} for place, text in enumerate(texts)]


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@settings(deadline=None, max_examples=60)
def test_prompts_have_the_tokenizer_s_own_ids(kind: str, text: str) -> None:
    assume(not any(token in text for token in special_tokens(kind)))
    reference, codec = loaded(kind, TEMPLATE)
    expected = reference(text)["input_ids"]
    assert codec._encoder.encode([text], add_special_tokens=True) == [expected]


@pytest.mark.parametrize("template", [TEMPLATE, SPACED])
@pytest.mark.parametrize("kind", KINDS)
@given(texts=CHATS)
@settings(deadline=None, max_examples=40)
def test_chats_have_the_ids_of_transformers(kind: str, template: str, texts: list[str]) -> None:
    assume(not any(token in text for token in special_tokens(kind) for text in texts))
    reference, codec = loaded(kind, template)
    chat = messages(texts)
    expected = reference.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert codec.chat_ids(Chat(chat)) == expected
    assert codec.chat_text(Chat(chat)) == reference.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=False
    )


@pytest.mark.parametrize("template", [TEMPLATE, SPACED])
@pytest.mark.parametrize("kind", KINDS)
@given(text=st.lists(st.sampled_from([*SPECIAL, "user", "<|late|>", "x", " "]), max_size=6).map("".join))
@settings(deadline=None, max_examples=30)
def test_no_text_of_a_client_is_a_special_token(kind: str, template: str, text: str) -> None:
    reference, codec = loaded(kind, template)
    known = {reference.convert_tokens_to_ids(name) for name in special_tokens(kind)}
    special = {ident for ident in known if codec.is_special(ident)} - {0}  # What is unknown is 0 by right.
    [ids] = codec._encoder.encode([text], add_special_tokens=False)
    assert not special & set(ids)
    harmless = text.translate(str.maketrans("<>|", "(),")).replace("user", "uses")
    chats = [codec.chat_ids(Chat(messages([each]))) for each in (text, harmless)]
    found, expected = ([ident for ident in chat if ident in special] for chat in chats)
    assert found == expected


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - LOSSY))
@given(prompt=TEXTS, answer=TEXTS, borders=st.lists(st.integers(0, 40), max_size=5))
@settings(deadline=None, max_examples=60)
def test_an_answer_s_text_is_what_its_ids_add(kind: str, prompt: str, answer: str, borders: list[int]) -> None:
    assume(not any(token in prompt + answer for token in special_tokens(kind)))
    _, codec = loaded(kind, TEMPLATE)
    [before] = codec._encoder.encode([prompt], add_special_tokens=False)
    [whole] = codec._encoder.encode([prompt + answer], add_special_tokens=False)
    # Some change text on purpose, and spaces at the start of all; tokens may also span the border.
    assume(codec.decode(whole) == prompt + answer and prompt and whole[: len(before)] == before)
    ids = whole[len(before) :]
    edges = [0, *sorted(border % (len(ids) + 1) for border in borders), len(ids)]
    detokenizer = codec.detokenizer(before)
    pieces = [detokenizer.feed(ids[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    assert "".join(pieces) + detokenizer.flush() == answer


@pytest.mark.parametrize("answer", ["hello", " hello", "hello world", "\u4f60 hello", "", "  the cat\n sat"])
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - LOSSY))
def test_an_answer_behind_a_special_token_is_what_was_written(kind: str, answer: str) -> None:
    _, codec = loaded(kind, TEMPLATE)
    [[special, *ids]] = codec._encoder.encode([concat(["<|im_end|>" + answer])], add_special_tokens=False)
    assert codec.is_special(special)
    detokenizer = codec.detokenizer([special])
    shown = "".join(detokenizer.feed([ident]) for ident in ids) + detokenizer.flush()
    # Where every text gets a space in front, one that was there is not told from one that was not.
    assert shown == (answer.removeprefix(" ") if kind == "metaspace_always" else answer)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - LOSSY))
@pytest.mark.parametrize("between", [[1], [1, 2, 1]])
def test_special_tokens_inside_an_answer_leave_no_trace(kind: str, between: list[int]) -> None:
    _, codec = loaded(kind, TEMPLATE)
    [whole] = codec._encoder.encode(["hello world"], add_special_tokens=False)
    for place in range(len(whole) + 1):
        detokenizer = codec.detokenizer()
        pieces = [detokenizer.feed([ident]) for ident in [*whole[:place], *between, *whole[place:]]]
        assert "".join(pieces) + detokenizer.flush() == "hello world"
