"""``tools`` and ``tool_choice`` of ``/v1/responses``, where a function's fields are beside its type."""

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from cdlm.server.openai.fields.row import RESPONSE_TOOL
from cdlm.server.openai.protocol.fields import ApiModel
from cdlm.server.openai.protocol.tools import ChoiceMode, Function


class FunctionTool(Function):
    """A function that the model may call; functions are all the tools there are."""

    place = RESPONSE_TOOL
    kinds = ("function",)

    type: Literal["function"]


class ChosenFunction(ApiModel):
    """The function that must be called."""

    place = "tool_choice"
    kinds = ("function", "allowed_tools")

    type: Literal["function"]
    name: str

    mode: ClassVar[ChoiceMode] = "required"
    several: ClassVar[bool] = False

    @property
    def names(self) -> list[str]:
        """The functions that may be called."""
        return [self.name]


class NamedTool(ApiModel):
    """A function by its name."""

    place = "tool_choice.tools[]"
    kinds = ("function",)

    type: Literal["function"]
    name: str


class AllowedTools(ApiModel):
    """The functions that may be called; the prompt shows the others too."""

    place = "tool_choice"

    type: Literal["allowed_tools"]
    mode: ChoiceMode = Field(description="Whether one of them must be called.")
    tools: list[NamedTool] = Field(min_length=1)

    several: ClassVar[bool] = True

    @property
    def names(self) -> list[str]:
        """The functions that may be called."""
        return [tool.name for tool in self.tools]


def _tag(choice: object) -> str | None:
    if not isinstance(choice, dict):
        return "<word>" if isinstance(choice, str) else None
    return "<allowed>" if choice.get("type") == "allowed_tools" else "<function>"


# Tags have brackets, so that none is taken for the name of a field where an error says its place.
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<word>")]
    | Annotated[ChosenFunction, Tag("<function>")]
    | Annotated[AllowedTools, Tag("<allowed>")],
    Discriminator(
        _tag,
        custom_error_type="tool_choice",
        custom_error_message="must be 'none', 'auto', 'required', or an object of type 'function' or 'allowed_tools'",
    ),
]
