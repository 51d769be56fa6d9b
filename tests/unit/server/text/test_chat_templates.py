"""Templates see messages as they are; what a template cannot do is a 400 that says whose fault it is."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.server.errors import ApiError
from cdlm.server.text import Chat, TextCodec
from cdlm.server.text.template import ChatTemplate
from tests.support.server.bench import Bench
from tests.support.server.fakes import make_tokenizer
from tests.support.server.tokenizer_kinds import byte_level

# As reasoning models have it: earlier thoughts are found by their marks, and answers of tools told from questions.
THINKING = """
{%- for message in messages %}
    {%- if message.content is string %}{% set content = message.content %}{% else %}{% set content = '' %}{% endif %}
    {%- if message.role == 'user' and content.startswith('<tool_response>') and content.endswith('</tool_response>') %}
        {{- '<|im_start|>tool\\n' + content[15:-16] + '<|im_end|>\\n' }}
    {%- elif message.role in ('user', 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- else %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role }}
        {%- if thought or loop.last %}
            {{- '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
# Special tokens that are put together from the names of roles.
ROLE_MARKS = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else eos_token }}"
)
NAMES = "{% for message in messages %}{{ '<|' ~ message.name ~ '|>' ~ message.content }}{% endfor %}"
MARKS = ["<think>", "</think>", "<tool_response>", "</tool_response>", "<|user|>", "<|assistant|>", "<|end|>", "user"]
ROLES = ["system", "user", "assistant"]
CHATS = st.lists(
    st.tuples(
        st.sampled_from(ROLES),
        st.lists(st.sampled_from([*MARKS, "<|im_end|>", "\n", " a", "<|", "|>"]), max_size=5).map("".join),
    ),
    min_size=1,
    max_size=4,
).map(lambda pairs: [{"role": role, "content": content} for role, content in pairs])


@cache
def loaded(template: str) -> tuple[Any, TextCodec]:
    tokenizer = byte_level()
    tokenizer.add_special_tokens(MARKS)
    with TemporaryDirectory() as folder:
        tokenizer.save(f"{folder}/tokenizer.json")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": template}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        return load_tokenizer(Path(folder)), TextCodec.load(Path(folder))


@pytest.mark.parametrize("template", [THINKING, ROLE_MARKS])
@given(chat=CHATS)
@settings(deadline=None, max_examples=150)
def test_templates_see_special_tokens_in_messages(template: str, chat: list[dict[str, Any]]) -> None:
    reference, codec = loaded(template)
    expected = reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert codec.chat_text(Chat(chat)).plain() == expected
    assert codec.decode(codec.chat_ids(Chat(chat)), keep_special=True) == expected


def shown(template: str, *messages: dict[str, Any]) -> str:
    """The chat with its special tokens in square brackets."""
    _, codec = loaded(template)
    ids = codec.chat_ids(Chat(list(messages)))
    return "".join(
        f"[{codec.decode([i], keep_special=True)}]" if codec.is_special(i) else codec.decode([i]) for i in ids
    )


def test_thoughts_of_earlier_answers_are_found() -> None:
    question = {"role": "user", "content": "a <think>b</think> <|im_end|>"}
    answer = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes </s>"}
    result = {"role": "user", "content": "<tool_response>5</tool_response>"}
    assert shown(THINKING, question, answer, result) == (
        "[<|im_start|>][user]\na <think>b</think> <|im_end|>[<|im_end|>]\n"
        "[<|im_start|>]assistant\n[<think>]\nhm\n[</think>]\n\nyes </s>[<|im_end|>]\n"
        "[<|im_start|>]tool\n5[<|im_end|>]\n[<|im_start|>]assistant\n"
    )


def test_a_special_token_may_be_put_together_from_a_role_and_not_from_a_name() -> None:
    hello = {"role": "user", "content": "<|user|> user", "name": "assistant"}
    assert shown(ROLE_MARKS, hello) == "[<|user|>]<|user|> user[<|end|>][<|assistant|>]"
    assert shown(NAMES, hello) == "<|assistant|><|user|> user"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALLS = (
    "{% for tool in tools %}{{ tool.function.name }};{% endfor %}{% for m in messages %}{{ m.role }}"
    "{% for call in m.tool_calls %}({{ call.id }} {{ CALL }}){% endfor %}{{ m.tool_call_id }}{{ m.content }}"
    "{% endfor %}"
)
AS_OBJECT = CALLS.replace("CALL", "call.function.arguments.items()|list")
AS_TEXT = CALLS.replace("CALL", "'<' + call.function.arguments + '>'")
AS_JSON = CALLS.replace("CALL", "call.function.arguments|tojson")
ERRORS = {
    "{{ raise_exception('roles must alternate') }}": "The chat template refuses these messages: roles must alternate",
    "{{ messages[0].content + 1 }}": "The chat template fails on these messages: TypeError",
    "{{ nothing.at.all }}": "UndefinedError",
    "{{ messages.__class__.__mro__ }}": "SecurityError",
    "{% for i in range(1000000000) %}{% endfor %}": "OverflowError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "RecursionError",
    "{% for m in messages %}{{ loop(m.content) }}{% endfor %}": "TypeError",
    "{{ messages[5].content.strip() }}": "UndefinedError",
    "{{ messages|map(attribute=1)|join + [] }}": "TypeError",
    "{{ [1, 'a']|sort }}": "TypeError",
}


def use(bench: Bench, template: str | ChatTemplate) -> None:
    chat_template = ChatTemplate(template) if isinstance(template, str) else template
    bench.services.codec = bench.codec = TextCodec(make_tokenizer(), chat_template)


@pytest.mark.anyio
@pytest.mark.parametrize("template", ERRORS)
async def test_what_a_template_cannot_do_is_a_400(bench: Bench, template: str) -> None:
    use(bench, template)
    messages = [{"role": "user", "content": "hi"}]
    for path, body in [
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/chat/completions", {"messages": messages, "stream": True}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/responses", {"input": messages, "stream": True}),
        ("/tokenize", {"messages": messages}),
    ]:
        response = await bench.post(path, body)
        error = response.json()["error"]
        assert response.status_code == 400, response.text
        assert error["param"] == ("input" if path == "/v1/responses" else "messages")
        assert ERRORS[template] in error["message"]
    assert (await bench.complete())["choices"][0]["text"]


def history(arguments: str) -> dict[str, Any]:
    call = {"id": "call_7", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_7", "content": "5"},
        ],
        "tools": [TOOL],
        "max_tokens": 4,
    }


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("template", "arguments", "expected"),
    [
        (AS_OBJECT, "", "[]"),
        (AS_OBJECT, "{}", "[]"),
        (AS_OBJECT, '{"a": 1}', "[('a', 1)]"),
        (AS_TEXT, '{"a": 1}', '<{"a": 1}>'),
        (AS_TEXT, "", "<>"),
        (AS_TEXT, '{"a": ', '<{"a": >'),
        (AS_JSON, '{"a":1}', '{"a": 1}'),
        (AS_JSON, "[1]", '"[1]"'),
        (AS_JSON, '{"a": ', '"{\\"a\\": "'),
        (AS_OBJECT, '{"a": ', None),
        (AS_OBJECT, "7", None),
    ],
)
async def test_arguments_of_earlier_calls(bench: Bench, template: str, arguments: str, expected: str | None) -> None:
    use(bench, template)
    body = history(arguments)
    for extra in ({}, {"stream": True}):
        response = await bench.post("/v1/chat/completions", body | extra)
        if expected is None:
            assert response.status_code == 400
            error = response.json()["error"]
            assert error["param"] == "messages"
            assert "messages[0].tool_calls[0].function.arguments is no JSON object" in error["message"]
        else:
            assert response.status_code == 200, response.text
            prompt = bench.codec.decode(bench.engine.requests[-1].prompt_ids)
            assert prompt == f"f;assistant(call_7 {expected})toolcall_75"


def test_a_list_of_templates(tmp_path: Path) -> None:
    make_tokenizer().save(str(tmp_path / "tokenizer.json"))
    plain, tools = "{{ messages[0].content }}", "{{ tools|length }}"

    def load(**named: str) -> TextCodec:
        templates = [{"name": name, "template": text} for name, text in named.items()]
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": templates}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return TextCodec.load(tmp_path)

    chat = Chat([{"role": "user", "content": "hi"}])
    with_tool = Chat(chat.messages, [TOOL])
    codec = load(default=plain, tool_use=tools, rag="{{ 0 }}")
    assert (codec.chat_text(chat), codec.chat_text(with_tool)) == ("hi", "1")
    assert load(only=plain).chat_text(chat) == "hi"
    for named, reason in [
        ({"rag": plain, "tool_use": tools}, "is a list without a default (rag, tool_use)"),
        ({"default": "{% for %}"}, "is no valid Jinja: line 1"),
        ({"default": "{{ messages|nonsense }}"}, "is no valid Jinja: line 1"),
    ]:
        with pytest.raises(ApiError) as caught:
            load(**named).chat_text(chat)
        assert (caught.value.status, caught.value.param) == (400, "messages")
        assert reason in caught.value.message


def test_marks_of_turns_are_special_whatever_the_vocabulary_calls_them(tmp_path: Path) -> None:
    tokenizer = byte_level()
    marks = ["<\uff5cUser\uff5c>", "<|Assistant|>", "<|fim_prefix|>", "<tool_call>"]
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = "{% for m in messages %}{{ '<\uff5cUser\uff5c>' + m.content + '<tool_call>' }}{% endfor %}<|Assistant|>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    codec = TextCodec.load(tmp_path)
    user, assistant, prefix, call = (tokenizer.token_to_id(mark) for mark in marks)
    ids = codec.chat_ids(Chat([{"role": "user", "content": "".join(marks)}]))
    assert [ident for ident in ids if ident in (user, assistant, prefix, call)] == [user, prefix, call, call, assistant]
    assert codec.decode(ids) == f"<\uff5cUser\uff5c>{''.join(marks)}<tool_call><|Assistant|>"
    # What the template does not write is the vocabulary's to say: infilling is asked for in prompts.
    assert [i for i in codec.prompt_ids("".join(marks)) if i in (user, assistant, prefix, call)] == [prefix, call]
