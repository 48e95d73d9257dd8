"""A request's body: JSON as the standard has it, with the place of what is wrong."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from abruzzi.protocol.errors import RequestError


def parse(body: bytes) -> dict[str, Any]:
    """The object that a body is. Raises RequestError with the place of the fault.

    Stricter than `json.loads`: no NaN, no number beyond a double, no name twice in one object, no half of a surrogate
    pair, which no UTF-8 can hold.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is no UTF-8: {error.reason} at byte {error.start}") from None
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise RequestError(f"the body is no JSON: {error.msg[0].lower()}{error.msg[1:]} ({where})") from None
    except RecursionError:
        raise RequestError("the body is no JSON that can be read: it is nested too deep") from None
    except ValueError as error:  # ours, and Python's about integers of thousands of digits
        raise RequestError(f"the body is no JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"expected an object as the body, got {_kind(value)}")
    if "\\ud" in text or "\\uD" in text:
        _refuse_surrogates(value)
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"no double holds {text[:40]}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        count = Counter(name for name, _ in pairs)
        twice = next(name for name in count if count[name] > 1)
        raise ValueError(f"the name {twice[:100]!r} stands twice in one object")
    return value


def _refuse_surrogates(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = f"\\u{ord(value[error.start]):04x}"
            raise RequestError(f"the body holds half of a surrogate pair, {found}, which is no character") from None
    elif isinstance(value, dict):
        for name, one in value.items():
            _refuse_surrogates(name)
            _refuse_surrogates(one)
    elif isinstance(value, list):
        for one in value:
            _refuse_surrogates(one)


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
