"""A tool's schema as xgrammar follows it: as it is, but for what xgrammar refuses or takes for something stricter.

What was seen of 0.1.32 and 0.2.8: a schema with one thing that they don't know is refused whole; bounds of a string's
length let raw control characters in and escapes not; a pattern is read as the whole string's; a required property that
isn't listed can't be written. Of 0.1.32: `.` and `[^x]` in a pattern let quotes in; a number with bounds has no
fraction.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from abruzzi.protocol.references import alternatives, resolve

_FORMATS = frozenset(
    ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "json-pointer", "uri", "uuid")
)
# Keywords that say something beside others, which xgrammar passes over.
_CHOICES = ("allOf", "anyOf", "oneOf", "$ref")
_SAID = frozenset(
    ("type", "enum", "const", "properties", "required", "items", "additionalProperties", "minProperties", *_CHOICES)
)
_SEGMENT = re.compile(r"#(/[\w$.-]+)*", re.ASCII)
# A pattern of the whole string that both versions read as ECMA-262 does: classes that hold no quote, backslash or
# control character, groups, small counts.
_RANGE = r"[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]|[^\x00-\xff]-[^\x00-\xff]"
_CLASS = rf"\[-?(?:{_RANGE}|[^\W_]|[_ .,:;/@#%+*=!?()<>{{}}|$&~]|\\[dw.\-/])+-?\]"
_ATOM = rf"(?:{_CLASS}|[\w \-:;,/@#%&=~!<>]|\\[dw.\-/+*?()\[\]{{}}$^|])"
_COUNT = r"(?:[+*?]|\{\d{1,2}(?:,\d{0,2})?\})?"
_RUN = rf"(?:{_ATOM}{_COUNT})+"
_PATTERN = re.compile(rf"\^(?:{_ATOM}{_COUNT}|\((?:\?:)?{_RUN}(?:\|{_RUN})*\){_COUNT})+\$")
_MAX_DEPTH = 12
# Putting schemas together may multiply them; what is beyond so many becomes anything.
_MAX_NODES = 3000
_MAX_WHOLE = 2**53


def followed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The nearest schema of an object that xgrammar compiles."""
    whole = _Followed(schema)
    node = whole.node({**schema, "type": "object"}, 0)
    definitions = {
        key: {name: whole.node(value, 1) for name, value in schema[key].items()}
        for key in ("$defs", "definitions")
        if isinstance(schema.get(key), Mapping)
    }
    result = {**node, **definitions} if node else {"type": "object"}
    mended = _mended(result, result)
    assert isinstance(mended, dict)
    return mended


class _Followed:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._count = 0

    def node(self, schema: Any, depth: int) -> dict[str, Any]:
        """A schema of a value; `{}` where nothing of it can be followed."""
        self._count += 1
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or self._count > _MAX_NODES:
            return {}
        parts = schema.get("allOf")
        if isinstance(parts, list) and len(parts) == 1 and schema.keys() & _SAID == {"allOf"}:
            return self.node(parts[0], depth + 1)
        if "$ref" in schema and schema.keys() & _SAID == {"$ref"}:
            return {"$ref": schema["$ref"]}
        choices = [key for key in _CHOICES if key in schema]
        if choices and schema.keys() & _SAID != {"anyOf"} and schema.keys() & _SAID != {"oneOf"}:
            options = alternatives(schema, self._root)
            nodes = [self._plain(option, depth + 1) for option in options]
            return nodes[0] if len(nodes) == 1 else {"anyOf": nodes} if nodes else {}
        if choices:
            members = [self.node(one, depth + 1) for one in schema[choices[0]] if one is not False]
            return {"anyOf": members} if members and all(members) else {}
        return self._plain(schema, depth)

    def _plain(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        node: dict[str, Any] = {}
        if "const" in schema or schema.get("enum"):
            return {key: schema[key] for key in ("const", "enum", "type") if key in schema}
        kinds = schema.get("type")
        if isinstance(kinds, str | list) and kinds:
            node["type"] = kinds
        kinds = [kinds] if isinstance(kinds, str) else kinds or []
        if "object" in kinds or schema.get("properties"):
            node |= self._object(schema, depth)
        if "array" in kinds or "items" in schema:
            node |= self._array(schema, depth)
        if "string" in kinds:
            node |= _string(schema)
        if "integer" in kinds and "number" not in kinds:
            node |= _integer(schema)
        return node

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        declared = schema.get("properties")
        others = True if schema.get("patternProperties") else schema.get("additionalProperties", not declared)
        properties = {}
        required = [name for name in schema.get("required") or () if isinstance(name, str)]
        for name, value in declared.items() if isinstance(declared, Mapping) else ():
            if not _is_plain(name):
                others = True  # 0.1.32 refuses a name with a quote in it
            elif value is not False or name in required:
                properties[name] = self.node(value, depth + 1)
        for name in required:
            if _is_plain(name) and name not in properties:
                properties[name] = self.node(others, depth + 1)
        node: dict[str, Any] = {"properties": properties} if properties else {}
        if required := [name for name in required if name in properties]:
            node["required"] = required
        node["additionalProperties"] = self.node(others, depth + 1) or True if others is not False else False
        least = schema.get("minProperties")
        if isinstance(least, int) and least <= len(properties) and others is False:
            node["minProperties"] = least
        return node

    def _array(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        listed, items = schema.get("prefixItems"), schema.get("items")
        if isinstance(items, list) or isinstance(listed, list):
            return {}  # tuples are read in two ways
        node: dict[str, Any] = {"items": self.node(items, depth + 1)} if isinstance(items, Mapping) else {}
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if items is False:
            return {"maxItems": 0}
        if _is_whole(least) and least:
            node["minItems"] = int(least)
            node.setdefault("items", {})  # without, some are refused for having too few
        if most is not None and _is_whole(most) and (not _is_whole(least) or least <= most):
            node["maxItems"] = int(most)
        return node


def _string(schema: Mapping[str, Any]) -> dict[str, Any]:
    pattern, form = schema.get("pattern"), schema.get("format")
    if isinstance(pattern, str) and len(pattern) < 200 and _PATTERN.fullmatch(pattern):
        return {"pattern": pattern}
    return {"format": form} if isinstance(form, str) and form in _FORMATS else {}


def _integer(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The bounds, as whole numbers and without draft 4's booleans; none where they leave nothing."""
    bounds: dict[str, int] = {}
    for keyword, inwards in (("minimum", 0), ("exclusiveMinimum", 1), ("maximum", 0), ("exclusiveMaximum", -1)):
        value = schema.get(keyword)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MAX_WHOLE:
            continue
        if "inimum" in keyword:
            bounds["minimum"] = max(
                bounds.get("minimum", -_MAX_WHOLE), math.floor(value + 1) if inwards else math.ceil(value)
            )
        else:
            bounds["maximum"] = min(
                bounds.get("maximum", _MAX_WHOLE), math.ceil(value - 1) if inwards else math.floor(value)
            )
    return {} if len(bounds) == 2 and bounds["minimum"] > bounds["maximum"] else bounds


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value) and 0 <= value < 10**6


def _is_plain(name: str) -> bool:
    return not any(c in '"\\' or not c.isprintable() for c in name)


def _mended(node: Any, root: Mapping[str, Any]) -> Any:
    """Without references that lead nowhere, or round in a circle."""
    if isinstance(node, list):
        return [_mended(one, root) for one in node]
    if not isinstance(node, dict):
        return node
    if set(node) == {"$ref"}:
        return node if _leads(node["$ref"], root, frozenset()) else {}
    return {key: value if key in ("enum", "const") else _mended(value, root) for key, value in node.items()}


def _leads(reference: Any, root: Mapping[str, Any], above: frozenset[str]) -> bool:
    if not isinstance(reference, str) or reference in above or not _SEGMENT.fullmatch(reference):
        return False
    target = resolve(reference, root)
    if not isinstance(target, Mapping):
        return False
    above |= {reference}
    steps = [target, *(target.get("anyOf") or ())]
    return all(_leads(step["$ref"], root, above) for step in steps if isinstance(step, Mapping) and "$ref" in step)
