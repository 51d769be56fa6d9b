"""The official client works unchanged."""

import openai
import pytest

from tests.support.server.served import Server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_the_synchronous_client(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["cdlm-nano"]
        completion = client.completions.create(model="cdlm-nano", prompt="hello", max_tokens=40)
        assert completion.usage is not None
        assert completion.usage.completion_tokens <= 40
        pieces = client.completions.create(model="cdlm-nano", prompt="hello", max_tokens=40, stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == completion.choices[0].text
        chat = client.chat.completions.create(
            model="cdlm-nano",
            messages=[{"role": "user", "content": "hello"}],
            max_completion_tokens=40,
            extra_body={"confidence_threshold": 0.8, "ignore_eos": True, "return_token_ids": True},
        )
        assert chat.choices[0].message.content
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 40
        with pytest.raises(openai.NotFoundError, match="nope"):
            client.completions.create(model="nope", prompt="hello")
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            client.completions.create(model="cdlm-nano", prompt="word " * 4000)


@pytest.mark.anyio
async def test_the_asynchronous_client(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model="cdlm-nano",
            messages=[{"role": "user", "content": "hello"}],
            max_completion_tokens=64,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason in ("stop", "length")
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
