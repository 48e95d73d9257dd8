"""What an engine writes that never does what it is asked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from abruzzi import Tool
from abruzzi.protocol.markers import ALIASES, MARKERS, THINK_BEGIN, THINK_END
from abruzzi.protocol.markers import ARGUMENT_BEGIN as A
from abruzzi.protocol.markers import CALL_BEGIN as B
from abruzzi.protocol.markers import CALL_END as E
from abruzzi.protocol.markers import SECTION_BEGIN as S
from abruzzi.protocol.markers import SECTION_END as Z
from tests.hostile.dialogues import respelled
from tests.hostile.judge import fault

END = "<|im_end|>"


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
