"""Whether what came out of a turn is right, by the standard library and jsonschema-rs alone."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jsonschema_rs

from abruzzi import ChatRequest, Message, Tool, chat
from abruzzi.chat import Report
from abruzzi.protocol.errors import EngineError
from abruzzi.protocol.events import ArgumentsDelta, Event, Finish, Problem, ToolCallBegin, ToolCallEnd
from abruzzi.protocol.markers import ARGUMENT_BEGIN as A
from abruzzi.protocol.markers import CALL_BEGIN as B
from abruzzi.protocol.markers import CALL_END as E
from abruzzi.protocol.markers import MARKERS, THINK_END
from abruzzi.protocol.markers import SECTION_BEGIN as S
from abruzzi.protocol.markers import SECTION_END as Z
from abruzzi.protocol.variants import Variant
from tests.hostile.engine import BaseEngine


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return value


def finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


def refuse(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


@lru_cache(maxsize=8192)
def validator(schema: str) -> Any:
    return jsonschema_rs.validator_for(json.loads(schema), validate_formats=True)


def fault(name: str, arguments: str, tools: Sequence[Tool]) -> str | None:
    """What is wrong with a call, or None."""
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        return f"{name!r} is not declared"
    try:
        arguments.encode()
        value = json.loads(arguments, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        return f"{name}: {error}: {arguments[:200]!r}"
    if not isinstance(value, dict):
        return f"{name}: no object: {arguments[:200]!r}"
    if tool.parameters is None:
        return f"{name} takes no arguments: {arguments[:200]!r}" if value else None
    try:
        validator(json.dumps(tool.parameters)).validate(value)
    except ValueError as error:  # jsonschema_rs.ValidationError is one
        return f"{name}: {str(error)[:200]}: {arguments[:200]!r}"
    return None


_CALL = re.compile(rf"{re.escape(B)}functions\.([^\s<>]+):(\d+){re.escape(A)}")


def raw_calls(text: str) -> list[tuple[str, str, str]]:
    """Id, name and arguments of the calls in a text of K2's format without any mistake. Raises ValueError."""
    calls: list[tuple[str, str, str]] = []
    at = text.find(S)
    outside = text if at < 0 else text[:at]
    while at >= 0:
        at += len(S)
        while found := _CALL.match(text, at):
            _, end = json.JSONDecoder().raw_decode(text, found.end())
            calls.append((f"functions.{found[1]}:{found[2]}", found[1], text[found.end() : end]))
            if not text.startswith(E, end):
                raise ValueError(f"expected {E}, got {text[end : end + 60]!r}")
            at = end + len(E)
        if not text.startswith(Z, at):
            raise ValueError(f"expected {Z} or {B}, got {text[at : at + 60]!r}")
        at += len(Z)
        next_at = text.find(S, at)
        outside += text[at:] if next_at < 0 else text[at:next_at]
        at = next_at
    if any(marker in outside for marker in MARKERS):
        raise ValueError(f"a marker outside of a section: {outside[:200]!r}")
    return calls


def pythonic_calls(text: str, tools: Sequence[Tool]) -> list[tuple[str, str]]:
    """Name and arguments (as JSON) of the calls in a pythonic answer. Raises ValueError."""
    text = text.strip()
    names = "|".join(re.escape(tool.name) for tool in tools)
    if not re.match(rf"\[\s*(?:{names})\s*\(", text):
        return []
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{error}: {text[:200]!r}") from None
    if not isinstance(body, ast.List):
        raise ValueError(f"no list: {text[:200]!r}")
    calls = []
    for call in body.elts:
        if not isinstance(call, ast.Call) or call.args or any(one.arg is None for one in call.keywords):
            raise ValueError(f"no call of keywords alone: {ast.unparse(call)[:200]}")
        arguments = unique([(one.arg or "", _literal(one.value)) for one in call.keywords])
        calls.append((ast.unparse(call.func), json.dumps(arguments)))
    return calls


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Name("true" | "false" | "null" as word):
            return json.loads(word)
        case ast.List(elts) | ast.Tuple(elts):
            return [_literal(one) for one in elts]
        case ast.Dict(keys, values):
            return unique([(_literal(k), _literal(v)) for k, v in zip(keys, values, strict=True) if k is not None])
    return ast.literal_eval(node)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn went."""

    calls: tuple[tuple[str, str], ...]
    """Name and arguments of those that a client has."""
    invalid: tuple[str, ...]
    """What is wrong with them."""
    faults: tuple[str, ...]
    """What else is: errors where none may be, events in no order, a call that had to be and isn't."""
    message: Message | None
    report: Report | None
    error: Exception | None = None

    @property
    def wrong(self) -> tuple[str, ...]:
        return self.invalid + self.faults

    @property
    def resumes(self) -> int:
        return self.report.resumes if self.report else 0

    @property
    def is_cut(self) -> bool:
        return self.message is not None and self.message.finish_reason == "length"

    @property
    def is_ours(self) -> bool:
        """Whether the engine was given up, and its last call finished without it."""
        return self.report is not None and any(problem.action == "rejected" for problem in self.report.problems)


def play(engine: BaseEngine, request: ChatRequest, *, streamed: bool = True) -> Outcome:
    """Have the engine answer, and judge what comes."""
    events: list[Event] = []
    message = report = None
    try:
        if streamed:
            report = asyncio.run(_streamed(engine, request, events))
            message = Message.from_events(events)
        else:
            message, report = asyncio.run(chat.complete(engine, request))
    except Exception as error:
        return _failed(engine, request, events, error)
    return _judged(engine, request, events, message, report)


async def _streamed(engine: BaseEngine, request: ChatRequest, events: list[Event]) -> Report:
    report = None
    async with contextlib.aclosing(chat.stream(engine, request)) as items:
        async for item in items:
            assert report is None, "an event behind the report"
            if isinstance(item, Report):
                report = item
            else:
                events.append(item)
    assert report is not None, "no report"
    return report


def _failed(engine: BaseEngine, request: ChatRequest, events: Sequence[Event], error: Exception) -> Outcome:
    may_fail = request.tool_choice == "auto" and type(error).__name__ == "OutputError"
    may_fail |= engine.fails and isinstance(error, EngineError)
    faults = list(out_of_order(events, cut=True))
    if not may_fail:
        faults.append(f"{type(error).__name__}: {str(error)[:300]}")
    return Outcome((), (), tuple(faults), None, None, error)


def _judged(
    engine: BaseEngine,
    request: ChatRequest,
    events: Sequence[Event],
    message: Message,
    report: Report,
) -> Outcome:
    faults: list[str] = []
    is_cut = message.finish_reason == "length"
    if is_cut and not engine.cuts:
        faults.append("it was cut by no limit")
    try:
        calls = _calls(message, request, engine.capabilities.variant, cut=is_cut)
    except (ValueError, RecursionError) as error:
        faults.append(f"{request.output}: {error}")
        calls = []
    tools = [tool for tool in request.tools if request.tool_choice in ("auto", "required", tool.name)]
    if request.tool_choice != "auto" and not calls and not is_cut:
        faults.append(f"no call where one had to come: {str(message.content)[:200]!r}")
    if not request.parallel_tool_calls and len(calls) > 1:
        faults.append("several calls where one was allowed")
    if events:
        faults += out_of_order(events, cut=is_cut)
    invalid = tuple(found for name, arguments in calls if (found := fault(name, arguments, tools)))
    return Outcome(tuple(calls), invalid, tuple(faults), message, report)


def _calls(message: Message, request: ChatRequest, variant: Variant, *, cut: bool) -> list[tuple[str, str]]:
    """The calls of a message, in whatever format. Raises ValueError for what is none of that format."""
    if request.output == "tool_calls":
        calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls]
        if message.finish_reason != "length" and (message.finish_reason == "tool_calls") != bool(calls):
            raise ValueError(f"{len(calls)} calls, and the turn ended by {message.finish_reason}")
    elif message.tool_calls:
        raise ValueError("calls beside the text that stands for them")
    elif cut:
        return []
    elif request.output == "pythonic":
        text = message.content or ""
        thought, end, answer = text.partition(THINK_END) if variant.thinks else ("", "", text)
        only_thought = not end and variant.opens_thinking and request.thinking is not False
        return [] if only_thought else pythonic_calls(answer if end else thought or answer, request.tools)
    else:
        calls = raw_calls(message.content or "")
    first = sum(len(one.tool_calls) for one in request.messages)
    for i, (id, name, _) in enumerate(calls):
        if id != f"functions.{name}:{first + i}":
            raise ValueError(f"expected the id functions.{name}:{first + i}, got {id}")
    return [(name, arguments) for _, name, arguments in calls]


def out_of_order(events: Sequence[Event], *, cut: bool) -> Iterator[str]:
    """What is wrong with the order of events; a `cut` turn may end inside a call."""
    begun, open = 0, False
    for event in events:
        match event:
            case ToolCallBegin(index=index):
                if open or index != begun:
                    yield f"call {index} begins behind {begun} others{' inside one of them' if open else ''}"
                begun, open = index + 1, True
            case ArgumentsDelta(index=index) | ToolCallEnd(index=index):
                if not open or index != begun - 1:
                    yield f"{event} outside of its call"
                open = open and not isinstance(event, ToolCallEnd)
            case Problem(index=int()):
                yield f"a call was taken back: {event}"
            case Problem():
                pass
            case Finish():
                if event is not events[-1]:
                    yield "something came behind the finish"
            case _:
                if open:
                    yield f"{event} inside a call"
        if isinstance(getattr(event, "text", None), str) and not event.text:  # type: ignore[union-attr]
            yield f"{event} says nothing"
    if open and not cut:
        yield "a call never ended"
    if not cut and not isinstance(events[-1], Finish):
        yield "no finish"
