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
    ({"edit_threshold": 0.9}, DecodingParams(edit_threshold=0.9)),
    ({"edit_threshold": 1, "decoding": "factor"}, DecodingParams(edit_threshold=1.0, decoding="factor")),
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
        ({"edit_threshold": 0}, "edit_threshold"),
        ({"edit_threshold": 1.1}, "edit_threshold"),
        ({"edit_threshold": "0.9"}, "edit_threshold"),
        ({"edit_threshold": 0.9, "bad_words": ["hello there"]}, "edit_threshold"),
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


ROUTES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": "hi"}, {"structured_outputs": {"regex": "a+"}}),
    ("/v1/chat/completions", {"messages": CHAT}, {"response_format": {"type": "json_object"}}),
    ("/v1/responses", {"input": "hi"}, {"text": {"format": {"type": "json_object"}}}),
)


@pytest.mark.parametrize(("path", "body", "form"), ROUTES)
async def test_replacing_tokens_is_refused_with_what_hinders_it(
    make_bench: Callable[..., Bench], path: str, body: dict[str, Any], form: dict[str, Any]
) -> None:
    """By both fields' names; a number that replaces nothing conflicts with nothing."""
    bench = make_bench(model="/models/large", guide_model="/models/small")
    [field] = form
    for fields, value, hindrance in (
        ({"decoding": "threshold"}, 0.9, None),
        ({}, 0.9, "decoding 'guide'"),
        ({}, 1, None),
        (form | {"decoding": "factor"}, 0.9, field),
        (form | {"decoding": "factor"}, 1, None),
        ({"decoding": "factor", "bad_words": ["hello, there"]}, 0.9, "bad_words of several tokens"),
    ):
        response = await bench.post(path, body | fields | {"edit_threshold": value})
        if hindrance is None:
            assert response.status_code == 200, response.text
            assert bench.engine.requests[-1].params.edit_threshold == value
        else:
            assert (response.status_code, response.json()["error"]["param"]) == (400, "edit_threshold")
            assert f"edit_threshold cannot be combined with {hindrance}" in response.json()["error"]["message"]


async def test_replacing_tokens_is_refused_where_the_model_cannot(bench: Bench) -> None:
    assert bench.engine.ready is not None
    bench.engine.ready = msgspec.structs.replace(bench.engine.ready, can_replace=False)
    for path, body, _ in ROUTES:
        assert (await bench.post(path, body | {"edit_threshold": 1})).status_code == 200
        response = await bench.post(path, body | {"edit_threshold": 0.9})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "edit_threshold")
        assert "comes from the block before it, and cannot be replaced" in response.json()["error"]["message"]


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
