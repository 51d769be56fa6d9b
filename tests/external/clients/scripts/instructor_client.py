"""instructor against a server: python instructor_client.py URL"""

import asyncio
import sys
from typing import Annotated, Any, Literal

import instructor
import openai
from instructor import Mode
from pydantic import BaseModel, Field

QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
WHERE: dict[str, Any] = {"base_url": f"{sys.argv[1]}/v1", "api_key": "none", "max_retries": 0}
ASKED: dict[str, Any] = {
    "model": "cdlm-nano", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 240, "max_retries": 0,
}  # fmt: skip


class Order(BaseModel):
    """An order of fruit."""

    kind: Literal["apple", "pear"]
    count: Annotated[int, Field(ge=0, le=99)]


def check(mode: Mode) -> None:
    client: Any = instructor.from_openai(openai.OpenAI(**WHERE), mode=mode)
    whole, raw = client.chat.completions.create_with_completion(response_model=Order, **ASKED)
    assert isinstance(whole, Order)
    assert raw.model == "cdlm-nano"
    # Partial models have other names, which the prompt shows; so the answer may be another one.
    (*_, last) = client.chat.completions.create_partial(response_model=Order, **ASKED)
    assert Order.model_validate(last.model_dump())

    async def asynchronous() -> Order:
        other: Any = instructor.from_openai(openai.AsyncOpenAI(**WHERE), mode=mode)
        found: Order = await other.chat.completions.create(response_model=Order, **ASKED)
        return found

    assert asyncio.run(asynchronous()).model_dump() == whole.model_dump()


def main() -> None:
    for mode in (Mode.TOOLS, Mode.JSON_SCHEMA, Mode.RESPONSES_TOOLS):
        check(mode)
        sys.stdout.write(f"ok {mode.name}\n")


main()
