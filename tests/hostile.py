"""Engines that do all that no engine should, and calls that are wrong in every way in which K2's are.

    HostileEngine   has a habit: it never does what it is asked
    SloppyEngine    knows the right calls, and damages each with probability p by a class of `DAMAGES`

Both count what was asked and pulled, and fail a test that asks without end. `play` has one of them answer a request and
judges what came out, by the standard library and jsonschema-rs alone. All of it is a function of its seeds.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import lzma
import math
import random
import re
import string
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from keyword import iskeyword
from pathlib import Path
from typing import Any, Literal

import jsonschema_rs

from abruzzi import ChatRequest, Message, SamplingParams, Tool, ToolCall, chat
from abruzzi.chat import Report
from abruzzi.engines.base import Capabilities, Piece, Usage
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError
from abruzzi.protocol.events import ArgumentsDelta, Event, Finish, Problem, ToolCallBegin, ToolCallEnd
from abruzzi.protocol.markers import ALIASES, MARKERS, THINK_BEGIN, THINK_END
from abruzzi.protocol.markers import ARGUMENT_BEGIN as A
from abruzzi.protocol.markers import CALL_BEGIN as B
from abruzzi.protocol.markers import CALL_END as E
from abruzzi.protocol.markers import SECTION_BEGIN as S
from abruzzi.protocol.markers import SECTION_END as Z
from abruzzi.protocol.messages import Function
from abruzzi.protocol.prompt import Prompt, unescape
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2, K2_5, K2_THINKING, VARIANTS, Variant

END = "<|im_end|>"
MOST_ASKED = 40
"""Requests that one turn may cost, by far."""
PATIENCE = 400_000
"""Characters that one turn may pull, by far."""

# What came out is judged


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


def play(engine: HostileEngine | SloppyEngine, request: ChatRequest, *, streamed: bool = True) -> Outcome:
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


async def _streamed(engine: HostileEngine | SloppyEngine, request: ChatRequest, events: list[Event]) -> Report:
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


def _failed(
    engine: HostileEngine | SloppyEngine, request: ChatRequest, events: Sequence[Event], error: Exception
) -> Outcome:
    may_fail = request.tool_choice == "auto" and type(error).__name__ == "OutputError"
    may_fail |= engine.fails and isinstance(error, EngineError)
    faults = list(out_of_order(events, cut=True))
    if not may_fail:
        faults.append(f"{type(error).__name__}: {str(error)[:300]}")
    return Outcome((), (), tuple(faults), None, None, error)


def _judged(
    engine: HostileEngine | SloppyEngine,
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


# What an engine is asked


def written(prompt: Prompt) -> str:
    """What stands of the assistant's turn at the end of a prompt."""
    row = prompt.variant
    head = row.turn_begin["assistant"] + row.labels["assistant"] + row.middle
    head += THINK_BEGIN if row.opens_thinking else ""
    return unescape(str(prompt).rpartition(head)[2], row)


Ids = Literal["right", "wrong"]


def with_ids(texts: Iterator[str], rng: random.Random, tokenizer: Tokenizer, ids: Ids) -> Iterator[Piece]:
    """Pieces of one token or a few, with their ids: `right` ones, or `wrong` ones that say something else. A text that
    is cut off ends with the half of a character.
    """
    controls = re.compile("(" + "|".join(map(re.escape, tokenizer.controls)) + ")")
    for text in texts:
        tokens: list[int] = []
        for part in controls.split(re.sub("[\ud800-\udfff]", "\ufffd", text)):
            tokens += [tokenizer.controls[part]] if part in tokenizer.controls else tokenizer.encode(part)
        while tokens:
            count = rng.choice((1, 1, 1, 2, 5))
            some, tokens = tokens[:count], tokens[count:]
            if ids == "right":
                yield Piece(tokenizer.decode(some), ids=tuple(some))
            else:
                others = (*tokenizer.controls.values(), *range(1000))
                yield Piece(tokenizer.decode(some), ids=tuple(rng.choices(others, k=len(some))))
        yield Piece()
    if ids == "right" and rng.random() < 0.3:
        yield Piece(ids=tuple(tokenizer.encode("\U0001f9ff")[:1]))


# How an engine cuts its output into pieces


def whole(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    while several := list(islice(texts, 500)):
        yield "".join(several)


def characters(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    for text in texts:
        yield from text or ("",)


def single_bytes(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    """A piece a byte; those that end no character hold nothing."""
    for text in texts:
        yield from ("",) if not text else ()
        for character in text:
            yield from ("",) * (len(character.encode("utf-8", "surrogatepass")) - 1)
            yield character


def anywhere(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    for text in texts:
        at = 0
        while at < len(text) or not text:
            size = rng.choice((0, 1, 2, 3, 7, 40))
            yield text[at : at + size]
            at += size
            if not text:
                break


def as_tokens(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    return texts


Cut = Callable[[Iterator[str], random.Random], Iterator[str]]
CUTS: Mapping[str, Cut] = {
    "whole": whole,
    "characters": characters,
    "bytes": single_bytes,
    "anywhere": anywhere,
    "tokens": as_tokens,
}

# What a hostile engine writes


@dataclass(frozen=True, slots=True)
class Scene:
    """What an engine knows of the turn, though it makes no use of it."""

    tools: Sequence[Tool]
    pythonic: bool
    first_index: int


Write = Callable[[random.Random, Scene], Iterator[str]]
_RANGES = [(0, 0x20), (0x20, 0x7F), (0x7F, 0x250), (0x2000, 0x2070), (0x4E00, 0x4F00), (0xD800, 0xE000)]
_RANGES += [(0xFE00, 0x10000), (0x1F300, 0x1F700), (0x10000, 0x110000), (0, 1)]
_WORDS = ["I will", "call", "the", "tool", "now.", "user!", "查询", "Größe", "🙂", "`code`", "a < b", "1 > 0", "\n\n"]
_JSON = ["{", "}", "[", "]", ":", ",", '"', "\\", "null", "true", "false", "-", "1", "0.5", "1e9", " ", "\n", "'", '{"']
_JSON += ['": ', '", "', "\\u00", "\\ud83d", '"}', "}}", "NaN", "True", "None", "//", "/*", "(", ")", "=", "[[", "{}"]
_SPELLED = [*MARKERS, *ALIASES, THINK_BEGIN, THINK_END, END, "<|im_user|>", "<|tool_", "<", "<|", "functions.", ":0"]


def random_characters(rng: random.Random, scene: Scene) -> Iterator[str]:
    for _ in range(rng.randrange(300)):
        yield chr(rng.randrange(*rng.choice(_RANGES)))


def random_words(rng: random.Random, scene: Scene) -> Iterator[str]:
    for _ in range(rng.randrange(1, 80)):
        yield rng.choice(_WORDS) + " "


def random_json(rng: random.Random, scene: Scene) -> Iterator[str]:
    for _ in range(rng.randrange(120)):
        yield rng.choice(_JSON if rng.random() < 0.7 else _SPELLED)


def keys_of(tool: Tool) -> list[str]:
    properties = (tool.parameters or {}).get("properties")
    return list(properties) if isinstance(properties, Mapping) else []


def right_fragments(rng: random.Random, scene: Scene) -> Iterator[str]:
    """Names, keys and values that are the tools', in almost the right order."""
    for _ in range(rng.randrange(1, 4)):
        tool = rng.choice(scene.tools)
        name = tool.name[: rng.choice((None, -1, 3))]
        yield rng.choice((f"[{name}(", f"{name}(")) if scene.pythonic else rng.choice((S + B, B, S, ""))
        if not scene.pythonic:
            yield rng.choice((f"functions.{name}:{rng.randrange(9)}", name, f"functions_{name}_1", "call_1"))
            yield rng.choice((A, A, A, "{", ""))
        yield "" if scene.pythonic else "{"
        for key in rng.sample([*keys_of(tool), "invented"], rng.randrange(1, 2 + len(keys_of(tool)))):
            yield f"{key}=" if scene.pythonic else rng.choice((f'"{key}": ', f'"{key}":', f"{key}: ", f'"{key[:2]}'))
            yield rng.choice(('"x"', "1", "-0.5", "true", "null", "[]", "{}", '["a", 1]', '{"a": {}}', "'x'", '"'))
            yield rng.choice((", ", ",", "", " "))
        yield rng.choice((")", ")]", "")) if scene.pythonic else rng.choice(("}", "}", "]", "", ",}"))
        yield "" if scene.pythonic else rng.choice((E, E + Z, Z, END, "", " and then"))


def nothing(rng: random.Random, scene: Scene) -> Iterator[str]:
    yield from ()


def half_a_character(rng: random.Random, scene: Scene) -> Iterator[str]:
    yield from islice(right_call(rng, scene), rng.randrange(60))
    yield rng.choice(("\ud83d", "\ufffd", "\udc00", "é\ud800", "\ud83d\ude00\ud83d"))


def half_an_escape(rng: random.Random, scene: Scene) -> Iterator[str]:
    tool = rng.choice(scene.tools)
    key = rng.choice(keys_of(tool) or ["x"])
    id = f"functions.{tool.name}:{scene.first_index}"
    head = f"[{tool.name}({key}='" if scene.pythonic else f'{S}{B}{id}{A}{{"{key}":"'
    yield from rng.choice((head, "a", ""))
    yield rng.choice(("\\", "\\u", "\\u00", "\\ud83d", "\\ud83d\\", "\\ud83d\\ude0", "\\x", "\\ud83d\\u0041"))


def guess(schema: Any) -> Any:
    """A value that a plain schema takes, likely."""
    if not isinstance(schema, Mapping):
        return {}
    for keyword in ("enum", "examples"):
        if schema.get(keyword):
            return schema[keyword][0]
    for keyword in ("const", "default"):
        if schema.get(keyword) is not None:
            return schema[keyword]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            return guess(schema[keyword][0])
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            properties = schema.get("properties") or {}
            return {key: guess(properties.get(key, {"type": "string"})) for key in schema.get("required") or ()}
        case "array":
            return [guess(schema.get("items", {"type": "string"})) for _ in range(schema.get("minItems", 0))]
        case "string":
            known = {"uri": "http://a.b/c", "date": "2026-01-02", "email": "a@b.cc"}
            return known.get(schema.get("format", ""), "é🙂a".ljust(schema.get("minLength", 0), "x"))
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
    return None


def right_arguments(rng: random.Random, scene: Scene) -> tuple[str, Any] | None:
    """A tool's name and what it takes; None where guessing finds no such tool."""
    for tool in rng.sample(list(scene.tools), len(scene.tools)):
        value = {} if tool.parameters is None else guess(tool.parameters)
        if fault(tool.name, json.dumps(value), [tool]) is None:
            return tool.name, value
    return None


def right_call(rng: random.Random, scene: Scene, spell: Callable[[Any], str] = json.dumps) -> Iterator[str]:
    """A right call, character by character, where one can be guessed."""
    if (found := right_arguments(rng, scene)) is None:
        return
    name, value = found
    if scene.pythonic:
        yield from f"[{name}({', '.join(f'{key}={one!r}' for key, one in value.items())})]"
    else:
        yield from (S, B, *f"functions.{name}:{scene.first_index}", A, *spell(value), E, Z)


def right_with_spaces(rng: random.Random, scene: Scene) -> Iterator[str]:
    yield from right_call(rng, scene, lambda value: respelled(value, rng, most=60))


def right_then_endless(rng: random.Random, scene: Scene) -> Iterator[str]:
    yield from right_call(rng, scene)
    while True:
        yield from random_words(rng, scene)


def endless_json(rng: random.Random, scene: Scene) -> Iterator[str]:
    yield from rng.choice(((), (S, B), (S,)))
    while True:
        yield rng.choice(_JSON)


def endless_calls(rng: random.Random, scene: Scene) -> Iterator[str]:
    while True:
        yield from right_fragments(rng, scene)
        yield " "


def for_ever(token: str) -> Write:
    def write(rng: random.Random, scene: Scene) -> Iterator[str]:
        while True:
            yield token

    return write


@dataclass(frozen=True, slots=True)
class Habit:
    """What an engine writes, and how it ends: `silence` is no finish_reason, `error` an EngineError."""

    write: Write
    ending: Literal["stop", "length", "silence", "error"] = "stop"
    is_endless: bool = False


TOKENS = (
    "{",
    '"',
    " ",
    "\n",
    "1",
    "a",
    "[[",
    "[",
    "\\",
    "é",
    "}",
    ",",
    "\x00",
    "\ud83d",
    "\\u",
    "",
    THINK_END,
    *MARKERS,
)
HABITS: Mapping[str, Habit] = {
    "random characters": Habit(random_characters),
    "random words": Habit(random_words),
    "random json and markers": Habit(random_json),
    "fragments of what is right": Habit(right_fragments),
    "ends at once": Habit(nothing),
    "ends at once by length": Habit(nothing, "length"),
    "ends by length": Habit(right_fragments, "length"),
    "ends in a character": Habit(half_a_character),
    "ends in an escape": Habit(half_an_escape),
    "right with many spaces": Habit(right_with_spaces),
    "right": Habit(right_call),
    "right, then without end": Habit(right_then_endless, is_endless=True),
    "json without end": Habit(endless_json, is_endless=True),
    "calls without end": Habit(endless_calls, is_endless=True),
    "never says why it ended": Habit(random_json, "silence"),
    "fails in mid-stream": Habit(random_json, "error"),
    **{f"{token!r} for ever": Habit(for_ever(token), is_endless=True) for token in TOKENS},
}


class _Engine:
    """What both engines have: they remember what was asked of them."""

    fails = False
    """Whether it may raise EngineError."""
    cuts = False
    """Whether a limit may end its output."""

    def __init__(
        self, variant: Variant, rng: random.Random, cut: str, constrains: bool, tokenizer: Tokenizer | None, ids: Ids
    ) -> None:
        self.capabilities = Capabilities("hostile", variant, constrains, tokenizer=tokenizer)
        self._ids = ids
        self.asked: list[Prompt] = []
        self.pulled = 0
        self.closed = 0
        self._rng = rng
        self._cut, self._cut_rng = CUTS[cut], random.Random(cut)

    def _ask(self, prompt: Prompt) -> None:
        self.asked.append(prompt)
        assert str(prompt).startswith(str(self.asked[0]).removesuffix(written(self.asked[0]))), "another conversation"
        assert len(self.asked) <= MOST_ASKED, "it is asked without end"

    async def _say(self, texts: Iterator[str], most: int | None) -> AsyncGenerator[Piece, None]:
        """The text in pieces, of at most so many tokens; then nothing, or a piece that tells of the limit."""
        finished = False
        try:
            for count, piece in enumerate(self._pieces(islice(texts, most))):
                self.pulled += len(piece.text)
                assert self.pulled <= PATIENCE and count <= PATIENCE, "nobody stops it"
                yield piece
            if most is not None and next(texts, None) is not None:
                yield Piece("", "length", Usage(1, most))
            finished = True
        finally:
            self.closed += not finished

    def _pieces(self, texts: Iterator[str]) -> Iterator[Piece]:
        if (tokenizer := self.capabilities.tokenizer) is None:
            return map(Piece, self._cut(texts, self._cut_rng))
        return with_ids(texts, self._cut_rng, tokenizer, self._ids)

    async def aclose(self) -> None:
        pass


class HostileEngine(_Engine):
    """Answers whatever it is asked by its habit. It stops at max_tokens, a piece a token, unless it is `deaf`."""

    def __init__(
        self,
        habit: str,
        seed: int,
        tools: Sequence[Tool],
        *,
        variant: Variant = K2,
        cut: str = "tokens",
        constrains: bool = False,
        pythonic: bool = False,
        deaf: bool = False,
        tokenizer: Tokenizer | None = None,
        ids: Ids = "right",
    ) -> None:
        super().__init__(variant, random.Random(f"{habit} {seed}"), cut, constrains, tokenizer, ids)
        self.habit = HABITS[habit]
        self.fails = self.habit.ending in ("silence", "error")
        self.cuts = self.habit.ending == "length" or self.habit.is_endless
        self.said: list[str] = []
        """Its first answer."""
        self._tools, self._pythonic, self._deaf = tools, pythonic, deaf

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        self._ask(prompt)
        self.cuts |= params.max_tokens is not None and not self._deaf
        most = None if self._deaf else params.max_tokens
        texts = self.habit.write(self._rng, Scene(self._tools, self._pythonic, prompt.calls))
        async with contextlib.aclosing(self._say(texts, most)) as pieces:
            async for piece in pieces:
                if len(self.asked) == 1:
                    self.said.append(piece.text)
                yield piece
                if piece.finish_reason:
                    return
        match self.habit.ending:
            case "error":
                raise EngineError("the engine's machine caught fire")
            case "stop" | "length" as reason:
                yield Piece("", reason, Usage(1, 1))


# A random turn


@dataclass(frozen=True, slots=True)
class Turn:
    habit: str
    request: ChatRequest
    engine: HostileEngine
    streamed: bool

    def __str__(self) -> str:
        one, request = self.engine.capabilities, self.request
        tools = ", ".join(tool.name for tool in request.tools)
        return (
            f"{self.habit}; {one.variant.name}, {request.tool_choice} of {tools}, {request.output}, "
            f"parallel={request.parallel_tool_calls}, constrains={one.constrains}, streamed={self.streamed}"
        )


ASK = "Do what has to be done."


@lru_cache(maxsize=4)
def real_tools(data: Path) -> tuple[Tool, ...]:
    """The tools of MCP servers whose schemas are schemas."""
    with lzma.open(data / "schemas" / "mcp_tools.jsonl.xz", "rt") as lines:
        values = [json.loads(line)["tool"]["function"] for line in lines]
    return tuple(
        Tool(value["name"], value.get("description"), value.get("parameters"))
        for value in values
        if not re.search(r"[\s<>\[\]]", value["name"]) and _is_schema(value.get("parameters"))
    )


def _is_schema(schema: Any) -> bool:
    try:
        return schema is None or (schema.get("type") == "object" and bool(validator(json.dumps(schema))))
    except ValueError:
        return False


def _is_writable(tool: Tool) -> bool:
    """Whether it may be called in the pythonic format."""
    return all(name.isidentifier() and not iskeyword(name) for name in (tool.name, *keys_of(tool)))


def random_turn(number: int, seed: int, tools: Sequence[Tool]) -> Turn:
    """Turn `number` of a run: each habit comes up in turn, all else by chance."""
    rng = random.Random(f"{seed} {number}")
    plain = [habit for habit in HABITS if not habit.endswith("for ever")]
    habits = plain + rng.sample([habit for habit in HABITS if habit not in plain], 4)
    habit = habits[number % len(habits)]
    variant = rng.choice(list(VARIANTS.values()))
    output = rng.choice(("tool_calls", "tool_calls", "tool_calls", "raw", "pythonic"))
    names: dict[str, Tool] = {}
    count = rng.choice((1, 1, 2, 3, 5, 12))
    while len(names) < count:
        tool = rng.choice(tools)
        if output != "pythonic" or _is_writable(tool):
            names[tool.name] = tool
    own = list(names.values())
    max_tokens = 8000 if HABITS[habit].is_endless else rng.choice((None, None, None, None, 30, 300))
    request = ChatRequest(
        _history(rng, own),
        own,
        tool_choice=rng.choice(("required", "required", own[0].name, "auto")),
        parallel_tool_calls=rng.random() < 0.5,
        output=output,  # type: ignore[arg-type]
        thinking=rng.choice((None, True, False)) if variant.opens_thinking else None,
        params=SamplingParams(max_tokens=max_tokens, temperature=0.0),
    )
    engine = HostileEngine(
        habit,
        number + seed,
        own,
        variant=variant,
        cut=rng.choice(list(CUTS)),
        constrains=rng.random() < 0.25,
        pythonic=output == "pythonic",
    )
    return Turn(habit, request, engine, rng.random() < 0.5)


def _history(rng: random.Random, tools: Sequence[Tool]) -> list[Message]:
    ask = Message("user", ASK)
    if rng.random() < 0.7:
        return [ask]
    call = ToolCall("call_1", Function(tools[0].name, "{}"))
    return [ask, Message(tool_calls=(call,)), Message("tool", "Done.", tool_call_id="call_1"), ask]


# What is right, and how it may be spelled


@dataclass(frozen=True, slots=True)
class Wanted:
    """A turn of a dialogue: what stands before it, and the right calls."""

    id: str
    messages: Sequence[Message]
    tools: Sequence[Tool]
    content: str
    calls: tuple[tuple[Tool, str], ...]
    """The tool and the arguments' text."""

    @property
    def first_index(self) -> int:
        return sum(len(message.tool_calls) for message in self.messages)


@lru_cache(maxsize=8)
def dialogues(data: Path, every: int = 1) -> tuple[Wanted, ...]:
    """A turn of each dialogue, or of one in `every`. Calls that their own schema refuses are left out."""
    found = []
    for path in sorted((data / "dialogues").glob("*.jsonl.xz")):
        with lzma.open(path, "rt") as lines:
            found += [wanted for line in islice(lines, 0, None, every) if (wanted := _wanted(json.loads(line)))]
    return tuple(found)


def _wanted(record: Mapping[str, Any]) -> Wanted | None:
    tools = [Tool.from_openai(value) for value in record["tools"]]
    messages = [Message.from_openai(value) for value in record["messages"]]
    turns = [i for i, message in enumerate(messages) if message.tool_calls]
    if not turns:
        return None
    at = turns[len(record["id"]) % len(turns)]
    named = {tool.name: tool for tool in tools}
    calls = tuple(
        (named[function.name], function.arguments)
        for function in (call.function for call in messages[at].tool_calls)
        if fault(function.name, function.arguments, tools) is None
    )
    return Wanted(record["id"], messages[:at], tools, messages[at].content or "", calls) if calls else None


def respelled(value: Any, rng: random.Random, most: int = 3) -> str:
    """The value's JSON with up to `most` spaces wherever some may stand, its members in any order, and characters
    escaped that need not be.
    """
    if isinstance(value, dict):
        inner = [
            f"{_string(key, rng)}{_space(rng, most)}:{_space(rng, most)}{respelled(one, rng, most)}"
            for key, one in rng.sample(list(value.items()), len(value))
        ]
    elif isinstance(value, list):
        inner = [respelled(one, rng, most) for one in value]
    else:
        return _string(value, rng) if isinstance(value, str) else json.dumps(value)
    comma = f"{_space(rng, most)},{_space(rng, most)}"
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return f"{begin}{_space(rng, most)}{comma.join(inner)}{_space(rng, most) if inner else ''}{end}"


def _space(rng: random.Random, most: int) -> str:
    return "".join(rng.choices(" \n\t\r", (8, 2, 1, 1), k=rng.randrange(most + 1)))


def _string(text: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return json.dumps(text, ensure_ascii=rng.random() < 0.5)
    characters = [
        f"\\u{ord(c):04X}" if c.isalpha() and ord(c) < 0xD800 and rng.random() < 0.2 else json.dumps(c)[1:-1]
        for c in text
    ]
    return f'"{"".join(characters)}"'.replace("/", "\\/")


# What is wrong with a call


@dataclass(slots=True)
class Writing:
    """A call as it is going to be written."""

    tool: Tool
    index: int
    right: str
    arguments: str
    id: str
    is_last: bool
    before: str = ""
    """What stands before the call: for the first one, the section's marker, and the end of the reasoning."""
    begin: str = B
    mark: str = A
    end: str = E
    after: str = ""
    """For the last one, the section's end."""
    is_cut: bool = False
    """Whether the output ends behind it."""
    is_packed: bool = False
    """Whether the next one begins without its marker."""
    stands: str | None = None
    """What stands already of the id."""

    def __str__(self) -> str:
        id = self.id
        if self.stands is not None:
            begun = _shared(id, self.stands)
            left, id = self.stands[begun:], id[begun:]
            # Nobody writes a second time what stands, even where it goes on wrong.
            again = next((n for n in range(len(left), 0, -1) if id.startswith(left[-n:])), 0)
            id = "" if ":" in left else id[again:]
        return f"{self.before}{self.begin}{id}{self.mark}{self.arguments}{self.end}{self.after}"

    @property
    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.right)
        return value

    def truncate(self, arguments: str, end: str = "") -> None:
        self.arguments, self.end, self.after, self.is_cut = arguments, end, "", True


def _shared(a: str, b: str) -> int:
    """How many characters both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


Damage = Callable[[Writing, random.Random], bool | None]
"""Damages the call, or returns False where the class has nothing to damage in it."""
DAMAGES: dict[str, Damage] = {}


def damage(name: str) -> Callable[[Damage], Damage]:
    def register(function: Damage) -> Damage:
        DAMAGES[name] = function
        return function

    return register


def _head(name: str, spell: Callable[[Writing, random.Random], str]) -> None:
    """A class that damages the call's id."""

    def apply(call: Writing, rng: random.Random) -> None:
        call.id = spell(call, rng)

    DAMAGES[name] = apply


def _hex(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("0123456789abcdef", k=count))


def _mistyped(call: Writing, rng: random.Random) -> str:
    name = call.tool.name
    at = rng.randrange(len(name))
    typed = rng.choice((name[:at] + name[at + 1 :], name[:at] + rng.choice(string.ascii_lowercase) + name[at:]))
    return f"functions.{typed or 'x'}:{call.index}"


_head("A1 newline in the header", lambda call, rng: f"\n{call.id}\n ")
_head("A2 no functions.", lambda call, rng: call.id.removeprefix("functions."))
_head("A5 bare counter", lambda call, rng: str(call.index))
_head("A6 glued", lambda call, rng: f"functions{call.tool.name}{call.index}")
_head("A7 call_N", lambda call, rng: f"call_{call.index:05d}")
_head("A8 tool_call_N", lambda call, rng: f"tool_call_{call.index}")
_head("A9 underscores", lambda call, rng: f"functions_{call.tool.name}_{call.index}")
_head("A10 call_UUID", lambda call, rng: f"call_{'-'.join(_hex(rng, count) for count in (8, 4, 4, 4, 12))}")
_head("A14 another model's id", lambda call, rng: f"call_{_hex(rng, 24)}")
_head("no index", lambda call, rng: f"functions.{call.tool.name}")
_head("wrong index", lambda call, rng: f"functions.{call.tool.name}:{call.index + rng.randrange(1, 50)}")
_head("name mistyped", _mistyped)
_head("name in capitals", lambda call, rng: f"functions.{call.tool.name.swapcase()}:{call.index}")
_head("prose in the header", lambda call, rng: f"I call {call.tool.name} now")
_head(
    "E51 undeclared tool",
    lambda call, rng: f"functions.{rng.choice(('img_gen', 'web.run', 'browser__open'))}:{call.index}",
)


@damage("B16 singular section marker")
def _(call: Writing, rng: random.Random) -> bool:
    call.before = call.before.replace(S, "<|tool_call_section_begin|>")
    call.after = call.after.replace(Z, "<|tool_call_section_end|>")
    return bool(call.before or call.after)


@damage("B17 no section")
def _(call: Writing, rng: random.Random) -> bool:
    had = S in call.before
    call.before, call.after = call.before.replace(S, ""), call.after.replace(Z, "")
    return had


def _behind(name: str, text: str) -> None:
    """A class that replaces the section's end."""

    def apply(call: Writing, rng: random.Random) -> bool:
        call.after = text
        return call.is_last

    DAMAGES[name] = apply


_behind("B18 no section's end", "")
_behind("B26 white space behind the calls", f"{Z}\n\n")
_behind("B27 text behind the calls", f"{Z} Done.")
_behind("B28 a role's label behind the calls", f"{Z}user")
_behind("B29 the turn's end, and more", f"{Z}{END}<|im_user|>user<|im_middle|>Thanks!{END}")


@damage("B19 no call's end before the section's")
def _(call: Writing, rng: random.Random) -> bool:
    call.end = ""
    return call.is_last


@damage("B20 no call's end before the next")
def _(call: Writing, rng: random.Random) -> bool:
    call.end = ""
    return not call.is_last


@damage("B21 packed")
def _(call: Writing, rng: random.Random) -> bool:
    call.end, call.is_packed = "", True
    return not call.is_last


@damage("B24 text before the call")
def _(call: Writing, rng: random.Random) -> None:
    call.before += " Calling it now. "


@damage("B30 a marker in a string")
def _(call: Writing, rng: random.Random) -> bool:
    value = call.value
    texts = [key for key, one in value.items() if isinstance(one, str)]
    if not texts:
        return False
    value[rng.choice(texts)] += f" {rng.choice(MARKERS)}"
    call.arguments = json.dumps(value, ensure_ascii=False)
    return fault(call.tool.name, call.arguments, [call.tool]) is None


@damage("D41 inside the reasoning")
def _(call: Writing, rng: random.Random) -> bool:
    had = THINK_END + S in call.before
    call.before = call.before.replace(THINK_END + S, S)
    return had


@damage("marker of the arguments missing")
def _(call: Writing, rng: random.Random) -> None:
    call.mark = ""


@damage("markers twice")
def _(call: Writing, rng: random.Random) -> None:
    call.begin, call.mark, call.end = call.begin * 2, call.mark * 2, call.end * 2


@damage("turn's end in the arguments")
def _(call: Writing, rng: random.Random) -> None:
    call.truncate(call.right[: rng.randrange(len(call.right))], END)


@damage("call's end in the arguments")
def _(call: Writing, rng: random.Random) -> None:
    call.arguments = call.right[: rng.randrange(len(call.right))]


@damage("ends in the arguments")
def _(call: Writing, rng: random.Random) -> None:
    call.truncate(call.right[: rng.randrange(len(call.right))])


@damage("ends in a marker")
def _(call: Writing, rng: random.Random) -> None:
    call.truncate(call.right, call.end[: rng.randrange(1, len(E))])


@damage("ends in the header")
def _(call: Writing, rng: random.Random) -> None:
    call.id, call.mark = call.id[: rng.randrange(len(call.id))], ""
    call.truncate("")


def _text(name: str, change: Callable[[str, random.Random], str]) -> None:
    """A class that damages the text of the arguments."""

    def apply(call: Writing, rng: random.Random) -> bool:
        call.arguments = change(call.right, rng)
        return call.arguments != call.right

    DAMAGES[name] = apply


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


_text("E46 encoded twice", lambda text, rng: _quoted(text))
_text("E46 encoded three times", lambda text, rng: _quoted(_quoted(text)))
_text("E47 null", lambda text, rng: "null")
_text("E47 broken and quoted", lambda text, rng: _quoted(re.sub(r'"', "", text)))
_text("E48 empty", lambda text, rng: "")
_text("E49 several lines", lambda text, rng: json.dumps(json.loads(text), indent=rng.randrange(5), ensure_ascii=False))
_text("E50 trailing comma", lambda text, rng: re.sub(r"}$", ",}", text))
_text("single quotes", lambda text, rng: text.replace('"', "'"))
_text("typographic quotes", lambda text, rng: re.sub(r'"([^"]*)"', "\u201c\\1\u201d", text))
_text("Python's literals", lambda text, rng: repr(json.loads(text)).replace("'", '"'))
_text("keys without quotes", lambda text, rng: re.sub(r'"(\w+)":', r"\1:", text))
_text("equals for colon", lambda text, rng: text.replace('": ', '" = ', 1))
_text("no colon", lambda text, rng: text.replace('": ', '" ', 1))
_text("no comma", lambda text, rng: text.replace(', "', ' "', 1))
_text("two commas", lambda text, rng: text.replace(', "', ',, "', 1))
_text("no closing brace", lambda text, rng: text[:-1])
_text("extra closing brace", lambda text, rng: text + "}")
_text("wrong bracket", lambda text, rng: text[:-1] + "]")
_text("text behind the arguments", lambda text, rng: text + " I hope this helps.")
_text("text before the arguments", lambda text, rng: "Arguments: " + text)
_text("arguments twice", lambda text, rng: text + text)
_text("comment", lambda text, rng: text.replace("{", rng.choice(("{ // here\n", "{ /* here */ ")), 1))
_text("code fence", lambda text, rng: f"```json\n{text}\n```")
_text("in a list", lambda text, rng: f"[{text}]")
_text("in an object", lambda text, rng: f'{{"arguments": {text}}}')
_text("with its name", lambda text, rng: f'{{"name": "f", "parameters": {text}}}')
_text("as XML", lambda text, rng: "<parameter>" + text + "</parameter>")
_text("ellipsis", lambda text, rng: text[:-1] + ", ...}")
_text("raw newline in a string", lambda text, rng: text.replace('": "', '": "\n', 1))
_text("NUL in a string", lambda text, rng: text.replace('": "', '": "\x00', 1))
_text("bad escape", lambda text, rng: text.replace('": "', '": "' + rng.choice(("\\'", "\\x41", "\\ ")), 1))
_text("half a surrogate escaped", lambda text, rng: text.replace('": "', '": "\\ud83d', 1))
_text("key twice", lambda text, rng: re.sub(r'^\{(\s*"[^"]*")', r"{\1: null, \1", text))
_text("NaN", lambda text, rng: re.sub(r": -?\d[\d.]*", lambda _: ": " + rng.choice(("NaN", "Infinity")), text, count=1))
_text("number with a plus", lambda text, rng: re.sub(r": (\d)", r": +\1", text, count=1))
_text("number with leading zeros", lambda text, rng: re.sub(r": (\d)", r": 00\1", text, count=1))
_text("string without its end", lambda text, rng: re.sub(r'"}$', "}", text))
_text("garbage", lambda text, rng: "".join(rng.choices(_JSON, k=12)))


def _value(name: str, change: Callable[[dict[str, Any], Writing, random.Random], None]) -> None:
    """A class that damages what the arguments say."""

    def apply(call: Writing, rng: random.Random) -> bool:
        value = call.value
        change(value, call, rng)
        call.arguments = json.dumps(value, ensure_ascii=False)
        return value != call.value

    DAMAGES[name] = apply


def _wrong_type(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    for key in rng.sample(list(value), min(1, len(value))):
        value[key] = str(value[key]) if not isinstance(value[key], str) else rng.choice((7, [value[key]], None, True))


def _misspelled(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    properties = (call.tool.parameters or {}).get("properties") or {}
    for key, one in value.items():
        if isinstance(one, str) and "enum" in (properties.get(key) or {}):
            value[key] = rng.choice((one + "s", one[:-1], one.swapcase()))
            return


def _without_required(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    required = [key for key in (call.tool.parameters or {}).get("required") or () if key in value]
    if required:
        del value[rng.choice(required)]


def _key_misspelled(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    for key in rng.sample(list(value), min(1, len(value))):
        value[rng.choice((key + "_", key[:-1], key.title()))] = value.pop(key)


def _all_strings(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    value.update({key: str(one) for key, one in value.items()})


_value("wrong type", _wrong_type)
_value("all values strings", _all_strings)
_value("enum misspelled", _misspelled)
_value("required missing", _without_required)
_value("key misspelled", _key_misspelled)
_value("property invented", lambda value, call, rng: value.update({"reason": "It seemed right."}))
_value("all properties null", lambda value, call, rng: value.update(dict.fromkeys(value)))

RESPELLINGS = frozenset(("B30 a marker in a string", "E49 several lines"))
"""Classes whose arguments are right as they are written."""

# How a JSON text goes on that breaks off


def rest_of(text: str, right: Any) -> str:
    """What makes a whole of a JSON text that breaks off: as near to the right value as what stands allows."""
    return _Rest(text).value(right) or ""


class _Rest:
    """Reads a JSON text up to where it breaks off. Each method returns what is missing, or None where nothing is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def value(self, right: Any) -> str | None:
        match self.peek():
            case "":
                return spelled(right)
            case "{":
                return self.object(right if isinstance(right, dict) else {})
            case "[":
                return self.array(right if isinstance(right, list) else [])
            case '"':
                return self.string(right if isinstance(right, str) else "")
        token = re.compile(r"[\w.+-]*").match(self.text, self.at)
        assert token is not None
        self.at = token.end()
        if self.at < len(self.text):
            return None
        whole = spelled(right) if not isinstance(right, str | list | dict) else ""
        words = [word for word in (whole, "true", "false", "null") if word.startswith(token[0])]
        return words[0].removeprefix(token[0]) if words else ""

    def object(self, right: dict[str, Any]) -> str | None:
        self.at += 1
        left = dict(right)
        first = True
        while True:
            begun = self.at
            if (c := self.peek()) == "":
                return _members(left, comma=False) + "}"
            if c == "}" and first:
                self.at += 1
                return None
            if (rest := self.string_of(left)) is not None:
                return rest + _members(left, comma=True) + "}"
            key = self.last
            mine = left.pop(key, None)
            if self.peek() == "":
                return f": {spelled(mine)}{_members(left, comma=True)}}}"
            self.at += 1
            if (rest := self.value(mine)) is not None:
                return rest + _members(left, comma=True) + "}"
            if (c := self.peek()) == "":
                return _members(left, comma=True) + "}"
            self.at += 1
            if c == "}":
                return None
            first = False
            if self.at <= begun:
                return ""

    def string_of(self, left: dict[str, Any]) -> str | None:
        """A key; where it breaks off, the rest of one that is left, and its value."""
        begin = self.at
        if (broken := self.broken_string()) is None:
            with contextlib.suppress(ValueError):
                self.last = json.loads(self.text[begin : self.at])
            return None
        padding, begun = broken
        key = next((key for key in left if key.startswith(begun)), begun)
        return f"{padding}{spelled(key[len(begun) :])[1:]}: {spelled(left.pop(key, None))}"

    last = ""

    def array(self, right: list[Any]) -> str | None:
        self.at += 1
        left = list(right)
        if self.peek() == "]":
            self.at += 1
            return None
        while True:
            if self.peek() == "":
                return f"{', '.join(map(spelled, left))}]"
            if (rest := self.value(left.pop(0) if left else None)) is not None:
                return f"{rest}{''.join(f', {spelled(one)}' for one in left)}]"
            if (c := self.peek()) == "":
                return f"{''.join(f', {spelled(one)}' for one in left)}]"
            self.at += 1
            if c == "]":
                return None

    def string(self, right: str) -> str | None:
        if (broken := self.broken_string()) is None:
            return None
        padding, begun = broken
        return padding + spelled(right[len(begun) :] if right.startswith(begun) else "")[1:]

    def broken_string(self) -> tuple[str, str] | None:
        """Reads a string. Where it breaks off: what an escape lacks, and the characters so far."""
        found = re.compile(r'"((?:[^"\\]|\\.)*\\?)("?)', re.DOTALL).match(self.text, self.at)
        self.at = found.end() if found else len(self.text)
        if found is None or found[2]:
            return None
        for padding in ("", "n", "0", "00", "000", "0000"):
            with contextlib.suppress(ValueError):
                return padding, json.loads(f'"{found[1]}{padding}"')
        return "", "\x00"


def _members(left: Mapping[str, Any], *, comma: bool) -> str:
    members = ", ".join(f"{spelled(key)}: {spelled(one)}" for key, one in left.items())
    return f", {members}" if members and comma else members


def spelled(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# The sloppy engine


class SloppyEngine(_Engine):
    """Writes the right calls, each damaged with probability `p` by one of `kinds`; goes on from whatever stands.

    `again`: a call that was damaged may be damaged again when it is written anew. `respell`: the arguments are spelled
    in odd ways, which is right. `kept` holds, by their position, the arguments that were written without a flaw and
    have to come out as they are; `damaged` the classes that were used.
    """

    def __init__(
        self,
        wanted: Wanted,
        seed: int,
        *,
        p: float = 0.25,
        kinds: Sequence[str] = tuple(DAMAGES),
        again: bool = True,
        respell: bool = False,
        speaks: bool = True,
        variant: Variant = K2,
        cut: str = "anywhere",
        constrains: bool = False,
        tokenizer: Tokenizer | None = None,
        ids: Ids = "right",
    ) -> None:
        super().__init__(variant, random.Random(f"{wanted.id} {seed}"), cut, constrains, tokenizer, ids)
        self.wanted = wanted
        self.kept: dict[int, str] = {}
        self.damaged: list[str] = []
        self.gave_up = False
        """Whether its last answer ended behind a whole call that was not the last one: the rest is nobody's to ask."""
        self._p, self._kinds, self._again = p, kinds, again
        self._spoiled: set[int] = set()
        thought = "I look it up." if variant.thinks else ""
        opens = THINK_BEGIN if variant.thinks and not variant.opens_thinking else ""
        closes = THINK_END if variant.thinks else ""
        self._start = f"{opens}{thought}{closes}{wanted.content if speaks else ''}{S}"
        self._arguments = [text for _, text in wanted.calls]
        if respell:
            self._arguments = [respelled(json.loads(text), self._rng) for text in self._arguments]

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        self._ask(prompt)
        async with contextlib.aclosing(self._say(iter(self.rest(written(prompt))), params.max_tokens)) as pieces:
            async for piece in pieces:
                yield piece
                if piece.finish_reason:
                    return
        yield Piece("", "stop", Usage(1, 1))

    def rest(self, stands: str) -> list[str]:
        """What it writes behind what stands."""
        whole, begun = _standing(stands)
        self.kept = {i: text for i, text in self.kept.items() if i < whole}
        self.kept = {i: text for i, text in self.kept.items() if i < whole}
        self._spoiled = {i for i in self._spoiled if i <= whole}
        self.gave_up = False
        count = len(self._arguments)
        if whole >= count:
            if begun is not None:  # a call too many
                return [rest_of(begun.partition(A)[2], {}), E, Z]
            return [] if stands.endswith(Z) else [Z]
        if begun is None:
            return self._from(whole, before=self._missing(stands, whole))
        _, mark, arguments = begun.partition(A)
        if not mark:
            return self._from(whole, before="", header=begun)
        right = self._arguments[whole]
        if right.startswith(arguments):
            self.kept[whole], rest = right, right[len(arguments) :]
        else:
            rest = rest_of(arguments, json.loads(right))
        return [rest, E, *(self._from(whole + 1, before="") if whole + 1 < count else (Z,))]

    def _missing(self, stands: str, whole: int) -> str:
        """What belongs between what stands and the next call."""
        if whole:
            return S if stands.endswith(Z) else ""
        if self._start.startswith(stands):
            return self._start.removeprefix(stands)
        return "" if stands.endswith(S) else S

    def _from(self, first: int, *, before: str, header: str | None = None) -> list[str]:
        """The calls from `first` on, of which `header` stands already."""
        texts: list[str] = []
        is_packed = False
        for i in range(first, len(self._arguments)):
            call = self._pristine(i)
            if i == first:
                call.before = before
            if i == first and header is not None:
                call.begin, call.stands = "", header
            call = self._damaged(i, call)
            if is_packed:
                call.begin = ""
            texts.append(str(call))
            if call.is_cut:
                self.gave_up = call.arguments == call.right
                break
            is_packed = call.is_packed
        return texts

    def _damaged(self, i: int, call: Writing) -> Writing:
        """Call `i` as it will be written, right or wrong."""
        if self._rng.random() < self._p and (i not in self._spoiled or self._again):
            for kind in self._rng.sample(self._kinds, len(self._kinds)):
                candidate = replace(call)
                if DAMAGES[kind](candidate, self._rng) is not False and str(candidate) != str(call):
                    self.damaged.append(kind)
                    self._spoiled.add(i)
                    self.kept.pop(i, None)
                    if kind in RESPELLINGS:
                        self.kept[i] = candidate.arguments
                    return candidate
        self.kept[i] = call.arguments
        return call

    def _pristine(self, i: int) -> Writing:
        tool, text = self.wanted.calls[i][0], self._arguments[i]
        index = self.wanted.first_index + i
        is_last = i == len(self._arguments) - 1
        return Writing(tool, index, text, text, f"functions.{tool.name}:{index}", is_last, after=Z if is_last else "")


def _standing(text: str) -> tuple[int, str | None]:
    """How many calls of a turn are whole, and what stands of one that isn't, behind its marker."""
    whole = 0
    at = text.find(B)
    while at >= 0:
        begun = text[at + len(B) :]
        header, mark, rest = begun.partition(A)
        try:
            _, end = json.JSONDecoder().raw_decode(rest) if mark else (None, -1)
        except ValueError:
            end = -1
        if end < 0 or not rest[end:].lstrip().startswith(E):
            return whole, begun
        whole += 1
        at = text.find(B, at + len(B) + len(header) + len(A) + end)
    return whole, None


def changed(engine: SloppyEngine, outcome: Outcome) -> list[tuple[int, str]]:
    """The calls that were written without a flaw and didn't come out as they were."""
    texts = dict(enumerate(arguments for _, arguments in outcome.calls))
    count = len(texts) - 1 if outcome.is_ours else len(engine.wanted.calls)
    return [(i, text) for i, text in engine.kept.items() if i < count and texts.get(i) != text]


def sloppy_turn(wanted: Wanted, seed: int, **options: Any) -> tuple[SloppyEngine, ChatRequest]:
    """The dialogue's turn, by a member of K2's family, required or not."""
    rng = random.Random(f"{seed} {wanted.id}")
    choice = rng.choice(("auto", "required"))
    options = {
        "variant": rng.choice((K2, K2, K2_THINKING, K2_5)),
        "cut": rng.choice(list(CUTS)),
        "speaks": choice == "auto",
        **options,
    }
    return SloppyEngine(wanted, seed, **options), ChatRequest(wanted.messages, wanted.tools, tool_choice=choice)
