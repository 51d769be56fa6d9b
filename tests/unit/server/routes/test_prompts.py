"""What shapes a prompt: chats that are continued, variables and templates of requests; /tokenize counts the same."""

from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from cdlm.server.text import TextCodec
from cdlm.server.text.template import Chat, ChatTemplate
from tests.support.server.bench import Bench
from tests.support.server.fakes import ASSISTANT, EOS, USER, make_tokenizer

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
SOURCE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}{% for m in messages %}"
    "{{ '<|assistant|>' if m.role == 'assistant' else '<|user|>' }}{{ m.content|trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is false %}no{% endif %}{% endif %}{{ more }}"
)
HELLO = {"role": "user", "content": "hello"}
BEGUN = {"role": "assistant", "content": "well, "}
TOOL = {"type": "function", "function": {"name": "f", "description": "d"}}
OTHER = "{{ messages[0].content }}{{ eos_token }}"


@pytest.fixture
def chatty(bench: Bench) -> Bench:
    template = ChatTemplate(SOURCE, {"eos_token": EOS})
    bench.services.codec = bench.codec = TextCodec(make_tokenizer(bos=True), template, {"eos_token": EOS})
    return bench


async def prompt(bench: Bench, **fields: Any) -> str:
    response = await bench.post(PATH, {"messages": [HELLO, BEGUN], "max_tokens": 2} | fields)
    assert response.status_code == 200, response.text
    ids = bench.engine.requests[-1].prompt_ids
    assert response.json()["usage"]["prompt_tokens"] == len(ids)
    return bench.codec.decode(ids, keep_special=True)


async def refused(bench: Bench, path: str = PATH, **fields: Any) -> tuple[str, str]:
    response = await bench.post(path, {"messages": [HELLO, BEGUN]} | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return error["param"], error["message"]


async def test_a_last_message_is_continued(chatty: Bench) -> None:
    whole = f"{USER}hello{EOS}{ASSISTANT}well,{EOS}"
    assert await prompt(chatty) == whole + ASSISTANT
    assert await prompt(chatty, add_generation_prompt=False) == whole
    continued = f"{USER}hello{EOS}{ASSISTANT}well,"
    assert await prompt(chatty, continue_final_message=True) == continued
    assert await prompt(chatty, continue_final_message=True, add_generation_prompt=False) == continued
    question = [HELLO, HELLO | {"content": "and"}]
    assert await prompt(chatty, continue_final_message=True, messages=question) == f"{USER}hello{EOS}{USER}and"
    empty = [HELLO, {"role": "assistant"}]
    assert await prompt(chatty, continue_final_message=True, messages=empty) == f"{USER}hello{EOS}{ASSISTANT}"


@pytest.mark.parametrize("content", ["well", "well, ", " \n", "", "a<|user|>b", "CONTINUE_FINAL_MESSAGE_TAG "])
@pytest.mark.parametrize("trimmed", ["m.content|trim", "m.content", "'x' + m.content"])
async def test_continued_as_transformers_does(trimmed: str, content: str) -> None:
    source = SOURCE.replace("m.content|trim", trimmed)
    messages = [HELLO, BEGUN | {"content": content}]
    [[expected], _] = render_jinja_template(
        [messages], chat_template=source, continue_final_message=True, add_generation_prompt=False, eos_token=EOS
    )
    text = ChatTemplate(source, {"eos_token": EOS}).render(
        Chat(messages, add_generation_prompt=False, continue_final_message=True)
    )
    assert text.plain() == expected


async def test_what_cannot_be_continued_is_refused(chatty: Bench) -> None:
    for path in (PATH, "/tokenize"):
        param, message = await refused(chatty, path, continue_final_message=True, add_generation_prompt=True)
        assert (param, "add_generation_prompt" in message) == ("continue_final_message", True)
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        called = [HELLO, {"role": "assistant", "tool_calls": [call]}]
        param, message = await refused(chatty, path, continue_final_message=True, messages=called)
        assert (param, "tool_calls" in message) == ("continue_final_message", True)
    template = ChatTemplate("{{ messages[0].content }}")
    chatty.services.codec = TextCodec(make_tokenizer(), template)
    assert "leaves out the end of the last message" in (await refused(chatty, continue_final_message=True))[1]


async def test_variables_of_a_template(chatty: Bench) -> None:
    base = await prompt(chatty)
    assert await prompt(chatty, chat_template_kwargs={"enable_thinking": False}) == base + "no"
    assert await prompt(chatty, chat_template_kwargs={"enable_thinking": True, "unused": [1, {"a": None}]}) == base
    assert await prompt(chatty, chat_template_kwargs={}) == base
    # A client's text stays text there too.
    assert await prompt(chatty, chat_template_kwargs={"more": USER}) == base + USER
    assert chatty.engine.requests[-1].prompt_ids[-1] != 2
    response = await chatty.post("/v1/responses", {"input": "hi", "chat_template_kwargs": {"enable_thinking": False}})
    assert response.status_code == 200
    assert chatty.codec.decode(chatty.engine.requests[-1].prompt_ids).endswith("no")
    for path in (PATH, "/tokenize"):
        for name in ("messages", "tools", "add_generation_prompt", "chat_template", "tokenize"):
            param, message = await refused(chatty, path, chat_template_kwargs={name: "x"})
            assert (param, f"'{name}'" in message) == ("chat_template_kwargs", True)


async def test_a_request_s_own_template_needs_a_flag(chatty: Bench, make_bench: Callable[..., Bench]) -> None:
    for path in (PATH, "/tokenize"):
        param, message = await refused(chatty, path, chat_template=OTHER)
        assert (param, "--trust-request-chat-template" in message) == ("chat_template", True)
    trusting = make_bench(trust_request_chat_template=True)
    trusting.services.codec = trusting.codec = chatty.codec
    async with trusting.client:
        assert await prompt(trusting, chat_template=OTHER) == "hello" + EOS
        assert trusting.engine.requests[-1].prompt_ids[-1] == 1
        assert await prompt(trusting, chat_template=OTHER, messages=[HELLO | {"content": EOS}]) == EOS + EOS
        assert trusting.engine.requests[-1].prompt_ids[-2:][0] != 1
        for path in (PATH, "/tokenize"):
            for source, reason in [
                ("{% for %}", "is no valid Jinja"),
                ("{{ messages.__class__.__mro__ }}", "SecurityError"),
                ("{{ 1 / 0 }}", "ZeroDivisionError"),
            ]:
                param, message = await refused(trusting, path, chat_template=source)
                assert (param, reason in message) == ("chat_template", True)
        # Where the model has none.
        trusting.services.codec = trusting.codec = TextCodec(make_tokenizer())
        assert await prompt(trusting, chat_template="{{ messages[0].content }}") == "hello"


CHATS: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant"]), "content": st.sampled_from(["a", "b c "])}
        ),
        min_size=1,
        max_size=3,
    ),
    "tools": st.lists(st.just(TOOL), max_size=1),
    "tool_choice": st.sampled_from(["none", "auto"]),
    "add_generation_prompt": st.booleans(),
    "continue_final_message": st.just(False),
    "chat_template_kwargs": st.sampled_from([{}, {"enable_thinking": False}, {"more": " and more"}]),
    "add_special_tokens": st.booleans(),
    "chat_template": st.sampled_from([OTHER, SOURCE]),
}
PROMPTS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.sampled_from(["a", "hello <|user|> there", [5, 6, 7]]),
    "add_special_tokens": st.booleans(),
}


def some(fields: dict[str, st.SearchStrategy[Any]], always: str) -> st.SearchStrategy[dict[str, Any]]:
    optional = {name: value for name, value in fields.items() if name != always}
    return st.fixed_dictionaries({always: fields[always]}, optional=optional)


NOW_CONTINUED = {"continue_final_message": True, "add_generation_prompt": False, "chat_template": SOURCE}
CONTINUED = some(CHATS, "messages").map(lambda body: body | NOW_CONTINUED)


@given(body=some(CHATS, "messages") | CONTINUED | some(PROMPTS, "prompt"))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokenize_counts_what_a_request_uses(make_bench: Callable[..., Bench], body: dict[str, Any]) -> None:
    async def compare() -> None:
        bench = make_bench(trust_request_chat_template=True)
        assert bench.engine.ready is not None
        bench.engine.ready = msgspec.structs.replace(bench.engine.ready, max_model_len=2048, num_pages=512)
        template = ChatTemplate(SOURCE, {"eos_token": EOS})
        bench.services.codec = TextCodec(TOKENIZER, template, {"eos_token": EOS})
        path = PATH if "messages" in body else "/v1/completions"
        async with bench.client:
            answer = await bench.post(path, body | {"max_tokens": 1})
            counted = await bench.post("/tokenize", body)
        assert (answer.status_code, counted.status_code) == (200, 200), (answer.text, counted.text)
        assert counted.json()["count"] == answer.json()["usage"]["prompt_tokens"]
        assert counted.json()["tokens"] == bench.engine.requests[-1].prompt_ids

    anyio.run(compare)


TOKENIZER = make_tokenizer(bos=True)


async def test_tokenize_takes_what_shapes_a_completion(chatty: Bench) -> None:
    for body in [
        {"prompt": "hello", "suffix": " there"},
        {"prompt": "hello", "suffix": "", "add_special_tokens": False},
    ]:
        await chatty.complete(**body)
        counted = (await chatty.post("/tokenize", body)).json()
        assert counted["tokens"] == chatty.engine.requests[-1].prompt_ids
    shown = (await chatty.post("/tokenize", {"prompt": "hello", "return_token_strs": True})).json()
    assert shown["token_strs"] == [EOS, "hello"]
    assert "token_strs" not in (await chatty.post("/tokenize", {"prompt": "hello"})).json()
    ids = (await chatty.post("/tokenize", {"prompt": [4, 5], "return_token_strs": True})).json()
    assert (ids["tokens"], ids["count"], len(ids["token_strs"])) == ([4, 5], 2, 2)
    for body, param in [
        ({"prompt": "a", "messages": [HELLO]}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "tools": [TOOL]}, "tools"),
        ({"prompt": "a", "continue_final_message": True}, "continue_final_message"),
        ({"messages": [HELLO], "suffix": "x"}, "suffix"),
        ({"prompt": [4], "suffix": "x"}, "suffix"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"messages": [HELLO], "tools": [TOOL, TOOL]}, "tools"),
        ({"messages": [HELLO], "tool_choice": "required"}, "tool_choice"),
    ]:
        response = await chatty.post("/tokenize", body)
        assert response.status_code == 400, response.text
        assert (response.json()["error"]["param"] or "").startswith(param), response.text
