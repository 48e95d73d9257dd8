"""What `json.loads` reads and a body may not hold: where the first of it stands."""

from __future__ import annotations

import json
import math
import re
import sys

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
            fault = f"the name {name[:_SHOWN]!r} stands twice in one object" if name in names[-1] else ""
            names[-1].add(name)
        else:
            fault = _fault_of(word)
            begin = token.start()
        if fault:
            return f"{fault} ({place(text, begin)})"
        before = word
    return ""


def place(text: str, at: int) -> str:
    """As the errors of `json` tell it."""
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"


def _fault_of(word: str) -> str:
    """Of a string, a number or a name."""
    if word[0] == '"':
        return _fault_of_string(word)
    if word in _CONSTANTS:
        return f"{word} is no JSON"
    if word in _WORDS:
        return ""
    digits = word.removeprefix("-")
    if digits.isdigit():
        most = sys.get_int_max_str_digits()
        return f"a number of {len(digits):,} digits is too long to be read" if 0 < most < len(digits) else ""
    return f"no double holds {word[:40]}" if math.isinf(float(word)) else ""


def _fault_of_string(word: str) -> str:
    if "\\ud" not in word and "\\uD" not in word:
        return ""
    value = json.loads(word, strict=False)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(value[error.start]):04x} is half of a surrogate pair, which is no character"
    return ""
