"""The body of a request for an edit."""

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from cdlm.server.errors import invalid
from cdlm.server.openai.completions.request import CompletionRequest
from cdlm.server.openai.edit.sections import infill_of
from cdlm.server.openai.fields.row import EDIT, EDIT_MESSAGE
from cdlm.server.openai.protocol.fields import ApiModel, ModelFields, SamplingFields
from cdlm.server.openai.protocol.message import TextPart, check_content


class _Completion(CompletionRequest):
    """A completion whose errors name the field of edits, and whose answer has the room that answers have here."""

    prompt_param = suffix_param = "messages"

    max_tokens: int = 1024


class EditMessage(ApiModel):
    """The message of the user, with the sections of an edit."""

    place = EDIT_MESSAGE

    role: Literal["user"]
    content: Annotated[str, PlainValidator(check_content, json_schema_input_type=str | list[TextPart])] = Field(
        description="Text or text parts with the sections current_file_content and code_to_edit."
    )


class EditRequest(ModelFields, SamplingFields):
    """``POST /v1/edit/completions``."""

    place = EDIT

    messages: list[EditMessage] = Field(min_length=1, max_length=1, description="One message of the user.")
    max_tokens: int = Field(
        1024,
        ge=1,
        description="Most tokens of the code; exact. Absent: 1024, or the rest of the context if that is less.",
    )
    return_token_ids: bool = Field(False, description="Return token_ids in choices.")
    user: str | None = Field(None, description="Accepted without effect.")

    def completion(self) -> CompletionRequest:
        """The completion that writes the code; raises ``ApiError`` 400 for sections that do not fit together."""
        try:
            infill = infill_of(self.messages[0].content)
        except ValueError as error:
            raise invalid(f"messages[0].content: {error}", "messages[0].content") from None
        asked: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set - {"messages"}}
        return _Completion.model_validate(asked | {"prompt": infill.prompt, "suffix": infill.suffix})
