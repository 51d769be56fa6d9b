"""User text never becomes a special token, in prompts and in chats."""

import asyncio

import pytest

from cdlm.server.errors import ApiError
from cdlm.server.openai.protocol.body import parse_json
from cdlm.server.text import Chat, TextCodec
from tests.support.server.fakes import ASSISTANT, EOS, MASK, TEMPLATE, USER, make_tokenizer

pytestmark = pytest.mark.anyio

SPECIAL = [MASK, EOS, USER, ASSISTANT]


@pytest.mark.parametrize("literal", SPECIAL)
async def test_literal_special_tokens_are_text(codec: TextCodec, literal: str) -> None:
    (ids,) = await codec.encode([f"a {literal} b"], 1000)
    assert not set(ids) & {0, 1, 2, 3}
    assert codec.decode(ids) == f"a {literal} b"


@pytest.mark.parametrize("literal", SPECIAL)
async def test_messages_cannot_inject_special_tokens(codec: TextCodec, literal: str) -> None:
    message = {"role": "user", "content": f"  x{literal}y\u00e9 "}
    ids = await codec.encode_chat(Chat([message]), 1000)
    assert [token for token in ids if token < 4] == [2, 3]
    assert codec.decode(ids, keep_special=True) == f"{USER}x{literal}y\u00e9\n{ASSISTANT}"


async def test_a_chat_without_literals_equals_plain_encoding(codec: TextCodec) -> None:
    chat = Chat([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "there <b>"}])
    tokenizer = make_tokenizer()
    assert await codec.encode_chat(chat, 1000) == tokenizer.encode(TEMPLATE.render(chat).plain()).ids


async def test_prompts_get_what_the_tokenizer_adds() -> None:
    codec = TextCodec(make_tokenizer(bos=True), TEMPLATE)
    assert (await codec.encode(["hi"], 10))[0][0] == 1
    assert (await codec.encode_chat(Chat([{"role": "user", "content": "hi"}]), 10))[0] == 2


async def test_far_too_long_text_is_refused_without_encoding(codec: TextCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*_: object, **__: object) -> None:
        raise AssertionError("it was encoded")

    monkeypatch.setattr(type(codec._encoder), "encode", encode)
    with pytest.raises(ApiError) as caught:
        await codec.encode(["a b" * 3_000_000], 2048)
    assert caught.value.code == "context_length_exceeded"


async def test_the_loop_runs_while_long_text_is_encoded(codec: TextCodec) -> None:
    encoding = asyncio.create_task(codec.encode(["hello world, what is this " * 20_000], 10**9))
    turns = 0
    while not encoding.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 5


async def test_no_template_is_a_client_error() -> None:
    with pytest.raises(ApiError) as caught:
        await TextCodec(make_tokenizer()).encode_chat(Chat([{"role": "user", "content": "x"}]), 10)
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_lone_surrogates_become_replacement_characters() -> None:
    assert parse_json(rb'{"a\ud800": ["\ud800x", "\ud83d\ude00"]}') == {"a\ufffd": ["\ufffdx", "\U0001f600"]}
