"""Templates and calls of functions: arguments, content that is absent, ids."""

import json
from typing import Any

import pytest

from cdlm.server.errors import ApiError
from cdlm.server.text import Chat
from tests.support.server.bench import Bench
from tests.unit.server.text.test_chat_templates import TOOL, loaded, use

CALL = {"id": "call_7", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
# In the manner of DeepSeek: only a message without content has calls; arguments are a text.
CALLS_WITHOUT_CONTENT = (
    "{{ tools|length }}{% for m in messages %}{% if m['content'] is none %}"
    "{% for call in m.tool_calls %}{{ '<' + call.function.arguments + '>' }}{% endfor %}"
    "{% else %}{{ m.role + m.content }}{% endif %}{% endfor %}"
)
# In the manner of Mistral.
NINE_LETTERS = (
    "{{ tools|length }}{% for m in messages %}{% for id in [m.tool_call_id] + [m.tool_calls[0].id if m.tool_calls] %}"
    "{% if id and id|length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}{% endfor %}"
    "{{ m.role }} {{ m.tool_calls[0].id if m.tool_calls }}{{ m.tool_call_id }};{% endfor %}"
)


@pytest.mark.anyio
async def test_calls_without_content_reach_the_prompt(bench: Bench) -> None:
    use(bench, CALLS_WITHOUT_CONTENT)
    assistant = {"role": "assistant", "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_7", "content": "5"}
    for content in ({}, {"content": None}):
        body = {"messages": [assistant | content, result], "tools": [TOOL], "max_tokens": 4}
        assert (await bench.post("/v1/chat/completions", body)).status_code == 200
        assert bench.codec.decode(bench.engine.requests[-1].prompt_ids) == '1<{"a":1}>tool5'
    items = [
        {"type": "function_call", "call_id": "call_7", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "call_7", "output": "5"},
    ]
    tool = {"type": "function", **TOOL["function"]}
    response = await bench.post("/v1/responses", {"input": items, "tools": [tool], "max_output_tokens": 16})
    assert response.status_code == 200, response.text
    assert bench.codec.decode(bench.engine.requests[-1].prompt_ids) == '1<{"a":1}>tool5'


@pytest.mark.parametrize("template", ["{{ tools }}{{ messages }}", "{{ tools }}{{ messages|tojson }}"])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": "hi"}])
def test_absent_content_is_absent_as_in_transformers(template: str, content: dict[str, Any]) -> None:
    reference, codec = loaded(template)
    messages = [{"role": "assistant", "tool_calls": [], "name": None, **content}]
    assert codec.chat_text(Chat(messages)).plain() == reference.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize(
    "template", ["{{ m.role + ' ' + m.content }}", "{{ tools|length }}{{ m.role + ' ' + m.content }}"]
)
@pytest.mark.anyio
async def test_templates_that_take_content_for_a_text(bench: Bench, template: str) -> None:
    use(bench, "{% for m in messages %}" + template + "{% endfor %}")
    body = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]}
    body |= {"tools": [TOOL], "max_tokens": 4} if "tools" in template else {"max_tokens": 4}
    response = await bench.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    assert "user hi" in (prompt := bench.codec.decode(bench.engine.requests[-1].prompt_ids))
    assert prompt.endswith("assistant ")


def test_ids_of_calls_are_made_short_where_a_template_insists() -> None:
    _, codec = loaded(NINE_LETTERS)
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_7", "content": "5"}
    asked, answered, _ = codec.chat_text(Chat([calls, result], [TOOL])).plain().split(";")
    short = asked.removeprefix("1assistant ")
    assert len(short) == 9
    assert short.isalnum()
    assert answered == f"tool {short}"
    kept = json.loads(json.dumps([calls, result]).replace("call_7", "abcDEF789"))
    assert codec.chat_text(Chat(kept, [TOOL])).plain() == "1assistant abcDEF789;tool abcDEF789;"
    _, strict = loaded(NINE_LETTERS.replace("id|length != 9", "id|length != 99"))
    with pytest.raises(ApiError, match="ids have length 9"):
        strict.chat_text(Chat([calls, result], [TOOL]))
