"""References and combinations inside a JSON Schema, followed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

# More alternatives than this, or combinations nested deeper, are left to the validator.
_MAX_ALTERNATIVES = 256
_MAX_DEPTH = 8
_COMBINING = frozenset(("$ref", "allOf", "anyOf", "oneOf", "const"))
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})")


def resolve(reference: str, root: Any) -> Any:
    """What a `$ref` of the form `#/a/0` points at (a JSON Pointer, RFC 6901, which may have percent-escapes), or None
    where it leads nowhere.
    """
    first, *steps = _unescaped(reference.removeprefix("#")).split("/")
    node = None if first else root
    for step in steps:
        if isinstance(node, list):
            node = node[int(step)] if step.isdecimal() and int(step) < len(node) else None
        else:
            node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


def _unescaped(fragment: str) -> str:
    if "%" not in fragment:
        return fragment
    unescaped = _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), fragment.encode())
    return unescaped.decode(errors="replace")


def alternatives(schema: Any, root: Any) -> list[dict[str, Any]]:
    """The schema as schemas without `$ref`, `allOf`, `anyOf`, `oneOf` and `const` of their own: a value that follows it
    follows one of them. None of them is stricter than it has to be; some are looser. Empty where nothing can follow it.

    Every name that is required is among the properties.
    """
    found = list(islice(_alternatives(schema, root, 0), _MAX_ALTERNATIVES + 1))
    if len(found) > _MAX_ALTERNATIVES:
        found = [_plain(schema)]
    for one in found:
        missing = [name for name in _list(one, "required") if name not in _mapping(one, "properties")]
        if missing:
            other = one.get("additionalProperties") or {}
            one["properties"] = {**_mapping(one, "properties"), **dict.fromkeys(missing, other)}
    return found


def united(schema: Any, root: Any) -> dict[str, Any]:
    """The alternatives of an object as one: the properties of all, required where each of them requires it."""
    options = alternatives(schema, root)
    properties: dict[str, list[Any]] = {}
    for option in options:
        for name, value in _mapping(option, "properties").items():
            values = properties.setdefault(name, [])
            if value not in values:
                values.append(value)
    required = [name for name in properties if all(name in _list(option, "required") for option in options)]
    others = [option["additionalProperties"] for option in options if "additionalProperties" in option]
    return {
        "properties": {
            name: values[0] if len(values) == 1 else {"anyOf": values} for name, values in properties.items()
        },
        "required": required,
        "additionalProperties": {"anyOf": others} if any(others) else False,
    }


def _alternatives(schema: Any, root: Any, depth: int) -> Iterator[dict[str, Any]]:
    if schema is False:
        return
    plain = _plain(schema)
    if plain.get("enum") == []:
        return
    if depth > _MAX_DEPTH or not isinstance(schema, Mapping):
        yield plain
        return
    groups: list[Sequence[Any]] = [[part] for part in _list(schema, "allOf")]
    if isinstance(reference := schema.get("$ref"), str):
        groups.append([resolve(reference, root)])
    groups += [members for keyword in ("anyOf", "oneOf") if (members := _list(schema, keyword))]
    for parts in product(*groups):
        yield from _together(plain, parts, root, depth)


def _together(plain: dict[str, Any], parts: Sequence[Any], root: Any, depth: int) -> Iterator[dict[str, Any]]:
    """What follows all of these."""
    if not parts:
        yield dict(plain)
        return
    for option in _alternatives(parts[0], root, depth + 1):
        both = _merged(plain, option)
        if both.get("enum") != [] and both.get("type") != []:
            yield from _together(both, parts[1:], root, depth)


def _plain(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        return {}
    plain = {key: value for key, value in schema.items() if key not in _COMBINING and value is not None}
    return {**plain, "enum": [schema["const"]]} if "const" in schema else plain


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two schemas that both hold. Where they say different things that aren't put together here the first stands."""
    both = {**first, **{key: value for key, value in second.items() if key not in first}}
    for key in first.keys() & second.keys():
        one, other = first[key], second[key]
        if one == other:
            continue
        if key == "properties":
            both[key] = dict(_mapping(first, key))
            for name, value in _mapping(second, key).items():
                both[key][name] = _both(both[key][name], value) if name in both[key] else value
        elif key in ("items", "additionalProperties"):
            both[key] = _both(one, other)
        elif key == "required":
            both[key] = list(dict.fromkeys((*_list(first, key), *_list(second, key))))
        elif key == "enum":
            both[key] = [value for value in _list(first, key) if value in _list(second, key)]
        elif key == "type":
            allowed = _kinds(other)
            kinds = [kind for kind in _kinds(one) if kind in allowed]
            both[key] = [kind for kind in kinds if kind != "integer" or "number" not in kinds]
    return both


def _both(one: Any, other: Any) -> Any:
    return one if one == other else {"allOf": [one, other], **_described(one)}


def _described(schema: Any) -> dict[str, Any]:
    return {"description": schema["description"]} if isinstance(schema, Mapping) and "description" in schema else {}


def _kinds(kind: Any) -> list[Any]:
    kinds = list(kind) if isinstance(kind, list) else [kind]
    return [*kinds, "integer"] if "number" in kinds and "integer" not in kinds else kinds


def _mapping(schema: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    value = schema.get(keyword)
    return value if isinstance(value, Mapping) else {}


def _list(schema: Mapping[str, Any], keyword: str) -> Sequence[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []
