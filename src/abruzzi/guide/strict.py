"""OpenAI's rules for a function with `strict: true`: the part of JSON Schema that its Structured Outputs take.

The rules and their numbers are those of https://developers.openai.com/api/docs/guides/structured-outputs, section
"Supported schemas", as others quote it in 2026. A keyword that the guide doesn't speak of passes, as does one that it
refuses for fine-tuned models only: abruzzi's own guard keeps to more of JSON Schema than OpenAI does.
"""

from __future__ import annotations

import reprlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.references import resolve

_UNSUPPORTED = ("allOf", "not", "dependentRequired", "dependentSchemas", "if", "then", "else")
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
_MAX_LEVELS = 10
_MAX_IN_ALL = {"properties": 5_000, "enum values": 1_000, "characters of names, enum and const values": 120_000}
_LONG_ENUM = 250  # an enum of more values than this has at most so many characters:
_MAX_LONG_ENUM = 15_000

_DEFINITIONS = ("$defs", "definitions")
_NAMED = ("properties", "patternProperties", *_DEFINITIONS)
_NESTED = ("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains", "anyOf", "oneOf")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 300

# A path is spelled out for a fault only: at every level of a deep schema it would take time squared.
_Place = tuple["_Place | None", str]


def check_strict(schema: Mapping[str, Any], where: str) -> None:
    """Raises RequestError for a schema of arguments that OpenAI refuses under `strict: true`, with the path of the
    first fault, which begins with `where`. That it is a JSON Schema is for `Schemas` to say.
    """
    start: _Place = (None, where)
    if schema.get("type") not in ("object", ["object"]):
        raise _fault(f"expected type object at the root, {_got(schema, 'type')}", start, ".type")
    if schema.get("anyOf") is not None:
        raise _fault("expected one object at the root, got anyOf", start, ".anyOf")
    spent: Counter[str] = Counter()
    seen: set[int] = set()
    ahead: deque[tuple[Mapping[str, Any], _Place, int]] = deque([(schema, start, 0)])  # taken from the right
    while ahead:
        part, place, level = ahead.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        _check_keywords(part, place)
        if _is_object(part):
            level += 1
            _check_object(part, place, level)
        for keyword, what, count in _spent(part):
            spent[what] += count
            if spent[what] > _MAX_IN_ALL[what]:
                limit = _MAX_IN_ALL[what]
                raise _fault(f"expected at most {limit} {what} in all, got {spent[what]}", place, f".{keyword}")
        if (reference := part.get("$ref")) is not None and isinstance(to := _target(reference, schema, place), Mapping):
            # Last of all, for then only what stands under no keyword of schemas is still to be seen.
            ahead.appendleft((to, (start, reference[1:].replace("/", ".")), 0))
        ahead.extend(reversed(list(_inside(part, place, level))))


def _check_keywords(part: Mapping[str, Any], place: _Place) -> None:
    for keyword in part:
        if keyword in _UNSUPPORTED and part[keyword] is not None:
            raise _fault(f"expected none of {', '.join(_UNSUPPORTED)}, got {keyword}", place, f".{keyword}")
    if part.get("format") not in (None, *_FORMATS):
        raise _fault(f"expected a format of {', '.join(_FORMATS)}, {_got(part, 'format')}", place, ".format")
    values = part.get("enum")
    if isinstance(values, list) and len(values) > _LONG_ENUM and _characters(values) > _MAX_LONG_ENUM:
        expected = f"at most {_MAX_LONG_ENUM} characters in an enum of more than {_LONG_ENUM} values"
        raise _fault(f"expected {expected}, got {_characters(values)} in {len(values)}", place, ".enum")


def _check_object(part: Mapping[str, Any], place: _Place, level: int) -> None:
    # What a level is the guide doesn't say. The least that it can mean is counted: objects, of which the root is one.
    if level > _MAX_LEVELS:
        raise _fault(f"expected at most {_MAX_LEVELS} levels of objects, got {level}", place, "")
    if part.get("additionalProperties") is not False:
        got = _got(part, "additionalProperties")
        raise _fault(f"expected additionalProperties false, {got}", place, ".additionalProperties")
    names, required = part.get("properties"), part.get("required")
    given = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    for name in names if isinstance(names, Mapping) else ():
        if name not in given:
            raise _fault(f"expected every property in required, {_SHORT.repr(name)} is missing", place, ".required")


def _is_object(part: Mapping[str, Any]) -> bool:
    kinds = part.get("type")
    return "object" in (kinds if isinstance(kinds, list) else [kinds]) or isinstance(part.get("properties"), Mapping)


def _spent(part: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """What this schema itself takes of `_MAX_IN_ALL`, by keyword."""
    for keyword in ("properties", *_DEFINITIONS, "enum", "const"):
        values = [part.get(keyword)] if keyword == "const" else part.get(keyword)
        if isinstance(values, Mapping | list):
            if keyword in ("properties", "enum"):
                yield keyword, "properties" if keyword == "properties" else "enum values", len(values)
            yield keyword, "characters of names, enum and const values", _characters(values)


def _characters(values: Any) -> int:
    return sum(len(value) for value in values if isinstance(value, str))


def _inside(part: Mapping[str, Any], place: _Place, level: int) -> Iterator[tuple[Mapping[str, Any], _Place, int]]:
    """The schemas in this one. A definition is used elsewhere than it stands, so the levels around it don't count."""
    for keyword, value in part.items():
        if keyword in _NAMED and isinstance(value, Mapping):
            steps = [(f".{keyword}.{name}", inner) for name, inner in value.items()]
        elif keyword in _NESTED and isinstance(value, list):
            steps = [(f".{keyword}[{i}]", inner) for i, inner in enumerate(value)]
        else:
            steps = [(f".{keyword}", value)] if keyword in _NESTED else []
        for step, inner in steps:
            if isinstance(inner, Mapping):
                yield inner, (place, step), 0 if keyword in _DEFINITIONS else level


def _target(reference: Any, schema: Mapping[str, Any], place: _Place) -> Any:
    inside = isinstance(reference, str) and (reference == "#" or reference.startswith("#/"))
    target = resolve(reference, schema) if inside else None
    if not isinstance(target, Mapping | bool):
        raise _fault(f"expected # or a #/$defs/NAME of this schema, got {_SHORT.repr(reference)}", place, ".$ref")
    return target


def _got(part: Mapping[str, Any], keyword: str) -> str:
    return f"got {_SHORT.repr(part[keyword])}" if keyword in part else "got none"


def _fault(message: str, place: _Place | None, step: str) -> RequestError:
    steps = [step]
    while place is not None:
        place, step = place
        steps.append(step)
    return RequestError(f"the function is strict: {message}", "".join(reversed(steps)))
