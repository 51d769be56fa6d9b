"""llm against a server, on chats, responses and completions, from Python and as a command: python llm_client.py URL"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

os.environ["LLM_USER_PATH"] = str(Path.cwd() / "llm")

import llm
from pydantic import BaseModel, Field, create_model

QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
MODELS = {
    "chat": {"supports_schema": True, "supports_tools": True},
    "responses": {"supports_schema": True, "supports_tools": True, "responses": True},
    "completion": {"completion": True},
}


class Order(BaseModel):
    """An order of fruit."""

    kind: Literal["apple", "pear"]
    count: Annotated[int, Field(ge=0, le=99)]


def buy(kind: Literal["apple", "pear"], count: int) -> str:
    """Buys fruit."""
    return f"bought {count} of {kind}"


def write_models() -> None:
    """The file that names servers of one's own; JSON is YAML."""
    where = {"model_name": "cdlm-nano", "api_base": f"{sys.argv[1]}/v1"}
    folder = llm.user_dir()
    folder.mkdir(parents=True, exist_ok=True)
    models = [{"model_id": name, **where, **fields} for name, fields in MODELS.items()]
    (folder / "extra-openai-models.yaml").write_text(json.dumps(models))


def command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "llm", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def texts(name: str) -> None:
    model = llm.get_model(name)
    whole = model.prompt(QUESTION, stream=False, max_tokens=120)
    assert whole.text()
    if name != "completion":  # Of those, llm does not read how many tokens there were.
        assert whole.usage().output > 0
    pieces = list(model.prompt(QUESTION, max_tokens=120))
    assert len(pieces) > 1
    assert "".join(pieces) == whole.text()
    said = command("prompt", QUESTION, "-m", name, "-o", "max_tokens", "120")
    assert said.strip() == whole.text().strip()


def conversation(name: str) -> None:
    talk = llm.get_model(name).conversation()
    first = talk.prompt(QUESTION, system="Answer briefly.", stream=False, max_tokens=60)
    assert first.text()
    second = talk.prompt("And now?", stream=False, max_tokens=60)
    second.text()
    assert second.usage().input > first.usage().input + first.usage().output


def asynchronous(name: str) -> None:
    async def ask() -> str:
        return await llm.get_async_model(name).prompt(QUESTION, max_tokens=60).text()

    async def both() -> list[str]:
        return await asyncio.gather(ask(), ask())

    first, second = asyncio.run(both())
    assert first == second


def structured(name: str) -> None:
    for stream in (False, True):
        answer = llm.get_model(name).prompt(QUESTION, schema=Order, stream=stream, max_tokens=120)
        Order.model_validate_json(answer.text())
    said = json.loads(command("prompt", QUESTION, "-m", name, "--schema", "many bool, count int"))
    assert set(said) == {"many", "count"}


def tools(name: str) -> None:
    """The student cannot choose; llm has no name for ``tool_choice``, but sends every option that a model has."""
    model: Any = llm.get_model(name)
    fields: Any = {"tool_choice": (str | None, None), "parallel_tool_calls": (bool | None, None)}
    model.Options = create_model("Options", __base__=model.Options, **fields)
    found = []
    for stream in (False, True):
        answer = model.prompt(
            QUESTION, tools=[buy], stream=stream, tool_choice="required", parallel_tool_calls=False, max_tokens=240
        )
        (call,) = answer.tool_calls()
        assert call.name == "buy"
        assert set(call.arguments) == {"kind", "count"}
        found.append(call.arguments)
    assert found[0] == found[1]
    results = answer.execute_tool_calls()
    assert results[0].output == buy(**found[0])
    after = answer.reply(tool_results=results, tools=[buy], tool_choice="none", max_tokens=60)
    after.text()
    assert not after.tool_calls()


def errors(name: str) -> None:
    found = None
    try:
        llm.get_model(name).prompt(QUESTION, logit_bias={99999: 1}, max_tokens=4).text()
    except Exception as error:
        found = error
    assert "logit_bias" in str(found), found


def main() -> None:
    write_models()
    for name, cases in {
        "chat": (texts, conversation, asynchronous, structured, tools, errors),
        "responses": (texts, conversation, asynchronous, structured, tools),
        "completion": (texts, errors),
    }.items():
        for case in cases:
            case(name)
            sys.stdout.write(f"ok {name} {case.__name__}\n")
    assert command("openai", "endpoint", f"{sys.argv[1]}/v1", "--models", "--key", "none").split() == ["cdlm-nano"]
    sys.stdout.write("ok models\n")


main()
