"""What `json.loads` reads and a body may not hold: where the first of it stands."""

from __future__ import annotations

import json
import math
import re
import sys

# Escapes, of which one that is alone where two make a character is group 1.
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+', re.DOTALL)
_CONSTANTS = frozenset(("NaN", "Infinity", "-Infinity"))
_WORDS = frozenset(("true", "false", "null", ","))
_SHOWN = 100


def first_fault(text: str) -> str:
    """What is wrong with a text that is JSON up to its first fault, and where; "" where nothing is."""
    names: list[set[str]] = []  # of each object and array that is open: an array has none
    before, begin = "", 0
    for token in _TOKEN.finditer(text):
        word = token[0]
        fault = ""
        if word in "{[":
            names.append(set())
        elif word in "}]":
            names.pop()
        elif word == ":":
            name = json.loads(before, strict=False)
            fault = twice(name) if name in names[-1] else ""
            names[-1].add(name)
        else:
            fault = fault_of(word)
            begin = token.start()
        if fault:
            return f"{fault} ({place(text, begin)})"
        before = word
    return ""


def place(text: str, at: int) -> str:
    """As the errors of `json` tell it."""
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"


def twice(name: str) -> str:
    """A member's name that another one in its object has."""
    return f"the name {name[:_SHOWN]!r} stands twice in one object"


def fault_of(word: str) -> str:
    """What is wrong with a string, a number or a name, as JSON writes it; "" where nothing is."""
    if word[0] == '"':
        return half_pair(word)
    if word in _CONSTANTS:
        return f"{word} is no JSON"
    if word in _WORDS:
        return ""
    digits = word.removeprefix("-")
    if digits.isdigit():
        most = sys.get_int_max_str_digits()
        return f"a number of {len(digits):,} digits is too long to be read" if 0 < most < len(digits) else ""
    return f"no double holds {word[:40]}" if math.isinf(float(word)) else ""


def half_pair(text: str) -> str:
    """What no UTF-8 can hold, of JSON; "" where there is nothing of that."""
    if "\\ud" not in text and "\\uD" not in text:
        return ""
    halves = (found[1] for found in _ESCAPE.finditer(text) if found[1])
    half = next(halves, None)
    return "" if half is None else f"\\{half.lower()} is half of a surrogate pair, which is no character"
