"""What a client asks for, in no dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from abruzzi.engines.base import SamplingParams
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Message, Tool

# Of what makes a request ready beside other work: so many messages or tools, so many characters of schemas.
_MANY = 20
_LONG = 10_000


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a client asks for, in no dialect.

    `output` says how calls come back: parsed, or as the text that the model wrote, in K2's format (`raw`) or the
    `pythonic` one.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    tool_choice: Literal["auto", "required", "none"] | str = "auto"
    allowed_tools: Sequence[str] | None = None
    """The names of those that may be called, where that is not all that the model is shown."""
    parallel_tool_calls: bool = True
    output: Literal["tool_calls", "raw", "pythonic"] = "tool_calls"
    thinking: bool | None = None
    """Whether the model thinks before it answers; None leaves it to the model's kind."""
    keeps_thinking: bool = False
    """Whether the model reads the reasoning of all earlier turns, and not only of the last calls."""
    answer: Mapping[str, Any] | None = None
    """The JSON Schema of the object that the content has to be; None where any text will do."""
    prompt: str | None = None
    """In place of messages: what the model reads as it stands, control tokens and all. It answers with text."""
    begun: Message | None = None
    """What the client has written of the answer: the model goes on behind it, and only that is told. No call is due
    then, nor an answer of a form.
    """
    params: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        is_due = self.tool_choice not in ("auto", "none") or self.answer is not None or self.output != "tool_calls"
        if self.begun is not None and is_due:
            raise RequestError("expected an answer that may begin with any text, as it was begun", "begun")
        if self.output not in ("tool_calls", "raw", "pythonic"):
            raise RequestError(f"expected tool_calls, raw or pythonic, got {self.output!r}", "output")
        if self.answer is not None and self.output != "tool_calls":
            raise RequestError(f"an answer of a form of its own can't be had as {self.output} text", "output")

    def callable_tools(self) -> Sequence[Tool]:
        """The tools that the turn may call; where there are none, the model is shown none. Raises RequestError for a
        choice that can't be.
        """
        tools, choice = self.tools, self.tool_choice
        if choice == "none":
            return ()
        if self.allowed_tools is not None:
            if missing := [name for name in self.allowed_tools if all(tool.name != name for tool in tools)]:
                raise RequestError(f"expected declared tools, got {missing[0]!r}", "tool_choice")
            tools = [tool for tool in tools if tool.name in self.allowed_tools]
        if choice == "required" and not tools:
            lack = "declared" if self.allowed_tools is None else "allowed"
            raise RequestError(f"required needs tools to choose from, none are {lack}", "tool_choice")
        if choice in ("auto", "required"):
            return tools
        chosen = [tool for tool in tools if tool.name == choice]
        if not chosen:
            raise RequestError(f"expected auto, none, required or a declared tool, got {choice!r}", "tool_choice")
        return chosen

    @property
    def is_large(self) -> bool:
        """Whether it takes more than some milliseconds to make it ready."""
        if len(self.messages) > _MANY or len(self.tools) > _MANY:
            return True
        schemas = (self.answer, *(tool.parameters for tool in self.tools))
        return sum(len(str(schema)) for schema in schemas) > _LONG
