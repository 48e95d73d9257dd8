"""Abruzzi: tool calling for Kimi K2 that holds, on any engine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abruzzi.agent import Agent
    from abruzzi.chat import ChatRequest
    from abruzzi.engines.base import Engine, SamplingParams
    from abruzzi.engines.connect import connect
    from abruzzi.guide.reading import StreamParser, parse
    from abruzzi.protocol.errors import (
        AbruzziError,
        EngineError,
        EngineTimeout,
        EngineUnavailable,
        OutputError,
        RequestError,
    )
    from abruzzi.protocol.messages import Message, Tool, ToolCall
    from abruzzi.protocol.template import render
    from abruzzi.tools import ToolError, tool

__version__ = "0.1.0"

__all__ = [
    "AbruzziError",
    "Agent",
    "ChatRequest",
    "Engine",
    "EngineError",
    "EngineTimeout",
    "EngineUnavailable",
    "Message",
    "OutputError",
    "RequestError",
    "SamplingParams",
    "StreamParser",
    "Tool",
    "ToolCall",
    "ToolError",
    "connect",
    "parse",
    "render",
    "tool",
]

# Loaded when they are asked for: all of it takes half a second, which a Ctrl-C would end in a traceback.
_HOMES = {
    "Agent": "agent",
    "ChatRequest": "chat",
    "Engine": "engines.base",
    "SamplingParams": "engines.base",
    "connect": "engines.connect",
    "StreamParser": "guide.reading",
    "parse": "guide.reading",
    "Message": "protocol.messages",
    "Tool": "protocol.messages",
    "ToolCall": "protocol.messages",
    "render": "protocol.template",
    "ToolError": "tools",
    "tool": "tools",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'abruzzi' has no attribute {name!r}")
    home = import_module(f"abruzzi.{_HOMES.get(name, 'protocol.errors')}")
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
