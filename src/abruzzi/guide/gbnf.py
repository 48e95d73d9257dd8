"""Turns in GBNF, llama.cpp's grammar language (https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md).

Patterns, most formats, and bounds of numbers that are no small range are left to the guard.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from abruzzi.guide.outline import Outline
from abruzzi.guide.rules import SchemaRules, any_of
from abruzzi.protocol.markers import (
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    SECTION_BEGIN,
    SECTION_END,
    THINK_BEGIN,
    THINK_END,
)
from abruzzi.protocol.references import alternatives

_JSON = r"""
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" (key value (", " key value)*)? "}"
array ::= "[" (value (", " value)*)? "]"
key ::= string ": "
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
integer ::= "-"? natural
natural ::= "0" | [1-9] [0-9]{0,17}
number ::= integer ("." [0-9]{1,17})? ([eE] [-+]? [0-9]{1,2})?
date ::= [0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])
time ::= ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})? zone
zone ::= "Z" | [-+] [01] [0-9] ":" [0-5] [0-9]
hex ::= [0-9a-fA-F]
"""
# How every marker begins.
_MARKER = "<|"
_FORMATS = {
    "date": "date",
    "time": "time",
    "date-time": 'date "T" time',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
# llama.cpp unrolls repetitions; longer strings are left to the guard.
_MAX_LENGTH = 256
# A range of integers that is written out.
_MAX_RANGE = 128


@lru_cache(maxsize=64)
def spelled(turn: Outline) -> str:
    """The turn with its markers spelled out; where the vocabulary has them as tokens, those are spelled the same.

    llama.cpp has no lazy text: what ends at a marker is written as the automaton that looks for it.
    """
    rules = []
    section = f"{quoted(SECTION_BEGIN)} call-0"
    if turn.answer is not None and turn.may_answer:
        body = f"arguments-answer | {section}" if turn.signatures else "arguments-answer"
        rules.append(_arguments(turn.answer.schema, "answer"))
        rules += _calls(turn) if turn.signatures else ()
    elif not turn.signatures:
        body = "text-0"
        rules += _until("text", _MARKER, None, may_end=True)
    elif turn.tool_format == "pythonic":  # Python's literals aren't written out in this language
        body = "text"
        rules.append(r"text ::= [^\x00]*")
    else:
        body = "text-0" if turn.may_answer else section
        rules += _until("text", SECTION_BEGIN, "call-0", may_end=True) if turn.may_answer else ()
        rules += _calls(turn)
    if turn.reasoning != "none":
        rules += _until("think", THINK_END, "body", may_end=False)
        rules.append(f"body ::= {body}")
        body = f"{quoted(THINK_BEGIN)} think-0" if turn.reasoning == "whole" else "think-0"
    return "\n".join((f"root ::= {body}", *rules)) + _JSON


def quoted(text: str) -> str:
    """The text as a literal. Of JSON's escapes GBNF has no `\\b` and `\\f`."""
    return re.sub(
        r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), json.dumps(text, ensure_ascii=False)
    ).replace("\x7f", "\\x7F")


_ESCAPES = {"b": r"\x08", "f": r"\x0C"}


def _until(name: str, marker: str, then: str | None, *, may_end: bool) -> Iterator[str]:
    """Any text up to and with the marker, then what follows it, if anything may; or, if it may end, any text without.

    Rule N is for where N characters of the marker have been read. Its first one, `<`, stands in it only there.
    """
    first = marker[0]
    end = ' | ""' if may_end else ""
    yield f"{name}-0 ::= {quoted(first)} {name}-1 | [^{first}] {name}-0{end}"
    for n, character in enumerate(marker[1:], 1):
        following = f"{name}-{n + 1}" if n + 1 < len(marker) else then
        onwards = "" if following is None else f"{quoted(character)} {following} | "
        yield f"{name}-{n} ::= {onwards}{quoted(first)} {name}-1 | [^{first}{character}] {name}-0{end}"


def _calls(turn: Outline) -> Iterator[str]:
    for i, index in enumerate(turn.indexes):
        heads = " | ".join(
            f"{quoted(f'{one.name}:{index}{ARGUMENT_BEGIN}')} arguments-{t}" for t, one in enumerate(turn.signatures)
        )
        more = quoted(SECTION_END) if i + 1 == turn.most else f"({quoted(SECTION_END)} | call-{i + 1})"
        yield f"call-{i} ::= {quoted(f'{CALL_BEGIN}functions.')} ({heads}) {quoted(CALL_END)} {more}"
    for t, one in enumerate(turn.signatures):
        yield _arguments(one.schema, str(t))


@lru_cache(maxsize=4096)
def _arguments(schema: str, name: str) -> str:
    rules = JsonRules(f"arguments-{name}", json.loads(schema))
    body = rules.arguments()
    return f"arguments-{name} ::= {body}\n{rules}"


class JsonRules(SchemaRules):
    """The rules of JSON with one blank behind a comma or colon; they need `_JSON` beside them."""

    anything = "value"
    true_or_false = '("true" | "false")'
    null = '"null"'
    dash = "-"

    def arguments(self) -> str:
        """What the arguments may be."""
        options = alternatives({**self._root, "type": "object"}, self._root) or [{}]
        return f'"{{" ({any_of(self.members(one, 0) for one in options)}) "}}"'

    def define(self, name: str, body: str) -> str:
        return f"{name} ::= {body}"

    def literal(self, value: Any) -> str:
        return quoted(_dumped(value))

    def key(self, name: str) -> str:
        return quoted(f"{_dumped(name)}: ")

    def other_key(self, known: Iterable[str]) -> str:
        return "key"

    def string(self, schema: Mapping[str, Any]) -> str:
        form = schema.get("format")
        if isinstance(form, str) and form in _FORMATS:
            return rf'"\"" {_FORMATS[form]} "\""'
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        least = least if _is_count(least) else 0
        if not isinstance(most, int) or not _is_count(most) or most < least:
            return "string" if least == 0 else rf'"\"" char{{{least},}} "\""'
        return rf'"\"" char{{{least},{most}}} "\""'

    def number(self, kind: str, schema: Mapping[str, Any]) -> str:
        low, high = _bound(schema, "minimum", 1), _bound(schema, "maximum", -1)
        if kind == "number":
            return "number"
        if low is not None and high is not None and 0 <= high - low <= _MAX_RANGE:
            step = schema.get("multipleOf")
            step = step if isinstance(step, int) and step > 0 else 1
            numbers = [number for number in range(low, high + 1) if number % step == 0]
            return any_of(f'"{number}"' for number in numbers) or "integer"
        if low is not None and low >= 0:
            return "natural" if low == 0 else "[1-9] [0-9]{0,17}"
        return "integer"


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_LENGTH


def _bound(schema: Mapping[str, Any], keyword: str, inwards: int) -> int | None:
    """The bound of an integer, with itself; None where there is none."""
    found = []
    if isinstance(value := schema.get(keyword), int):
        found.append(value)
    if isinstance(value := schema.get(f"exclusive{keyword.capitalize()}"), int) and not isinstance(value, bool):
        found.append(value + inwards)
    return max(found, key=lambda bound: bound * inwards) if found else None
