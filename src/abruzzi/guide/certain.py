"""What is certain of a schema at a glance: that it takes every value of a kind, or none.

Where neither is certain nothing is said: a schema that something satisfies is never taken for an empty one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from fractions import Fraction
from typing import Any

_SCALARS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_STRINGS = frozenset(("minLength", "maxLength", "pattern", "format"))
_ARRAYS = frozenset(("items", "prefixItems", "additionalItems", "contains", "minItems", "maxItems", "uniqueItems"))
_OBJECTS = frozenset(
    ("properties", "patternProperties", "additionalProperties", "propertyNames", "required", "minProperties")
) | {"maxProperties", "dependentRequired", "dependentSchemas", "dependencies"}
# Keywords that speak of one kind only.
_OF_KIND = (
    dict.fromkeys(_SCALARS, "number")
    | dict.fromkeys(_STRINGS, "string")
    | dict.fromkeys(_ARRAYS, "array")
    | dict.fromkeys(_OBJECTS, "object")
)
# Keywords that say nothing of a value.
ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
)
# The drafts that know a reference heed what stands beside it, or don't: what has one is left alone.
_REFERRING = frozenset(("$ref", "$dynamicRef", "$recursiveRef"))
_LITERALS = re.compile(r"\^(?:([\w -]*)|\((?:\?:)?([\w -]*(?:\|[\w -]*)*)\))\$", re.ASCII)
# Multiples are counted up to here, and bounds this near to one may hold it: the validator reckons with doubles.
_MOST_STEPS = 1_000_000
_NEAR = Fraction(1, 1_000_000)
_MAX_NESTED = 10

_NO_NAMES: Set[str] = frozenset()


def takes_all(schema: Any, kind: str, required: Set[str] = _NO_NAMES, nested: int = 0) -> bool:
    """Whether it takes every value of the kind; objects: every one that has the members `required`."""
    if not isinstance(schema, Mapping):
        return schema is True
    if nested > _MAX_NESTED:
        return False
    nested += 1
    for keyword, said in schema.items():
        if keyword in ANNOTATIONS or _OF_KIND.get(keyword, kind) != kind:
            continue
        if keyword == "type":
            right = kind in (said if isinstance(said, list) else [said])
        elif keyword == "required":
            right = isinstance(said, list) and all(isinstance(name, str) and name in required for name in said)
        elif keyword in ("properties", "patternProperties"):
            right = isinstance(said, Mapping) and all(one is True or one == {} for one in said.values())
        elif keyword == "not":
            right = takes_none(said, kind, nested)
        elif keyword in ("allOf", "anyOf") and isinstance(said, list):
            every = all if keyword == "allOf" else any
            right = every(takes_all(one, kind, required, nested) for one in said)
        else:
            right = False
        if not right:
            return False
    return True


def takes_none(schema: Any, kind: str, nested: int = 0) -> bool:
    """Whether it takes no value of the kind."""
    if not isinstance(schema, Mapping):
        return schema is False
    if nested > _MAX_NESTED or schema.keys() & _REFERRING:
        return False
    nested += 1
    if (kinds := schema.get("type")) is not None:
        names = kinds if isinstance(kinds, list) else [kinds]
        if kind not in names and not (kind == "number" and "integer" in names):
            return True
    if "not" in schema and takes_all(schema["not"], kind, nested=nested):
        return True
    for keyword, every in (("allOf", any), ("anyOf", all), ("oneOf", all)):
        several = schema.get(keyword)
        if isinstance(several, list) and several and every(takes_none(one, kind, nested) for one in several):
            return True
    return False


def refuses(schema: Mapping[str, Any], kind: str, required: Set[str]) -> bool:
    """Whether what a part of an option says of cases and negations refuses every value of the kind that has the
    members `required`.
    """
    if "not" in schema and takes_all(schema["not"], kind, required):
        return True
    if "if" in schema:
        begun = schema["if"]
        if takes_all(begun, kind, required) and takes_none(schema.get("then", True), kind):
            return True
        if takes_none(begun, kind) and takes_none(schema.get("else", True), kind):
            return True
    return False


def is_nothing(schema: Any) -> bool:
    """Whether it is written as what takes no value at all."""
    if not isinstance(schema, Mapping):
        return schema is False
    return schema.get("not", False) in (True, {}) and not schema.keys() & _REFERRING


def literals(pattern: Any) -> list[str] | None:
    """The strings of which a pattern is one, where it is written so: `^a$`, `^(a|b)$`."""
    found = _LITERALS.fullmatch(pattern) if isinstance(pattern, str) else None
    if found is None:
        return None
    return [found[1]] if found[1] is not None else found[2].split("|")


def has_no_multiple(step: int | float, least: float, most: float) -> bool:
    """Whether it is certain that no multiple is within the bounds."""
    size = Fraction(repr(step))
    low, high = Fraction(repr(least)) / size, Fraction(repr(most)) / size
    if size <= 0 or max(abs(low), abs(high)) > _MOST_STEPS:
        return False
    below = (high + _NEAR).__floor__()
    return below < low - _NEAR
