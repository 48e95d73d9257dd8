"""What a schema says by what a value must not be, or must be in some case, as choices of plainer schemas.

For whoever looks for an example: none of them is exact, and each says more than nothing. The validator decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from string import ascii_lowercase
from typing import Any

from abruzzi.guide.node import Option
from abruzzi.guide.parts import KINDS, Home, Part, alternatives, list_of, mapping_of

# Options that are looked at, and options on the way to them.
_MAX_OPTIONS = 32
_MAX_STEPS = 300
_MAX_NESTED = 4
# What a value is where it isn't what the first keyword says: of which kind, and by how much less or more. Bounds of
# numbers aren't exclusive, which is spelled otherwise in draft 4.
_OPPOSITES = {
    "minimum": ("number", "maximum", 0),
    "maximum": ("number", "minimum", 0),
    "exclusiveMinimum": ("number", "maximum", 0),
    "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}


@lru_cache(maxsize=1024)
def refined(option: Option) -> Sequence[Option]:
    """Options that say in parts what the option says in cases and negations."""
    return tuple(islice(_Refinement().of(option, 0, 0), _MAX_OPTIONS))


def together(option: Option, schema: Any) -> Iterator[Option]:
    """What is this option and what the schema says."""
    home = option.home
    home.expansions = 0
    for parts in alternatives(schema, home, ())[0]:
        made = Option(list({id(part.schema): part for part in (*option.parts, *parts)}.values()), home)
        if made.kinds:
            yield made


class _Refinement:
    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def of(self, option: Option, done: int, nested: int) -> Iterator[Option]:
        """`done`: how many of its parts have been looked at."""
        choices = [choice for part in option.parts[done:] for choice in _choices(part, option)]
        if choices and nested < _MAX_NESTED:
            for one in self._chosen(option, choices):
                yield from self.of(one, len(option.parts), nested + 1)
            return
        # What is left over is known when all else is.
        left = [choice for part in option.parts for choice in _unevaluated(part, option)]
        if left or nested:
            yield from self._chosen(option, left)

    def _chosen(self, option: Option, choices: Sequence[Sequence[Any]]) -> Iterator[Option]:
        if not choices:
            yield option
            return
        for schema in choices[0]:
            for one in together(option, schema):
                self._left -= 1
                if self._left < 0:
                    return
                yield from self._chosen(one, choices[1:])


def _choices(part: Part, option: Option) -> Iterator[list[Any]]:
    """Of each of these lists a value must be one."""
    schema, home = part.schema, option.home
    if "not" in schema:
        yield _negations(schema["not"], home, 0)
    if "if" in schema and ("then" in schema or "else" in schema):
        then, otherwise = schema.get("then", True), schema.get("else", True)
        holds = {"allOf": [schema["if"], then]}
        yield [holds, *({"allOf": [one, otherwise]} for one in _negations(schema["if"], home, 0))]
    for keyword in ("dependentSchemas", "dependencies"):
        for name, needed in mapping_of(schema, keyword).items():
            yield [_without(name), {"required": needed} if isinstance(needed, list) else needed]
    chosen = {id(one.schema) for one in option.parts}
    others = [one for one in list_of(schema, "oneOf") if id(one) not in chosen]
    if 0 < len(others) < len(list_of(schema, "oneOf")):
        yield [{"allOf": [{"not": one} for one in others]}]


def _unevaluated(part: Part, option: Option) -> Iterator[list[Any]]:
    schema = part.schema
    if "unevaluatedProperties" in schema:
        # Those around it may not count.
        yield [_others(parts, schema["unevaluatedProperties"]) for parts in (option.parts, [part])]
    if "unevaluatedItems" in schema and not any("items" in one.schema for one in option.parts):
        prefix = [True] * max(len(one.prefix) for one in option.parts)
        items = {"items": schema["unevaluatedItems"]}
        yield [items | {"prefixItems": prefix} if prefix else items]


def _others(parts: Sequence[Part], schema: Any) -> Any:
    """An object whose members are what the schema says, but for those that a part tells of."""
    if any("additionalProperties" in part.schema for part in parts):
        return True
    names = dict.fromkeys((name for part in parts for name in part.properties), True)
    patterns = dict.fromkeys((pattern for part in parts for pattern, _ in part.patterns), True)
    return {"properties": names, "patternProperties": patterns, "additionalProperties": schema}


def _negations(schema: Any, home: Home, nested: int) -> list[Any]:
    """Schemas of what the schema doesn't allow."""
    if schema is True or nested > _MAX_NESTED:
        return []
    if not isinstance(schema, Mapping):
        return [True]
    found: list[Any] = []
    kinds = schema.get("type")
    listed = {"number" if kind == "integer" else kind for kind in (kinds if isinstance(kinds, list) else [kinds])}
    for keyword, (kind, opposite, more) in _OPPOSITES.items():
        bound = schema.get(keyword)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and (more >= 0 or bound > 0):
            found.append({"type": kind, opposite: bound + more})
    found += ({"type": "object", **_without(name)} for name in list_of(schema, "required"))
    found += (_with(name, one) for name, one in mapping_of(schema, "properties").items() if one not in (True, {}))
    if schema.get("additionalProperties", True) is not True:
        known = mapping_of(schema, "properties")
        found.append(_with(next(c for c in (*ascii_lowercase, "") if c not in known), schema["additionalProperties"]))
    if "propertyNames" in schema:
        found.append({"type": "object", "minProperties": 1, "propertyNames": {"not": schema["propertyNames"]}})
    if isinstance(schema.get("items"), bool | Mapping):
        found.append({"type": "array", "minItems": 1, "items": {"not": schema["items"]}})
    if "contains" in schema:
        found.append({"type": "array", "items": {"not": schema["contains"]}})
    for keyword in ("anyOf", "oneOf"):
        if several := list_of(schema, keyword):
            found.append({"allOf": [{"not": one} for one in several]})
    for one in (*list_of(schema, "allOf"), *_target(schema, home)):
        found += _negations(one, home, nested + 1)
    if "not" in schema:
        found.append(schema["not"])
    if schema.keys() & {"const", "enum", "pattern", "format", "multipleOf", "uniqueItems", "if"}:
        found.append(True)  # nearly anything: there are many examples to ask about
    if kinds is not None and (others := sorted(KINDS - listed)):
        found.append({"type": others})
        found += [{"type": "number"}] * (kinds == "integer")
    return found


def _without(name: str) -> dict[str, Any]:
    return {"properties": {name: False}}


def _with(name: str, schema: Any) -> dict[str, Any]:
    """An object whose member of this name isn't what the schema says."""
    return {"type": "object", "required": [name], "properties": {name: {"not": schema}}}


def _target(schema: Mapping[str, Any], home: Home) -> list[Any]:
    reference = schema.get("$ref")
    target = home.resolve(reference) if isinstance(reference, str) else None
    return [] if target is None else [target]
