"""``client.responses`` of the official client, against a real server."""

from typing import Any

import openai
import pytest

from tests.support.server.served import Server

QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
FIELDS: dict[str, Any] = {"model": "cdlm-nano", "input": QUESTION, "max_output_tokens": 80}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_whole_and_streamed_answers_are_the_same(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        whole = client.responses.create(**FIELDS, metadata={"a": "b"}, store=False)
        assert (whole.object, whole.status, whole.metadata) == ("response", "completed", {"a": "b"})
        assert whole.output_text
        assert whole.usage is not None
        assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
        assert whole.usage.output_tokens_details.reasoning_tokens == 0
        assert whole.usage.model_extra is not None
        assert whole.usage.model_extra["denoise_steps"] >= 1
        events = list(client.responses.create(**FIELDS, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert len(deltas) > 1
        assert "".join(deltas) == whole.output_text
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == whole.output_text
        assert events[-1].response.usage is not None
        assert events[-1].response.usage.output_tokens == whole.usage.output_tokens
        with client.responses.stream(**FIELDS, extra_body={"stream_granularity": "step"}) as stream:
            finer = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
        assert "".join(finer) == final.output_text == whole.output_text
        assert len(finer) > len(deltas)
        chat = client.chat.completions.create(
            model="cdlm-nano", messages=[{"role": "user", "content": QUESTION}], max_completion_tokens=80
        )
        assert chat.choices[0].message.content == whole.output_text
    server.wait_idle()


def test_items_instructions_and_logprobs(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        first = client.responses.create(**FIELDS)
        answer = client.responses.create(
            model="cdlm-nano",
            instructions="Answer briefly.",
            input=[
                {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
                *[item.to_dict() for item in first.output],  # type: ignore[list-item]
                {"role": "user", "content": "hello"},
            ],
            max_output_tokens=40,
            include=["message.output_text.logprobs"],
            top_logprobs=3,
            extra_body={"ignore_eos": True, "seed": 3},
        )
        assert (answer.status, answer.instructions) == ("incomplete", "Answer briefly.")
        assert answer.incomplete_details is not None
        assert answer.incomplete_details.reason == "max_output_tokens"
        part = answer.output[0].content[0]  # type: ignore[union-attr]
        assert part.type == "output_text"
        assert part.logprobs is not None
        assert len(part.logprobs) == 40
        assert all(len(entry.top_logprobs) == 3 for entry in part.logprobs)
        assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in part.logprobs)
    server.wait_idle()


def test_effort_trades_steps_for_certainty(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        steps = []
        for effort in ("none", "low", "medium", "high"):
            answer = client.responses.create(**FIELDS, reasoning={"effort": effort}, extra_body={"ignore_eos": True})
            assert answer.reasoning is not None
            assert answer.reasoning.effort == effort
            assert answer.usage is not None
            assert answer.usage.model_extra is not None
            steps.append(answer.usage.model_extra["denoise_steps"])
        assert steps == sorted(steps)
        # A token a step; of the third block those behind the 80th token may be written before it, or not at all.
        assert 80 <= steps[-1] <= 96
        assert steps[0] < steps[-1]
    server.wait_idle()


def test_errors_are_the_clients_own(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(**FIELDS, previous_response_id="resp_1")
        assert refused.value.param == "previous_response_id"
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(**FIELDS, tools=[{"type": "web_search"}], stream=True)
        assert refused.value.param == "tools[0].type"
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="nope", input="hi")
    server.wait_idle()


def test_a_client_that_leaves_frees_its_pages(server: Server) -> None:
    cancelled = server.metric("cdlm_requests_cancelled_total")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        body = {"ignore_eos": True, "confidence_threshold": 1}
        with client.responses.create(model="cdlm-nano", input="hello", stream=True, extra_body=body) as stream:
            assert any(event.type == "response.output_text.delta" for event in stream)  # Reads no further than that.
    server.wait_idle()
    assert server.metric("cdlm_requests_cancelled_total") == cancelled + 1


@pytest.mark.anyio
async def test_the_asynchronous_client(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        whole = await client.responses.create(**FIELDS)
        stream = await client.responses.create(**FIELDS, stream=True)
        pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        assert "".join(pieces) == whole.output_text
        async with client.responses.stream(**FIELDS) as managed:
            async for _ in managed:
                pass
            final = await managed.get_final_response()
        assert final.output_text == whole.output_text


def test_a_suffix_is_seen_by_the_block_it_begins_in(server: Server) -> None:
    def middle(suffix: str, **fields: Any) -> str:
        body = {"prompt": "Tom has 14", "suffix": suffix, "ignore_eos": True, "return_token_ids": True} | fields
        choice = server.complete(**body)["choices"][0]
        assert (len(choice["token_ids"]), choice["finish_reason"]) == (body.get("max_tokens", 8), "length")
        text: str = choice["text"]
        return text

    assert len({middle(suffix) for suffix in ("", " apples.", " bags of 12", "\n    return x")}) > 1
    body = {"prompt": "Tom has 14", "suffix": " apples.", "ignore_eos": True, "max_tokens": 40}
    streamed = server.stream("/v1/completions", body | {"stream_granularity": "step"})
    assert "".join(event["choices"][0]["text"] for event in streamed) == middle(" apples.", max_tokens=40)
