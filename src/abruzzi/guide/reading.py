"""A model's whole output read against the tools that were declared to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from abruzzi.guide.schema import Schemas
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Message, Tool, as_tools
from abruzzi.protocol.parser import Parser, StreamParser
from abruzzi.protocol.pythonic import PythonicParser
from abruzzi.protocol.variants import Variant


def parse(
    text: str,
    *,
    tools: Iterable[Tool | Mapping[str, Any]],
    variant: str | Variant = "k2",
    tool_format: Literal["k2", "pythonic"] = "k2",
) -> Message:
    """Read what a model wrote: its content, its calls, and the problems with those that are none.

    `tools` are the declared ones, as `Tool` or in OpenAI's form. A call that is undeclared, not JSON or outside its
    schema is in `problems` and not in `tool_calls`. Whatever the text, nothing is raised for it; RequestError is for
    tools that are none.
    """
    declared = as_tools(tools)
    check = Schemas(declared).fault
    if tool_format not in ("k2", "pythonic"):
        raise RequestError(f"expected k2 or pythonic, got {tool_format!r}", "tool_format")
    parser: Parser
    if tool_format == "pythonic":
        parser = PythonicParser(tools=declared, check=check)
    else:
        parser = StreamParser(tools=declared, variant=variant, check=check)
    return Message.from_events([*parser.feed(text), *parser.close()])
