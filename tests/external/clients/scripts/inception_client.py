"""Inception's client against a server: python inception_client.py URL"""

import asyncio
import sys
from typing import Any

import inceptionai

MODEL = "cdlm-nano"
ASKED: dict[str, Any] = {"model": MODEL, "prompt": "def double(x):\n    ", "suffix": "\n    return y", "max_tokens": 24}
# cdlm-nano was not trained to infill: it would end at once.
FORCED: dict[str, Any] = {"presence_penalty": 1.5, "extra_body": {"ignore_eos": True}}
CONTENT = (
    "<|recently_viewed_code_snippets|>\n<|/recently_viewed_code_snippets|>\n<|edit_diff_history|>\n"
    "<|/edit_diff_history|>\n<|current_file_content|>\ndef greet(name):\n    print(1)\n<|/current_file_content|>\n"
    "<|code_to_edit|>\ndef greet(name):\n    print(1)<|cursor|>\n<|/code_to_edit|>"
)
WHERE: dict[str, Any] = {"base_url": sys.argv[1], "api_key": "none", "max_retries": 0}

client = inceptionai.Inception(**WHERE, _strict_response_validation=True)


def whole() -> None:
    made = client.fim.completions.create(**ASKED, **FORCED, top_k=-1, stop=["\n\n", "\n \n"])
    assert (made.object, made.model, len(made.choices)) == ("text_completion", MODEL, 1)
    assert made.choices[0].text
    assert made.choices[0].finish_reason in ("stop", "length")
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert (made.usage.reasoning_tokens, made.usage.cached_input_tokens) >= (0, 0)


def streamed() -> None:
    text = client.fim.completions.create(**ASKED, **FORCED).choices[0].text
    events = list(client.fim.completions.create(**ASKED, **FORCED, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text or "" for chunk in events for choice in chunk.choices) == text
    assert events[-1].choices == []


def edited() -> None:
    messages: list[Any] = [{"role": "user", "content": CONTENT}]
    made = client.edit.completions.create(model=MODEL, messages=messages, max_tokens=24, temperature=0.2, top_p=0.9)
    assert (made.object, made.choices[0].message.role) == ("edit.completion", "assistant")
    content = made.choices[0].message.content
    assert isinstance(content, str)
    assert content.startswith("```\n")
    assert content.endswith("\n```")


def errors() -> None:
    try:
        client.edit.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    except inceptionai.BadRequestError as error:
        found = str(error)
    else:
        raise AssertionError("a message without sections was answered")
    assert "<|current_file_content|>" in found


async def asynchronous() -> None:
    async with inceptionai.AsyncInception(**WHERE) as other:
        made = await other.fim.completions.create(**ASKED, **FORCED)
        assert made.choices[0].text


for case in (whole, streamed, edited, errors):
    case()
    sys.stdout.write(f"ok {case.__name__}\n")
asyncio.run(asynchronous())
sys.stdout.write("ok asynchronous\n")
