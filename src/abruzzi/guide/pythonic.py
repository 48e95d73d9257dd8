"""A JSON Schema as grammar rules for Python literals, for the pythonic call format.

llguidance compiles JSON Schema to JSON only. Here the part of JSON Schema that tools use is written out for `'x'`,
`True` and `None`; whatever is beyond it becomes the nearest looser rule, and the finished call is validated in any
case.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from abruzzi.protocol.pointer import resolve

# Strings as `repr` writes them. Control characters stay out, so that a string ends on its line.
LITERALS = r"""
py_string: PY_SINGLE | PY_DOUBLE
PY_SINGLE: /'([^'\\\x00-\x1f\x7f]|\\['"\\nrt])*'/
PY_DOUBLE: /"([^"\\\x00-\x1f\x7f]|\\['"\\nrt])*"/
PY_INTEGER: /-?(0|[1-9][0-9]{0,17})/
PY_NUMBER: /-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/
py_boolean: "True" | "False"
py_value: py_string | PY_NUMBER | py_boolean | "None" | py_list | py_dict
py_list: "[" (py_value (", " py_value)*)? "]"
py_dict: "{" (py_pair (", " py_pair)*)? "}"
py_pair: py_string ": " py_value
"""
_MAX_DEPTH = 24
# Unrolling a bounded repetition costs grammar size; past this a bound is left to the validator.
_MAX_COUNT = 64


class PythonicRules:
    """Collects the Lark rules of one tool; they need `LITERALS` beside them, and begin with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._rules: list[str] = []
        self._references: dict[tuple[int, str], str] = {}

    def __str__(self) -> str:
        return "\n".join(self._rules)

    def arguments(self, schema: Mapping[str, Any]) -> str:
        """The name of the rule for `a=1, b='x'`: the declared properties in their order, optional ones or not."""
        return self._members(schema, schema, lambda name: f"{name}=", 0)

    def _rule(self, body: str) -> str:
        name = f"{self._prefix}_{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _members(self, schema: Mapping[str, Any], root: Mapping[str, Any], key: Any, depth: int) -> str:
        properties = schema.get("properties")
        required = schema.get("required") or ()
        items = [
            (_quoted(key(name)) + " " + self._value(value, root, depth + 1), name in required)
            for name, value in (properties.items() if isinstance(properties, Mapping) else ())
        ]
        return self._separated(items)

    def _separated(self, items: Sequence[tuple[str, bool]]) -> str:
        """Some of the items in order, the required ones among them, with `, ` between: built from the last to the
        first.
        """
        rest = self._rule('""')  # what may follow when an item has been written already
        first = rest  # and when none has
        for item, required in reversed(items):
            rest_after, first_after = rest, first
            skip_rest, skip_first = ("", "") if required else (f" | {rest_after}", f" | {first_after}")
            rest = self._rule(f'", " {item} {rest_after}{skip_rest}')
            first = self._rule(f"{item} {rest_after}{skip_first}")
        return first

    def _value(self, schema: Any, root: Mapping[str, Any], depth: int) -> str:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return "py_value"
        if isinstance(reference := schema.get("$ref"), str):
            return self._reference(reference, root)
        if "const" in schema:
            return _literal(schema["const"])
        if isinstance(values := schema.get("enum"), list) and values:
            return self._any(_literal(value) for value in values)
        for keyword in ("anyOf", "oneOf"):
            if isinstance(members := schema.get(keyword), list) and members:
                return self._any(self._value(member, root, depth + 1) for member in members)
        kind = schema.get("type")
        if isinstance(kind, list):
            return self._any(self._value({**schema, "type": one}, root, depth + 1) for one in kind)
        return self._typed(kind, schema, root, depth)

    def _typed(self, kind: Any, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
        if kind == "string":
            return _string(schema)
        if kind in ("integer", "number"):
            bounds = {key: schema[key] for key in _BOUNDS if key in schema}
            # Numbers are spelled alike in both languages, and llguidance knows how to hold them within bounds.
            if bounds:
                return self._rule(f"%json {json.dumps({'type': kind, **bounds})}")
            return "PY_INTEGER" if kind == "integer" else "PY_NUMBER"
        if kind == "boolean":
            return "py_boolean"
        if kind == "null":
            return '"None"'
        if kind == "array":
            return self._list(schema, root, depth)
        if kind == "object" or isinstance(schema.get("properties"), Mapping):
            if not schema.get("properties"):
                return "py_dict"
            return f'"{{" {self._members(schema, root, lambda name: f"{_repr(name)}: ", depth)} "}}"'
        return "py_value"

    def _list(self, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
        item = self._rule(self._value(schema.get("items"), root, depth + 1))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        least = min(least, _MAX_COUNT) if isinstance(least, int) else 0
        if most == 0:
            return '"[]"'
        most = most if isinstance(most, int) and least <= most <= _MAX_COUNT else None
        more = f' (", " {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}' if most != 1 else ""
        body = item + more
        return f'"[" {body} "]"' if least else f'"[" ({body})? "]"'

    def _reference(self, reference: str, root: Mapping[str, Any]) -> str:
        """A rule of its own for each `$ref`, named before it is built, so that a schema may refer to itself."""
        known = (id(root), reference)
        if known not in self._references:
            name = self._references[known] = f"{self._prefix}_ref_{len(self._references)}"
            target = resolve(reference, root)
            body = "py_value" if target is None or target is root else self._value(target, root, 1)
            self._rules.append(f"{name}: {body}")
        return self._references[known]

    def _any(self, alternatives: Iterable[str]) -> str:
        return self._rule(" | ".join(dict.fromkeys(alternatives)))


_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def _string(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    bounds = [bound for bound in (least, most) if bound is not None]
    if (
        bounds == [0]
        or not all(isinstance(bound, int) and bound <= 1000 for bound in bounds)
        or bounds != sorted(bounds)
    ):
        return "py_string"
    count = f"{{{least},{'' if most is None else most}}}"
    return rf"/'([^'\\\x00-\x1f\x7f]|\\['\"\\nrt]){count}'/"


def _literal(value: Any) -> str:
    """A constant, as Lark text."""
    return _quoted(_repr(value))


def _repr(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_repr(key)}: {_repr(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_repr, value)) + "]"
    return repr(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
