"""The pythonic call format: `[get_weather(location='beijing'), ping()]`.

Values are literals of Python or JSON, nested as they like; nothing is ever evaluated. Positional arguments take the
names of the schema's properties in their order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from abruzzi.protocol.events import (
    ArgumentsDelta,
    ContentDelta,
    Event,
    Finish,
    Problem,
    ProblemKind,
    ToolCallBegin,
    ToolCallEnd,
)
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.parser import Check

# Nesting deeper than this is no argument that anyone writes, and Python's own stack ends not far behind it.
_MAX_DEPTH = 100
_NAME = re.compile(r"[^\s()\[\]{},='\"]+")
_KEYWORD = re.compile(r"([^\s()\[\]{},='\"](?:[^()\[\]{},='\"]*[^\s()\[\]{},='\"])?)\s*=(?!=)")
_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)(?![\w.])"
)
_STRING = re.compile(r"""'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)\"""", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
# Python's one-character escapes, and JSON's `\\/`. Before any other character Python keeps the backslash.
_ESCAPES: Mapping[str, str] = {
    **{"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"},
    **{"\n": "", "\\": "\\", "'": "'", '"': '"', "/": "/"},
}
_WORDS: Mapping[str, Any] = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_SPACE = re.compile(r"\s*")


def parse_calls(text: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """`[f(1, a='x'), g()]` as a list of (name, positional arguments, keyword arguments).

    Raises ValueError with the position of the first character that can't be read.
    """
    return _Scanner(text).calls()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def calls(self) -> list[tuple[str, list[Any], dict[str, Any]]]:
        calls = []
        self.expect("[")
        while not self.accept("]"):
            calls.append(self.call())
            if not self.accept(","):
                self.expect("]")
                break
        if self.at < len(self.text):
            raise self.error("the end of the output")
        return calls

    def call(self) -> tuple[str, list[Any], dict[str, Any]]:
        name = self.match(_NAME, "a function's name")[0]
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        self.expect("(")
        while not self.accept(")"):
            if keyword := _KEYWORD.match(self.text, self.at):
                if keyword[1] in keywords:
                    raise self.error(f"another argument than {keyword[1]!r}, which was given already")
                self.skip_to(keyword.end())
                keywords[keyword[1]] = self.value(0)
            elif keywords:
                raise self.error("NAME=VALUE behind the first keyword argument")
            else:
                positional.append(self.value(0))
            if not self.accept(","):
                self.expect(")")
                break
        return name, positional, keywords

    def value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self.error(f"at most {_MAX_DEPTH} levels of nesting")
        if self.accept("["):
            return self.items("]", depth)
        if self.accept("("):
            return self.tuple_or_value(depth)
        if self.accept("{"):
            return self.mapping(depth)
        if self.text[self.at : self.at + 1] in ("'", '"'):
            found = self.match(_STRING, "a string that ends")
            return _unquoted(found[1] if found[1] is not None else found[2])
        if number := _NUMBER.match(self.text, self.at):
            self.skip_to(number.end())
            return float(number[0]) if re.search(r"[.eE]", number[0]) else int(number[0])
        word = _NAME.match(self.text, self.at)
        if word is None or word[0] not in _WORDS:
            raise self.error("a literal value")
        self.skip_to(word.end())
        return _WORDS[word[0]]

    def tuple_or_value(self, depth: int) -> Any:
        """`(1, 2)` and `(1,)` are lists of values, `(1)` is the value itself."""
        items, commas = self.separated(")", depth)
        return items[0] if items and not commas else items

    def items(self, end: str, depth: int) -> list[Any]:
        return self.separated(end, depth)[0]

    def separated(self, end: str, depth: int) -> tuple[list[Any], int]:
        """Values up to `end`, and how many commas stood between and behind them."""
        items: list[Any] = []
        commas = 0
        while not self.accept(end):
            items.append(self.value(depth + 1))
            if not self.accept(","):
                self.expect(end)
                break
            commas += 1
        return items, commas

    def mapping(self, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not self.accept("}"):
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise self.error("a string as the key")
            self.expect(":")
            items[key] = self.value(depth + 1)
            if not self.accept(","):
                self.expect("}")
                break
        return items

    def accept(self, character: str) -> bool:
        self.skip_to(self.at)
        if not self.text.startswith(character, self.at):
            return False
        self.skip_to(self.at + 1)
        return True

    def expect(self, character: str) -> None:
        if not self.accept(character):
            raise self.error(repr(character))

    def match(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self.error(expected)
        self.skip_to(found.end())
        return found

    def skip_to(self, at: int) -> None:
        found = _SPACE.match(self.text, at)
        self.at = found.end() if found else at

    def error(self, expected: str) -> ValueError:
        return ValueError(f"expected {expected} at character {self.at}, got {self.text[self.at : self.at + 20]!r}")


def _unquoted(body: str) -> str:
    """The string that a literal stands for. Raises ValueError for escapes of no character."""

    def character(found: re.Match[str]) -> str:
        escape = found[1]
        if escape[0] in "uUx" and len(escape) > 1:
            return chr(int(escape[1:], 16))
        if escape[0] in "01234567":
            return chr(int(escape, 8))
        if escape in ("N", "u", "U", "x"):
            raise ValueError(f"the escape \\{escape} is not whole or not known")
        return _ESCAPES.get(escape, f"\\{escape}")

    if "\\" not in body:
        return body
    try:
        # Two escaped surrogates make one character, as in JSON.
        return _ESCAPE.sub(character, body).encode("utf-16", "surrogatepass").decode("utf-16")
    except (UnicodeError, OverflowError) as error:
        raise ValueError(f"an escape that stands for no character: {error}") from error


def writable_name(name: str) -> bool:
    """Whether a function of this name can be written in this format."""
    return _NAME.fullmatch(name) is not None


def writable_keyword(name: str) -> bool:
    """Whether a parameter of this name can be."""
    found = _KEYWORD.fullmatch(f"{name}=")
    return found is not None and found[1] == name


class PythonicParser:
    """`StreamParser`'s twin for the pythonic format: what begins with `[` is calls, all else is content."""

    def __init__(self, *, tools: Iterable[Tool], check: Check | None = None, first_index: int = 0) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._check = check
        self._first_index = first_index
        self._parts: list[str] = []
        self._head = ""  # the first character that is no blank, once it is there

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of output, of any length."""
        self._head = self._head or text.lstrip()[:1]
        self._parts.append(text)
        if not self._head or self._head == "[":
            return []
        content, self._parts = "".join(self._parts), []
        return [ContentDelta(content)] if content else []

    def close(self, *, cut: bool = False) -> list[Event]:
        """The output is over; `cut`: a limit ended it."""
        text = "".join(self._parts).strip()
        if self._head != "[":
            return [Finish("length" if cut else "stop")]
        try:
            calls = parse_calls(text)
        except (ValueError, RecursionError) as error:
            kind: ProblemKind = "truncated" if cut or not text.endswith("]") else "header"
            return [Problem(kind, None, text, str(error)), Finish("length" if kind == "truncated" else "stop")]
        events: list[Event] = []
        index = 0
        for name, positional, keywords in calls:
            fault = self._fault(text, name, positional, keywords)
            if fault:
                events.append(fault)
                continue
            arguments = json.dumps(keywords, ensure_ascii=False)
            events.append(ToolCallBegin(index, f"functions.{name}:{self._first_index + index}", name))
            events += (ArgumentsDelta(index, arguments), ToolCallEnd(index))
            index += 1
        return [*events, Finish("tool_calls" if index else "stop")]

    def _fault(self, text: str, name: str, positional: list[Any], keywords: dict[str, Any]) -> Problem | None:
        """Name the positional arguments in place, and say what is wrong with the call, if anything is."""
        tool = self._tools.get(name)
        if tool is None:
            return Problem(
                "undeclared", name, text, f"expected one of {', '.join(self._tools) or 'no tool'}, got {name!r}"
            )
        properties = list((tool.parameters or {}).get("properties") or ())
        if len(positional) > len(properties):
            return Problem(
                "schema", name, text, f"expected at most {len(properties)} positional arguments, got {len(positional)}"
            )
        for key, value in zip(properties, positional, strict=False):
            if key in keywords:
                return Problem("schema", name, text, f"expected one value for {key!r}, got two")
            keywords[key] = value
        detail = self._check(name, json.dumps(keywords, ensure_ascii=False)) if self._check else None
        return Problem("schema", name, text, detail) if detail else None
