"""openai's client of decisions against a server: python openai_decisions.py URL"""

import asyncio
import sys
from typing import Any

import openai
from openai.lib.decisions_tool_runner import DecisionsToolRunner, DecisionsToolRunnerError
from openai.types import decision as types

MODEL = "cdlm-nano"
INPUT = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples and gives away 8. " * 3
QUESTIONS: list[Any] = [
    {"type": "predicate", "name": "apples", "instructions": "Tom has apples."},
    {
        "type": "choice",
        "name": "buys",
        "instructions": [{"type": "input_text", "text": "What does Tom buy?"}],
        "choices": [{"value": "apples", "description": "fruit"}, {"value": "true"}, {"value": True}],
    },
    {"type": "score", "instructions": "How many?", "levels": [{"label": "none"}, {"label": "some"}, {"label": "many"}]},
]
ASKED: dict[str, Any] = {"model": MODEL, "input": INPUT, "questions": QUESTIONS}
WHERE: dict[str, Any] = {"base_url": f"{sys.argv[1]}/v1", "api_key": "none", "max_retries": 0}

client = openai.OpenAI(**WHERE, _strict_response_validation=True)


def shapes() -> None:
    made = client.decisions.create(**ASKED, safety_identifier="u", prompt_cache_key="k")
    assert made.model == MODEL
    predicate, choice, score = made.answers
    assert isinstance(predicate, types.AnswerAnswerResourcePredicate)
    assert isinstance(choice, types.AnswerAnswerResourceChoice)
    assert isinstance(score, types.AnswerAnswerResourceScore)
    assert (predicate.name, choice.name, score.name) == ("apples", "buys", None)
    assert [each.value for each in choice.probabilities] == ["apples", "true", True]
    assert choice.choice == max(choice.probabilities, key=lambda each: each.probability).value
    assert [(each.value, each.label) for each in score.probabilities] == [(0, "none"), (1, "some"), (2, "many")]
    assert abs(score.score - sum(each.value * each.probability for each in score.probabilities)) < 1e-6
    for answer in (choice, score):
        assert abs(sum(each.probability for each in answer.probabilities) - 1) < 1e-6
        assert 0 <= answer.confidence <= 1
    for answer in made.answers:  # Nothing beyond the types.
        assert not answer.model_extra
    assert not made.model_extra
    assert not made.usage.model_extra


def usage() -> None:
    first, again = (client.decisions.create(**ASKED, extra_body={"cache_salt": "usage"}).usage for _ in range(2))
    assert first.total_tokens == first.input_tokens + first.output_tokens == again.total_tokens
    assert 0 < first.input_tokens_details.cached_tokens < again.input_tokens_details.cached_tokens
    assert first.output_tokens_details.reasoning_tokens == 0


def conversations() -> None:
    items: list[Any] = [
        {"role": "developer", "content": "Be strict."},
        {"role": "user", "content": [{"type": "input_json", "data": {"apples": 14}}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}], "phase": "commentary"},
        {"type": "function_call", "call_id": "1", "name": "count", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "14"},
        {"type": "custom_tool_call", "call_id": "2", "name": "note", "input": "apples"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "noted"}]},
    ]
    assert len(client.decisions.create(**ASKED | {"input": items}).answers) == 3


def refused(**fields: Any) -> Any:
    """The error of a request, which must be a 400."""
    try:
        client.decisions.create(**ASKED | fields)
    except openai.BadRequestError as error:
        return error
    raise AssertionError(f"not refused: {fields}")


def errors() -> None:
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}
    assert refused(input=[image]).param == "input[0].content[0].type"
    assert refused(questions=[]).param == "questions"
    assert refused(questions=[QUESTIONS[0] | {"instructions": ""}]).param == "questions[0].instructions"
    assert refused(questions=[QUESTIONS[0]] * 201).param == "questions"
    try:
        client.decisions.create(**ASKED | {"model": "nope"})
    except openai.NotFoundError:
        return
    raise AssertionError("another model was found")


def runner() -> None:
    done: list[str] = []
    actions: list[Any] = [
        {"id": "count", "description": "Count the apples.", "execute": lambda: done.append("count")},
        {"id": "done", "description": "The task is complete.", "done": True},
    ]
    tools = DecisionsToolRunner(observe=lambda: f"Counted so far: {len(done)}", candidates=lambda _: actions)
    try:
        found = tools.run(client, {"model": MODEL, "input": "Count Tom's apples."}, max_steps=2)
    except DecisionsToolRunnerError as error:
        ended = error.reason
    else:
        ended = found["status"]
    # Whether cdlm-nano ever says that it is done is its own affair.
    assert ended in ("unverified", "step_limit"), ended


async def asynchronous() -> None:
    async with openai.AsyncOpenAI(**WHERE) as own:
        made = await asyncio.gather(*(own.decisions.create(**ASKED) for _ in range(3)))
        found = {tuple(round(each.probability, 4) for each in one.answers[2].probabilities) for one in made}
        assert len(found) == 1


for case in (shapes, usage, conversations, errors, runner):
    case()
    sys.stdout.write(f"ok {case.__name__}\n")
asyncio.run(asynchronous())
sys.stdout.write("ok asynchronous\n")
