"""Messages of a chat request, and the choice between the types that a value may have."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from effchal.prompts.encoder import with_tool_calls
from effchal.serving.fields import ApiRequest
from effchal.serving.helm_types import NotSupported, Text


def _kind(value: Any) -> str | None:
    """The type that a value is meant to have, by its beginning: an error is then of that type."""
    lists = ""
    while isinstance(value, list) and value and len(lists) < 2:
        value, lists = value[0], lists + "s"
    kinds: dict[type, str] = {str: "<text>", int: "<id>", dict: "<part>", TextPart: "<part>"}
    kind = kinds.get(type(value))
    return None if kind is None else kind + lists


def choice(message: str) -> Discriminator:
    return Discriminator(_kind, custom_error_type="choice", custom_error_message=message)


OneText = Annotated[Text, Tag("<text>")]


class TextPart(ApiRequest):
    type: Literal["text"]
    text: Text


Content = Annotated[
    OneText | Annotated[list[TextPart], Field(min_length=1, fail_fast=True), Tag("<part>s")],
    choice("give a text, or a list of parts of type text"),
]


class FunctionCall(ApiRequest):
    name: Text
    arguments: Text  # JSON, as the model wrote it

    @classmethod
    def refuses(cls, key: str) -> bool:
        return True


class ToolCall(ApiRequest):
    type: Literal["function"] = "function"
    function: FunctionCall
    id: Text | None = None  # in no prompt: training leaves it out, too


class Message(ApiRequest):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] = Field(default_factory=list)
    # Only beside tool_calls it may be left out.
    content: Annotated[Content | None, Field(validate_default=True)] = None
    # In no prompt: training leaves them out, too.
    tool_call_id: Text | None = None
    name: Text | None = None
    function_call: NotSupported = None

    @field_validator("tool_calls")
    @classmethod
    def _by_the_assistant(cls, calls: list[ToolCall], info: ValidationInfo) -> list[ToolCall]:
        if calls and info.data.get("role") != "assistant":
            raise ValueError("only an assistant's message calls tools")
        return calls

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: Content | None, info: ValidationInfo) -> Content | None:
        # Calls that are wrong have an error of their own, and are not in `data`.
        if content is None and not info.data.get("tool_calls", True):
            raise ValueError("Field required")
        return content

    @property
    def text(self) -> str:
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return with_tool_calls(text, [call.function.model_dump() for call in self.tool_calls])
