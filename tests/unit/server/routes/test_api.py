"""Completions and chats over the fake engine: shapes, streams, stops, usage, errors, cancellation."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.messages import EngineInput, EngineStats, decoder, encode
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


DECODING: list[tuple[dict[str, Any], DecodingParams]] = [
    ({}, DecodingParams()),
    ({"decoding": None, "confidence_threshold": 0.5}, DecodingParams(confidence_threshold=0.5)),
    ({"decoding": "threshold"}, DecodingParams(decoding="threshold")),
    ({"decoding": "factor"}, DecodingParams(decoding="factor")),
    ({"decoding": "factor", "decoding_factor": 2}, DecodingParams(decoding="factor", decoding_factor=2.0)),
    ({"decoding": "entropy_bound"}, DecodingParams(decoding="entropy_bound")),
    (
        {"decoding": "entropy_bound", "entropy_bound": 0, "confidence_threshold": None},
        DecodingParams(decoding="entropy_bound", entropy_bound=0.0),
    ),
    ({"decoding": "fixed_steps"}, DecodingParams(decoding="fixed_steps")),
    ({"decoding": "fixed_steps", "steps_per_block": 4}, DecodingParams(decoding="fixed_steps", steps_per_block=4)),
]


@pytest.mark.parametrize(("fields", "expected"), DECODING)
async def test_decoding_reaches_the_engine(bench: Bench, fields: dict[str, Any], expected: DecodingParams) -> None:
    for path, body in (("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", {"messages": CHAT})):
        response = await bench.post(path, body | fields)
        assert response.status_code == 200, response.text
        request = bench.engine.requests[-1]
        assert request.params.model_copy(update={"seed": None}) == expected
        assert decoder(EngineInput).decode(encode(request)) == request


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"decoding": "greedy"}, "decoding"),
        ({"decoding": "guide"}, "decoding"),
        ({"decoding": 1}, "decoding"),
        ({"decoding": {"name": "factor"}}, "decoding"),
        ({"decoding": "factor", "decoding_factor": 0}, "decoding_factor"),
        ({"decoding": "factor", "decoding_factor": "1"}, "decoding_factor"),
        ({"decoding": "entropy_bound", "entropy_bound": -0.1}, "entropy_bound"),
        ({"decoding_factor": 1.0}, "decoding_factor"),
        ({"entropy_bound": 0.1}, "entropy_bound"),
        ({"decoding": "threshold", "entropy_bound": 0.0}, "entropy_bound"),
        ({"decoding": "factor", "confidence_threshold": 0.9}, "confidence_threshold"),
        ({"decoding": "factor", "entropy_bound": 0.1}, "entropy_bound"),
        ({"decoding": "entropy_bound", "decoding_factor": 1.0}, "decoding_factor"),
        ({"steps_per_block": 4}, "steps_per_block"),
        ({"decoding": "fixed_steps", "steps_per_block": 0}, "steps_per_block"),
        ({"decoding": "fixed_steps", "steps_per_block": 4097}, "steps_per_block"),
        ({"decoding": "fixed_steps", "steps_per_block": 2.5}, "steps_per_block"),
        ({"decoding": "fixed_steps", "confidence_threshold": 0.9}, "confidence_threshold"),
        ({"decoding": "factor", "steps_per_block": 4}, "steps_per_block"),
    ],
)
async def test_decoding_values_that_are_refused(bench: Bench, fields: dict[str, Any], param: str) -> None:
    for path, body in (("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", {"messages": CHAT})):
        response = await bench.post(path, body | fields)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param
        assert param in response.json()["error"]["message"]
    assert bench.engine.requests == []


async def test_the_number_of_the_servers_own_rule_needs_no_name(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(decoding="fixed_steps", steps_per_block=6)
    body = {"prompt": "hi"}
    for fields, expected in (
        ({}, DecodingParams()),
        ({"steps_per_block": 3}, DecodingParams(steps_per_block=3)),
        ({"confidence_threshold": 0.5}, DecodingParams(confidence_threshold=0.5)),
        ({"decoding": "factor"}, DecodingParams(decoding="factor")),
    ):
        response = await bench.post("/v1/completions", body | fields)
        assert response.status_code == 200, response.text
        assert bench.engine.requests[-1].params.model_copy(update={"seed": None}) == expected
    for fields, param in (
        ({"decoding_factor": 2.0}, "decoding_factor"),
        ({"steps_per_block": 3, "confidence_threshold": 0.5}, "steps_per_block"),
        ({"steps_per_block": 3, "reasoning_effort": "low"}, "steps_per_block"),
    ):
        response = await bench.post("/v1/completions", body | fields)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_with_a_guide_its_rule_is_the_default_and_others_may_be_named(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(model="/models/large", guide_model="/models/small")
    for fields, status in (
        ({}, 200),
        ({"decoding": "guide"}, 200),
        ({"confidence_threshold": 0.5}, 200),
        ({"reasoning_effort": "low"}, 200),
        ({"decoding": "factor", "decoding_factor": 2.0}, 200),
        ({"decoding_factor": 2.0}, 400),
        ({"decoding": "guide", "confidence_threshold": 0.5}, 400),
    ):
        response = await bench.post("/v1/completions", {"prompt": "hi"} | fields)
        assert response.status_code == status, response.text


async def test_guidance_reaches_the_engine_and_has_its_own_length(bench: Bench) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/chat/completions", {"messages": CHAT}),
        ("/v1/responses", {"input": "hi"}),
    ):
        response = await bench.post(path, body | {"guidance_scale": 1.5})
        assert response.status_code == 200, response.text
        sent = bench.engine.requests[-1]
        assert sent.params.guidance_scale == 1.5
        assert len(sent.prompt_ids) + sent.max_tokens <= 32
        for value in (-0.5, 101, "1", True):
            response = await bench.post(path, body | {"guidance_scale": value})
            assert (response.status_code, response.json()["error"]["param"]) == (400, "guidance_scale")
    for prompt, wanted, status in ((22, 10, 200), (22, 11, 400), (32, 1, 400), (40, 1, 400)):
        body = {"prompt": [5] * prompt, "max_tokens": wanted}
        assert (await bench.post("/v1/completions", body)).status_code == 200
        response = await bench.post("/v1/completions", body | {"guidance_scale": 1})
        assert response.status_code == status, response.text
        if status == 400:
            assert response.json()["error"]["param"] == "guidance_scale"


async def test_guidance_needs_a_model_with_a_mask_token(bench: Bench) -> None:
    ready = bench.engine.ready
    assert ready is not None
    bench.engine.ready = msgspec.structs.replace(ready, mask_token_id=ready.vocab_size)
    for path, body in (
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/chat/completions", {"messages": CHAT}),
        ("/v1/responses", {"input": "hi"}),
    ):
        assert (await bench.post(path, body)).status_code == 200
        response = await bench.post(path, body | {"guidance_scale": 1.5})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "guidance_scale"
        assert "needs a mask token" in response.json()["error"]["message"]


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
