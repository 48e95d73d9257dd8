"""Which tool the head of a call means that is damaged, or breaks off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from abruzzi.guide.strings import common_prefix
from abruzzi.protocol.events import Problem
from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN
from abruzzi.protocol.messages import Tool

PREFIX = "functions."
_NAME_END = re.compile(r"[:(<{\s]")
# What may stand around a name that is meant: no more of a longer one.
_LEFT, _RIGHT = r"(?:^|[^A-Za-z0-9_]|functions?_?)", r"(?![A-Za-z]|_[A-Za-z])"
# `get_whether` for `get_weather`, and not `delete_draft` for `delete_account`.
_ALIKE = 0.85


def header_of(problem: Problem | None) -> str:
    """The head of the call that was rejected, where there is one."""
    if problem is None:
        return ""
    text = problem.text.rpartition(CALL_BEGIN)[2].partition(ARGUMENT_BEGIN)[0]
    return problem.name or text.lstrip("[ ").partition("(")[0]


def nearest(header: str, tools: Sequence[Tool]) -> str | None:
    """As much of a tool's name as was written, where nothing else was, or nearly its name; None for another name."""
    written = _written(header)
    if not written:
        return ""
    words = [tool.name for tool in tools if re.search(_LEFT + re.escape(tool.name) + _RIGHT, written)]
    if words:
        return max(words, key=len)
    name = _NAME_END.split(written, 1)[0]
    if any(tool.name.startswith(name) for tool in tools):
        return name
    likeness, like = max(((_likeness(name, tool.name), tool.name) for tool in tools), default=(0.0, ""))
    return common_prefix(like, name) if likeness >= _ALIKE else None


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower(), autojunk=False).ratio()


def meant_by(header: str, tools: Sequence[Tool]) -> str:
    """As much of any tool's name as the header begins with: for a call that has to be one of these."""
    written = _written(header)
    return max((common_prefix(tool.name, written) for tool in tools), key=len, default="")


def _written(header: str) -> str:
    written = header.strip().removeprefix(PREFIX)
    return "" if PREFIX.startswith(written) else written
