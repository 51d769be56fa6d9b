"""How a request is decoded, over the fake engine: rules, their numbers, guidance."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.messages import EngineInput, decoder, encode
from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio

CHAT = [{"role": "user", "content": "hi"}]


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
