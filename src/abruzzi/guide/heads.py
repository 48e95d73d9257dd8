"""Which tool the head of a call means that is damaged, or breaks off."""

from __future__ import annotations

import re
from collections.abc import Sequence

from abruzzi.guide.strings import common_prefix
from abruzzi.protocol.events import Problem
from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN
from abruzzi.protocol.messages import Tool

PREFIX = "functions."
_NAME_END = re.compile(r"[:(<{\s]")


def header_of(problem: Problem | None) -> str:
    """The head of the call that was rejected, where there is one."""
    if problem is None:
        return ""
    text = problem.text.rpartition(CALL_BEGIN)[2].partition(ARGUMENT_BEGIN)[0]
    return problem.name or text.lstrip("[ ").partition("(")[0]


def meant_by(header: str, tools: Sequence[Tool]) -> str:
    """The name that stands in the header, or as much of it as one of the tools' begins with."""
    written = _written(header)
    if whole := [tool.name for tool in tools if len(tool.name) > 2 and tool.name in written]:
        return max(whole, key=len)
    return max((common_prefix(tool.name, written) for tool in tools), key=len, default="")


def is_near(meant: str, header: str, tools: Sequence[Tool]) -> bool:
    """Whether nothing else was written, or a good part of the name that is meant."""
    written = _written(header)
    name = _NAME_END.split(written, 1)[0]
    has_part = len(meant) > 2 and 3 * len(meant) >= len(name)
    return not written or has_part or name.startswith(tuple(tool.name for tool in tools))


def _written(header: str) -> str:
    written = header.strip().removeprefix(PREFIX)
    return "" if PREFIX.startswith(written) else written
