"""``/v1/decisions`` over the fake engine: shapes, prompts, texts, probabilities, usage."""

import math
from typing import Any

import msgspec
import pytest

from tests.support.server.bench import Bench, widen
from tests.support.server.fakes import ASSISTANT, EOS, USER

pytestmark = pytest.mark.anyio

PATH = "/v1/decisions"
PREDICATE = {"type": "predicate", "name": "late", "instructions": "The parcel was late."}
CHOICE = {
    "type": "choice",
    "name": "team",
    "instructions": "Which team?",
    "choices": [{"value": "delivery", "description": "parcels"}, {"value": "billing"}, {"value": False}],
}
SCORE = {"type": "score", "instructions": "How upset?", "levels": [{"label": "calm"}, {"label": "not quite calm"}]}


@pytest.fixture
def wide(bench: Bench) -> Bench:
    widen(bench)
    return bench


async def decide(bench: Bench, **fields: Any) -> dict[str, Any]:
    response = await bench.post(PATH, {"input": "It came late.", "questions": [PREDICATE, CHOICE, SCORE]} | fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def scored(bench: Bench) -> dict[str, tuple[str, str]]:
    """Question and text number -> the prompt and the text that the engine was given."""
    found = {}
    for request in bench.engine.scored:
        ids, start = request.prompt_ids, request.start
        texts = (bench.codec.decode(part, keep_special=True) for part in (ids[:start], ids[start:]))
        found[request.request_id.partition("-")[2]] = (next(texts), next(texts))
    return found


def logprob(start: int, end: int) -> float:
    """What the fake engine gives tokens at these positions."""
    return sum(-0.5 - place / 64 for place in range(start, end))


async def test_an_answer_has_the_shape_and_the_numbers(wide: Bench) -> None:
    found = await decide(wide)
    assert list(found) == ["model", "answers", "usage"]
    logs: dict[int, list[float]] = {}
    for request in sorted(wide.engine.scored, key=lambda each: each.request_id):
        number = int(request.request_id.split("-")[1])
        logs.setdefault(number, []).append(logprob(request.start, len(request.prompt_ids)))
    predicate, choice, score = found["answers"]
    weights = [[math.exp(each) for each in logs[number]] for number in range(3)]
    shares = [[weight / sum(group) for weight in group] for group in weights]
    assert predicate == {"type": "predicate", "name": "late", "probability": pytest.approx(shares[0][0])}
    values = ["delivery", "billing", False]
    best = max(range(3), key=lambda number: logs[1][number])
    assert choice == {
        "type": "choice",
        "name": "team",
        "choice": values[best],
        "confidence": pytest.approx(math.exp(logs[1][best])),
        "probabilities": [
            {"value": value, "probability": pytest.approx(share)}
            for value, share in zip(values, shares[1], strict=True)
        ],
    }
    assert score == {
        "type": "score",
        "name": None,
        "score": pytest.approx(shares[2][1]),
        "confidence": pytest.approx(max(weights[2])),
        "probabilities": [
            {"value": 0, "label": "calm", "probability": pytest.approx(shares[2][0])},
            {"value": 1, "label": "not quite calm", "probability": pytest.approx(shares[2][1])},
        ],
    }


async def test_prompts_are_chats_and_texts_end_as_answers_do(wide: Bench) -> None:
    await decide(wide)
    texts = scored(wide)
    assert {name: text for name, (_, text) in texts.items()} == {
        "0-0": "Yes" + EOS, "0-1": "No" + EOS, "1-0": "delivery" + EOS, "1-1": "billing" + EOS, "1-2": "false" + EOS,
        "2-0": "calm" + EOS, "2-1": "not quite calm" + EOS,
    }  # fmt: skip
    assert texts["0-0"][0] == (
        f"{USER}It came late.\n\nThe parcel was late.\nIs this true? Answer Yes or No.\n{ASSISTANT}"
    )
    assert texts["1-0"][0] == (
        f"{USER}It came late.\n\nWhich team?\n- delivery: parcels\n- billing\n- false\nAnswer with one of these only.\n"
        + ASSISTANT
    )
    assert texts["2-1"][0] == (
        f"{USER}It came late.\n\nHow upset?\nFrom the lowest level to the highest:\n- calm\n- not quite calm\n"
        f"Answer with one of these only.\n{ASSISTANT}"
    )


async def test_what_texts_have_in_common_is_scored_first(wide: Bench) -> None:
    await decide(wide, priority=-3, cache_salt="mine")
    order = [request.request_id.partition("-")[2] for request in wide.engine.scored]
    assert order[0] == "0-0"
    assert set(order[1:3]) == {"1-0", "2-0"}
    assert {(request.priority, request.cache_salt) for request in wide.engine.scored} == {(-3, "mine")}


async def test_usage_counts_prompts_once_and_every_text(wide: Bench) -> None:
    usage = (await decide(wide))["usage"]
    firsts = [request for request in wide.engine.scored if request.request_id.endswith("-0")]
    tokens = sum(request.start for request in firsts) + sum(
        len(request.prompt_ids) - request.start for request in wide.engine.scored
    )
    assert usage == {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": 24, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }


async def test_a_conversation_is_asked_about_at_its_end(wide: Bench) -> None:
    items = [
        {"role": "developer", "content": "Be strict."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "see"}, {"type": "input_json", "data": {"ä": [1]}}],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]
    await decide(wide, input=items, questions=[PREDICATE | {"instructions": [{"type": "input_json", "data": [{}]}]}])
    assert scored(wide)["0-0"][0] == (
        f'{USER}Be strict.\n{USER}see\n{{"ä":[1]}}\n{ASSISTANT}no\n'
        f"{USER}[{{}}]\nIs this true? Answer Yes or No.\n{ASSISTANT}"
    )


async def test_calls_and_their_outputs_are_turns(wide: Bench) -> None:
    items = [
        {"role": "user", "content": "go"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "five"},
        {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "text"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "six"}]},
    ]
    await decide(wide, input=items, questions=[PREDICATE])
    prompt = scored(wide)["0-0"][0]
    assert prompt.index("go") < prompt.index("five") < prompt.index("six") < prompt.index("Is this true?")


async def test_a_boolean_and_its_text_are_different_texts(wide: Bench) -> None:
    choices = [{"value": True}, {"value": "true"}, {"value": '"true"'}]
    found = await decide(wide, questions=[CHOICE | {"choices": choices}])
    texts = [text.removesuffix(EOS) for _, text in scored(wide).values()]
    assert texts == ["true", '"true"', '"\\"true\\""']
    assert [each["value"] for each in found["answers"][0]["probabilities"]] == [True, "true", '"true"']


async def test_questions_and_choices_at_their_limits(wide: Bench) -> None:
    found = await decide(wide, questions=[PREDICATE] * 200)
    assert len(found["answers"]) == 200
    assert len(wide.engine.scored) == 400
    many = [{"value": f"v{number}"} for number in range(255)]
    found = await decide(wide, questions=[CHOICE | {"choices": many}])
    assert len(found["answers"][0]["probabilities"]) == 255
    assert sum(each["probability"] for each in found["answers"][0]["probabilities"]) == pytest.approx(1.0)


async def test_no_more_texts_than_rows_are_with_the_engine_at_once(wide: Bench) -> None:
    assert wide.engine.ready is not None
    wide.services.settings = wide.services.settings.model_copy(update={"max_num_seqs": 3})
    most, held = 0, wide.engine.generate

    async def counted(request: Any) -> Any:
        nonlocal most
        most = max(most, wide.services.gate.in_flight)
        async for block in held(request):
            yield block

    wide.engine.generate = counted  # type: ignore[method-assign]
    await decide(wide, questions=[PREDICATE] * 20)
    assert most == 3
    assert wide.services.gate.in_flight == 0


async def test_a_model_without_an_end_token_is_asked_for_the_text_alone(wide: Bench) -> None:
    assert wide.engine.ready is not None
    wide.engine.ready = msgspec.structs.replace(wide.engine.ready, stop_token_ids=[])
    await decide(wide, questions=[PREDICATE])
    assert [text for _, text in scored(wide).values()] == ["Yes", "No"]


async def test_metrics_count_questions_and_tokens(wide: Bench) -> None:
    usage = (await decide(wide))["usage"]
    text = (await wide.client.get("/metrics")).text
    assert 'cdlm_requests_finished_total{model_name="tiny",reason="stop"} 3.0' in text
    assert f'cdlm_prompt_tokens_total{{model_name="tiny"}} {float(usage["input_tokens"])}' in text
    assert 'cdlm_generation_tokens_total{model_name="tiny"} 0.0' in text
