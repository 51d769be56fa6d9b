"""The body of a request for decisions."""

from typing import Annotated

from pydantic import BeforeValidator, Field, JsonValue

from cdlm.server.openai.decisions.items import DecisionItem, MessageItem, check_data
from cdlm.server.openai.decisions.question import Question
from cdlm.server.openai.fields.row import DECISIONS
from cdlm.server.openai.protocol.fields import ModelFields
from cdlm.server.openai.protocol.message import Message, chat_messages, listed

MAX_QUESTIONS = 200


_Input = Annotated[str, Field(min_length=1)] | Annotated[list[DecisionItem], Field(min_length=1)]


class DecisionsRequest(ModelFields):
    """``POST /v1/decisions``."""

    place = DECISIONS

    input: Annotated[
        list[DecisionItem], BeforeValidator(listed, json_schema_input_type=_Input), Field(min_length=1)
    ] = Field(description="What the questions are about: text, or messages, calls and their outputs.")
    questions: list[Question] = Field(
        min_length=1, max_length=MAX_QUESTIONS, description="Predicates, choices and scores; answered in this order."
    )
    joint: bool = Field(
        False, description="Answer all questions at once, in one denoise step over a canvas with a slot for each."
    )
    priority: int = Field(
        0,
        ge=-(2**31),
        le=2**31 - 1,
        description="Waiting requests of one key with a lower value begin first; one in eight is the oldest.",
    )
    cache_salt: str = Field("", max_length=1024, description="Only requests with the same salt share cached prompts.")

    def check(self) -> None:
        """Raises ``ApiError`` 400 for values that the fields' types allow and the route does not."""
        for index, item in enumerate(self.input):
            if isinstance(item, MessageItem):
                name, content = "content", item.content
            else:
                name, content = "output", getattr(item, "output", "")
            for number, part in enumerate(content if isinstance(content, list) else []):
                check_data(part, f"input[{index}].{name}[{number}]")
        for index, question in enumerate(self.questions):
            question.check(f"questions[{index}]")

    def messages(self, asked: str) -> list[dict[str, JsonValue]]:
        """The chat that asks the question ``asked`` about the input: at the end of the user's last message.

        Raises ``ApiError`` 400 for the output of a call that is not there.
        """
        messages = chat_messages(self.input)
        if messages[-1].role == "user":
            asked = f"{messages.pop().content}\n\n{asked}"
        return [message.fields() for message in [*messages, Message(role="user", content=asked)]]
