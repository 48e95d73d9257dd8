"""A request's body: JSON as the standard has it, with the place of what is wrong."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.kept import KeptList
from abruzzi.protocol.remembered import Remembered
from abruzzi.server.body_faults import fault_of, first_fault, half_pair, twice

# Bytes that are read in one go, while nobody else is served: about 20 ms of them.
_FAST = 4 << 20
# Characters in which the place of a fault is looked for: half a second at most.
_SEARCHED = 1 << 20


def parse(body: bytes) -> dict[str, Any]:
    """The object that a body is. Raises RequestError with the place of the fault.

    Stricter than `json.loads`: no NaN, no number beyond a double, no name twice in one object, no half of a surrogate
    pair, which no UTF-8 can hold.
    """
    value = _read_fast(body) if len(body) <= _FAST else None
    if value is None:
        value = _read_exactly(body)
        if isinstance(tools := value.get("tools"), list):
            value["tools"] = KeptList(tools)
    return value


def _read_fast(body: bytes) -> dict[str, Any] | None:
    """The same several times as fast, and `tools` only once where they come again; None for what may be wrong."""
    try:
        members = _members(body)
        tools = members.pop("tools", None)
        value, colons = _read_sure(msgspec.json.encode(members))
        if tools is not None:
            value["tools"], more = _kept(bytes(tools))
            colons += 1 + more
    except (ValueError, RecursionError, OverflowError):
        return None
    return value if colons == body.count(b":") and not any(":" in name for name in members) else None


def _read_sure(text: bytes) -> tuple[Any, int]:
    """The value, and how many colons its text has. Raises ValueError where a name may stand twice in an object."""
    value, colons = msgspec.json.decode(text), text.count(b":")
    # Of two members of one name one is left, and one colon. Those in strings stay, and escaped ones become some.
    if _escaped_colon(text) or msgspec.json.encode(value).count(b":") != colons:
        raise ValueError
    return value, colons


def _keep(text: bytes) -> tuple[Any, int]:
    value, colons = _read_sure(text)
    return (KeptList(value) if isinstance(value, list) else value), colons


# An agent sends the same tools with every request. What is made of them takes some ten times their text.
_kept = Remembered(_keep, most=8 << 20)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_escaped_colon = re.compile(rb"\\u003[aA]").search


def _read_exactly(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is no UTF-8: {error.reason} at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise RequestError("the body is no JSON: it begins with a byte order mark (line 1, column 1)")
    try:
        value = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer, object_pairs_hook=_object
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise RequestError(f"the body is no JSON: {error.msg[0].lower()}{error.msg[1:]} ({where})") from None
    except RecursionError:
        raise RequestError("the body is no JSON that can be read: it is nested too deep") from None
    except ValueError as error:  # ours
        raise _unreadable(text, str(error)) from None
    if not isinstance(value, dict):
        raise RequestError(f"expected an object as the body, got {_kind(value)}")
    if fault := half_pair(text):
        raise _unreadable(text, fault)
    return value


def _unreadable(text: str, fault: str) -> RequestError:
    told = first_fault(text) if len(text) <= _SEARCHED else fault
    return RequestError(f"the body is no JSON that can be read: {told}")


def _no_constant(name: str) -> Any:
    raise ValueError(fault_of(name))


def _integer(text: str) -> int:
    try:
        return int(text)  # in Python's own code other threads have their turn among millions of them
    except ValueError:  # thousands of digits
        raise ValueError(fault_of(text)) from None


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(fault_of(text))
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(twice(name))
            seen.add(name)
    return value


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
