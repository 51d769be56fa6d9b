"""Functions a model may call, and calls it has made."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import Discriminator, Field, JsonValue, Tag

from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import ALLOWED, ALLOWED_TOOL, CALL, CALLED, CHOICE, CHOSEN_FUNCTION, FUNCTION, TOOL
from cdlm.server.openai.protocol.fields import ApiModel
from cdlm.server.openai.protocol.formats import Name

MAX_TOOLS = 128

ChoiceMode = Literal["auto", "required"]


class Function(ApiModel):
    """A function; without ``parameters`` it takes none. Arguments always follow them, with ``strict`` or without."""

    place = FUNCTION

    name: Name
    description: str = ""
    parameters: dict[str, JsonValue] = {"type": "object", "properties": {}, "additionalProperties": False}
    strict: bool = True

    def declaration(self) -> dict[str, JsonValue]:
        """The declaration of the function in prompts."""
        function: dict[str, JsonValue] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        return {"type": "function", "function": function | {"parameters": self.parameters}}


class Tool(ApiModel):
    """A tool that the model may call; only functions exist."""

    place = TOOL

    type: Literal["function"]
    function: Function


class ChosenName(ApiModel):
    """A function by its name."""

    place = CHOSEN_FUNCTION

    name: str


class ChosenTool(ApiModel):
    """``tool_choice`` that names a function, which must be called."""

    place = CHOICE

    type: Literal["function"]
    function: ChosenName

    mode: ClassVar[ChoiceMode] = "required"
    several: ClassVar[bool] = False

    @property
    def names(self) -> list[str]:
        """The functions that may be called."""
        return [self.function.name]


class AllowedTool(ChosenTool):
    """One of the tools that may be called."""

    place = ALLOWED_TOOL


class AllowedSet(ApiModel):
    """The tools that may be called, and whether one of them must be."""

    place = ALLOWED

    mode: ChoiceMode
    tools: list[AllowedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedChoice(ApiModel):
    """A ``tool_choice`` that allows some of the tools; the prompt shows all."""

    place = CHOICE

    type: Literal["allowed_tools"]
    allowed_tools: AllowedSet

    several: ClassVar[bool] = True

    @property
    def mode(self) -> ChoiceMode:
        """Whether one of them must be called."""
        return self.allowed_tools.mode

    @property
    def names(self) -> list[str]:
        """The functions that may be called."""
        return [tool.function.name for tool in self.allowed_tools.tools]


def _kind(choice: object) -> str:
    kind = choice.get("type") if isinstance(choice, dict) else "word" if isinstance(choice, str) else None
    return f"<{kind}>"


# Brackets distinguish tags from field names in error locations.
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<word>")]
    | Annotated[ChosenTool, Tag("<function>")]
    | Annotated[AllowedChoice, Tag("<allowed_tools>")],
    Discriminator(
        _kind,
        custom_error_type="tool_choice",
        custom_error_message="must be 'none', 'auto', 'required', or an object of type 'function' or 'allowed_tools'",
    ),
]


class CalledFunction(ApiModel):
    """A function and the JSON text of its arguments."""

    place = CALLED

    name: str
    arguments: str = ""


class ToolCall(ApiModel):
    """A call in an assistant's message."""

    place = CALL

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction = Field(description="What was called, and with what.")

    def fields(self) -> dict[str, JsonValue]:
        """The call for the chat template."""
        called: dict[str, JsonValue] = {"name": self.function.name, "arguments": self.function.arguments}
        call: dict[str, JsonValue] = {"id": self.id} if self.id else {}
        return call | {"type": self.type, "function": called}


class NamedChoice(Protocol):
    """A ``tool_choice`` that names functions."""

    @property
    def mode(self) -> ChoiceMode:
        """Whether one of them must be called."""

    @property
    def names(self) -> Collection[str]:
        """The functions that may be called; the others are only shown."""

    @property
    def several(self) -> bool:
        """Whether the choice allows more than one call."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that a request offers to the model.

    Attributes:
        functions: functions that the prompt declares, in order; empty if none may be called.
        names: the functions that may be called.
        required: whether the answer must be a call.
        several: whether the answer may have several calls.
        parameters: path of a function's parameters in the request, with a placeholder for its number.
    """

    functions: Sequence[Function]
    names: Collection[str]
    required: bool
    several: bool
    parameters: str

    @classmethod
    def of(
        cls,
        functions: Sequence[Function],
        choice: Literal["none", "auto", "required"] | NamedChoice,
        *,
        several: bool,
        parameters: str,
    ) -> "ToolUse":
        """Interprets ``tool_choice``; raises ``ApiError`` 400 if it does not fit the functions."""
        known = [function.name for function in functions]
        if len(set(known)) < len(known):
            raise invalid("tools: two functions have one name", "tools")
        if not functions and choice not in ("none", "auto"):
            raise invalid("tool_choice needs tools", "tool_choice")
        if isinstance(choice, str):
            return cls([] if choice == "none" else functions, known, choice == "required", several, parameters)
        for name in choice.names:
            if name not in known:
                raise invalid(f"tool_choice: there is no tool named {name[:64]!r}", "tool_choice")
        return cls(functions, choice.names, choice.mode == "required", several and choice.several, parameters)
