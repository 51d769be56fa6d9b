"""Functions a model may call, and calls it has made."""

from typing import Literal

from pydantic import Field, JsonValue

from server.protocol.common import ApiModel
from server.protocol.formats import Name

MAX_TOOLS = 128


class Function(ApiModel):
    """A function; without ``parameters`` it takes none. Arguments always follow them, with ``strict`` or without."""

    name: Name
    description: str = ""
    parameters: dict[str, JsonValue] = {"type": "object", "properties": {}, "additionalProperties": False}
    strict: bool = True


class Tool(ApiModel):
    """Something the model may call; functions are all there is."""

    type: Literal["function"]
    function: Function

    def declaration(self) -> dict[str, JsonValue]:
        """The tool as prompts show it."""
        function: dict[str, JsonValue] = {"name": self.function.name}
        if self.function.description:
            function["description"] = self.function.description
        return {"type": "function", "function": function | {"parameters": self.function.parameters}}


class ChosenName(ApiModel):
    """The function that must be called."""

    name: str


class ChosenTool(ApiModel):
    """``tool_choice`` that names a function."""

    type: Literal["function"]
    function: ChosenName


class CalledFunction(ApiModel):
    """A function and the JSON text of its arguments."""

    name: str
    arguments: str = ""


class ToolCall(ApiModel):
    """A call in an assistant's message."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction = Field(description="What was called, and with what.")
