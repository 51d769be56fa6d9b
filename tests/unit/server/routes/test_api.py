"""Completions and chats over the fake engine: shapes, streams, stops, usage, errors, cancellation."""

from typing import Any

import msgspec
import pytest

from cdlm.scheduler.messages import EngineStats
from tests.support.server.bench import ANSWER, Bench

pytestmark = pytest.mark.anyio

CHAT = [{"role": "user", "content": "hi"}]


def counter(bench: Bench, line: str) -> float:
    text = bench.services.metrics.render("")[0].decode()
    found = [row for row in text.splitlines() if row.startswith(line)]
    assert len(found) == 1, (line, found)
    return float(found[0].rsplit(" ", 1)[1])


async def test_a_completion(bench: Bench) -> None:
    answer = await bench.complete(model="tiny", return_token_ids=True, user="u", temperature=None)
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == (ANSWER, "stop", None)
    assert bench.codec.decode(choice["token_ids"]) == ANSWER
    usage = answer["usage"]
    assert usage["completion_tokens"] == len(choice["token_ids"])
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["denoise_steps"] == 4
    assert usage["forward_passes"] == 6
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_max_tokens_is_exact_and_defaults(bench: Bench) -> None:
    for limit in (1, 3, 5):
        answer = await bench.complete(max_tokens=limit)
        assert answer["usage"]["completion_tokens"] == limit
    await bench.complete(max_tokens=None)
    assert bench.engine.requests[-1].max_tokens == 16
    await bench.complete(prompt=[5] * 60, max_tokens=None)
    assert bench.engine.requests[-1].max_tokens == 4
    await bench.post("/v1/chat/completions", {"messages": CHAT})
    assert bench.engine.requests[-1].max_tokens == 64 - len(bench.engine.requests[-1].prompt_ids)


async def test_a_small_pool_bounds_requests(bench: Bench) -> None:
    assert bench.engine.ready is not None
    bench.engine.ready = msgspec.structs.replace(bench.engine.ready, num_pages=4)
    await bench.post("/v1/chat/completions", {"messages": CHAT})
    request = bench.engine.requests[-1]
    assert request.max_tokens == 4 * 8 - 4 - len(request.prompt_ids)
    response = await bench.post("/v1/completions", {"prompt": "hi", "max_tokens": 30})
    assert "maximum context length is 28 tokens" in response.json()["error"]["message"]


async def test_no_tokens_and_echo(bench: Bench) -> None:
    answer = await bench.complete(max_tokens=0, echo=True)
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("hi", "length")
    assert bench.engine.requests == []
    assert (await bench.complete(echo=True))["choices"][0]["text"] == "hi" + ANSWER
    events = await bench.events("/v1/completions", prompt="hi", echo=True, max_tokens=40)
    assert "".join(event["choices"][0]["text"] for event in events) == "hi" + ANSWER


async def test_choices_are_numbered_and_seeded(bench: Bench) -> None:
    fields: dict[str, Any] = {"prompt": ["a", "b"], "n": 3, "seed": 7, "temperature": 1}
    answer = await bench.complete(**fields)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    seeds = [request.params.seed for request in bench.engine.requests]
    assert len(set(seeds)) == 3
    assert seeds[:3] == seeds[3:]
    assert answer["usage"]["prompt_tokens"] == 2
    await bench.complete(**fields)
    assert [request.params.seed for request in bench.engine.requests[6:]] == seeds
    await bench.complete(n=2)
    assert len({request.params.seed for request in bench.engine.requests[12:]}) == 2


async def test_a_stream_has_one_chunk_a_block(bench: Bench) -> None:
    events = await bench.events(
        "/v1/completions",
        prompt="hi",
        max_tokens=40,
        return_token_ids=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = events
    assert [len(chunk["choices"][0]["token_ids"]) for chunk in chunks] == [4, 1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == ANSWER
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in events}) == 1


@pytest.mark.parametrize("options", [{}, None, {"continuous_usage_stats": True}])
async def test_usage_on_chunks(bench: Bench, options: dict[str, bool] | None) -> None:
    events = await bench.events("/v1/completions", prompt="hi", max_tokens=40, stream_options=options)
    if options:
        assert [event["usage"]["completion_tokens"] for event in events] == [4, 5]
    else:
        assert all("usage" not in event for event in events)


async def test_stop_strings(bench: Bench) -> None:
    answer = await bench.complete(stop=["there", "lo w"], return_token_ids=True)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("hel", "stop")
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"]) < 4
    assert len(bench.engine.aborted) == 1
    events = await bench.events("/v1/completions", prompt="hi", max_tokens=40, stop="o t")
    assert "".join(event["choices"][0]["text"] for event in events) == "hello world, hell"
    assert all("hello world, hello" not in event["choices"][0]["text"] for event in events)


async def test_a_chat(bench: Bench) -> None:
    body = {"messages": CHAT, "tools": [], "metadata": {"a": "b"}, "n": 2}
    response = await bench.post("/v1/chat/completions", body)
    answer = response.json()
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert [choice["message"] for choice in answer["choices"]] == [
        {"role": "assistant", "content": ANSWER, "refusal": None}
    ] * 2


async def test_a_chat_stream(bench: Bench) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    events = await bench.events("/chat/completions", messages=parts)
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert "".join(delta["content"] for delta in deltas[1:-1]) == ANSWER
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]
    assert all(event["object"] == "chat.completion.chunk" for event in events)


async def test_metrics_follow_the_engine(bench: Bench) -> None:
    bench.engine.stats = EngineStats(running=2, waiting=3, pages_free=4, pages_active=12)
    step = EngineStats(forward_seconds=0.01, phase="mixed", batch_rows=2, finalized_tokens=9, steps_per_block=[3, 5])
    for listener in bench.engine.stats_listeners:
        listener(step)
    await bench.complete()
    label = 'model_name="tiny"'
    assert counter(bench, f"cdlm_num_requests_waiting{{{label}}}") == 3
    assert counter(bench, f"cdlm_kv_cache_usage_ratio{{{label}}}") == 0.75
    assert counter(bench, f'cdlm_kv_pages{{{label},state="free"}}') == 4
    assert counter(bench, f'cdlm_forward_passes_total{{{label},phase="mixed"}}') == 1
    assert counter(bench, f"cdlm_denoise_steps_per_block_sum{{{label}}}") == 8
    assert counter(bench, f"cdlm_tokens_finalized_per_forward_sum{{{label}}}") == 9
    assert counter(bench, f"cdlm_generation_tokens_total{{{label}}}") == 5
    assert counter(bench, f"cdlm_time_to_first_token_seconds_count{{{label}}}") == 1
    assert counter(bench, f'cdlm_requests_finished_total{{{label},reason="stop"}}') == 1
    assert counter(bench, f"cdlm_engine_restarts_total{{{label}}}") == 0


async def test_the_model_says_how_many_tokens_it_denoises_together(bench: Bench) -> None:
    [card] = (await bench.client.get("/v1/models")).json()["data"]
    assert (card["max_model_len"], card["block_length"]) == (64, bench.engine.ready.block_length)
    bench.engine.ready = None  # It loads.
    [card] = (await bench.client.get("/v1/models")).json()["data"]
    assert (card["max_model_len"], card["block_length"]) == (None, None)


async def test_tokenizer_routes(bench: Bench) -> None:
    response = await bench.post("/tokenize", {"prompt": "hello <|mask|>"})
    body = response.json()
    assert body["count"] == len(body["tokens"])
    assert body["max_model_len"] == 64
    response = await bench.post("/detokenize", {"tokens": body["tokens"]})
    assert response.json() == {"prompt": "hello <|mask|>"}
    assert (await bench.post("/tokenize", {"messages": CHAT})).json()["tokens"][0] == 2
    assert (await bench.post("/tokenize", {})).status_code == 400
    assert (await bench.post("/detokenize", {"tokens": [10**9]})).status_code == 400


async def test_the_openapi_document_has_the_bodies(bench: Bench) -> None:
    document = (await bench.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"CompletionRequest", "ChatRequest", "Message"} <= set(schemas)
    body = document["paths"]["/v1/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["$ref"].endswith("/CompletionRequest")
