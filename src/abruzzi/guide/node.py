"""A JSON Schema as what a value may be, made ready for a reader that goes through the value character by character.

    Node ── options: the value must be one of them ── Option ── parts: plain schemas that must all hold ── Part

`$ref`, `allOf`, `anyOf` and `oneOf` are taken apart into options; everything below (members, items) is a node of its
own, made when a value gets there, so that a schema may be large and may refer to itself. What can't be decided while a
value is read (`not`, `if`, `contains`, `uniqueItems`, options of a `oneOf` that overlap, ...) makes a node looser and
gives it `checks`: validators that are asked when the value is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jsonschema_rs

from abruzzi.guide.parts import (
    KINDS,
    MAX_OPTIONS,
    Part,
    alternatives,
    is_undecided,
    kept,
    key_of,
    kind_of,
    mapping_of,
    references,
)
from abruzzi.guide.pattern import Pattern, patterns_of

_STRING_KEYWORDS = ("minLength", "maxLength", "pattern", "format")
_NUMBER_KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_OLD_DRAFTS = ("draft-03/", "draft-04/", "draft-06/", "draft-07/")


class Schema:
    """A schema that values are read against: hands out its nodes. Raises ValueError for one that nothing satisfies."""

    def __init__(self, schema: Mapping[str, Any] | bool) -> None:
        self.root = schema
        self.expansions = 0
        self.draft = schema.get("$schema") if isinstance(schema, Mapping) else None
        self.is_old = isinstance(self.draft, str) and any(draft in self.draft for draft in _OLD_DRAFTS)
        self._nodes: dict[tuple[int, ...], Node] = {}
        self._validators: dict[int, tuple[Any, jsonschema_rs.Validator]] = {}  # with the schema, whose id stays its own
        # A validator of a part needs the definitions that the part refers to; other references only the root resolves.
        self.checks_parts = all(ref.startswith(("#/$defs/", "#/definitions/")) for ref in references(schema))
        held = not self.checks_parts and is_undecided(schema)
        self.arguments = self.node((schema, {"type": "object"}), (schema,) if held else ())
        if not self.arguments.options:
            raise ValueError("no object satisfies it")

    def node(self, schemas: tuple[Any, ...], checked: tuple[Any, ...] = ()) -> Node:
        """What satisfies all of these schemas, which are parts of this one."""
        key = tuple(map(id, schemas))
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(self, schemas, checked)
        return node

    def validator(self, schema: Any) -> jsonschema_rs.Validator:
        """A validator of one of its parts."""
        found = self._validators.get(id(schema))
        if found is None:
            whole = self.leaf(schema)
            if isinstance(self.root, Mapping) and schema is not self.root:
                whole |= {key: self.root[key] for key in ("$defs", "definitions") if key in self.root}
            found = self._validators[id(schema)] = schema, jsonschema_rs.validator_for(whole, validate_formats=True)
        return found[1]

    def leaf(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The schema in the draft of the whole."""
        return {"$schema": self.draft, **schema} if isinstance(self.draft, str) else dict(schema)


class Node:
    """What a value at one place may be."""

    def __init__(self, schema: Schema, schemas: tuple[Any, ...], checked: tuple[Any, ...] = ()) -> None:
        self._schemas = schemas  # keeps their ids theirs
        schema.expansions = 0
        unsure: list[Any] = list(checked)
        options: list[list[Part]] = [[]]
        for one in schemas:
            found, sure = alternatives(one, schema, ())
            if not sure and schema.checks_parts:
                unsure.append(one)
            if len(options) * len(found) > MAX_OPTIONS:
                found = [[Part({}, schema)]]
                if schema.checks_parts:
                    unsure.append(one)
            options = [[*option, *alternative] for option in options for alternative in found]
        self._all = [made for option in options if (made := Option(option, schema)).own_kinds]
        self._is_filled = False
        self.checks = tuple(schema.validator(one) for one in unsure)

    @cached_property
    def options(self) -> Sequence[Option]:
        """What it may be, without options that no value can be."""
        return [option for option in self._all if option.kinds]

    def is_void(self, above: frozenset[int]) -> bool:
        """Whether no value can be this, as far as that is seen without looking at `checks`."""
        if self._is_filled:
            return False
        if id(self) in above:
            return True  # a value that would have to hold itself
        above |= {id(self)}
        self._is_filled = any(not option.is_void(kind, above) for option in self._all for kind in option.own_kinds)
        return not self._is_filled


class Option:
    """Parts that must all hold, put together by the kinds of values."""

    def __init__(self, parts: Sequence[Part], home: Schema) -> None:
        self._home = home
        self._members: dict[str, Node | None] = {}
        self._items: dict[int, Node | None] = {}
        self.parts = parts
        kinds = KINDS
        for part in parts:
            kinds &= part.kinds
        self.values = _common_values([part.values for part in parts if part.values is not None], kinds, home, parts)
        if self.values is not None:
            kinds &= {kind_of(value) for value in self.values}
        self.own_kinds = frozenset(kind for kind in kinds if not self._contradicts(kind))

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of values that it may be."""
        return frozenset(kind for kind in self.own_kinds if not self.is_void(kind, frozenset()))

    # Strings and numbers

    @cached_property
    def words(self) -> list[str] | None:
        """The strings that it may be, where they are listed."""
        return None if self.values is None else [value for value in self.values if isinstance(value, str)]

    @cached_property
    def length(self) -> tuple[int, int | None]:
        """The least and the greatest length of a string, in characters."""
        return _bounds(self.parts, "minLength", "maxLength")

    @cached_property
    def text(self) -> TextRule | None:
        """What a string must be beyond its length, if anything."""
        rules = [r for part in self.parts if (r := kept(part.schema, _STRING_KEYWORDS[2:]))]
        rules = [rule for rule in rules if "pattern" in rule or _is_checked_format(rule["format"])]
        if not rules or self.words is not None:
            return None
        whole = [self._home.leaf({"type": "string", **kept(part.schema, _STRING_KEYWORDS)}) for part in self.parts]
        patterns = [one for rule in rules for one in patterns_of(rule.get("pattern"), rule.get("format"))]
        return TextRule(patterns, [jsonschema_rs.validator_for(one, validate_formats=True) for one in whole])

    @cached_property
    def number(self) -> Sequence[jsonschema_rs.Validator]:
        """What a number must be."""
        rules = []
        for part in self.parts:
            rule = kept(part.schema, _NUMBER_KEYWORDS)
            if rule or part.integer:
                rule["type"] = "integer" if part.integer else "number"
                rules.append(jsonschema_rs.validator_for(self._home.leaf(rule)))
        return rules

    def takes_scalar(self, value: Any) -> bool:
        """Whether it may be this number, boolean or null."""
        if kind_of(value) not in self.kinds:
            return False
        if self.values is not None and all(key_of(value) != key_of(one) for one in self.values):
            return False
        if kind_of(value) != "number":
            return True
        try:
            return all(rule.is_valid(value) for rule in self.number)
        except ValueError:  # a number that the validator can't hold
            return False

    # Objects

    @cached_property
    def required(self) -> frozenset[str]:
        return frozenset().union(*(part.required for part in self.parts))

    @cached_property
    def names(self) -> tuple[str, ...] | None:
        """The names of all members that there may be, in the schema's order; None where they aren't listed."""
        listed = self._listed
        if listed is None and not any(part.patterns for part in self.parts) and not self._takes_others:
            listed = list(dict.fromkeys(name for part in self.parts for name in part.properties))
        return None if listed is None else tuple(name for name in listed if self.member(name) is not None)

    @cached_property
    def _listed(self) -> Sequence[str] | None:
        lists = [names for part in self.parts if (names := part.listed) is not None]
        return [name for name in lists[0] if all(name in names for names in lists)] if lists else None

    @cached_property
    def _takes_others(self) -> bool:
        """Whether there may be members that nothing names."""
        node = self._child(tuple(part.others for part in self.parts if part.others is not True))
        return node is not None and bool(node.options)

    @cached_property
    def known(self) -> tuple[str, ...]:
        """The names of the members that are told of and may be there."""
        found = dict.fromkeys(name for part in self.parts for name in (*part.properties, *sorted(part.required)))
        return tuple(name for name in found if self.member(name) is not None)

    @cached_property
    def said_of_names(self) -> Sequence[Node]:
        """What members' names may or must be, where that is said."""
        said = [names for part in self.parts if isinstance(names := part._names, Mapping)]
        said += [{"pattern": pattern} for part in self.parts for pattern, _ in part.patterns]
        return [self._home.node((one, {"type": "string"})) for one in said]

    @cached_property
    def takes_any_name(self) -> bool:
        """Whether a member may have any name, but for single ones."""
        return all(part.takes_any_name for part in self.parts) and self._takes_others

    @cached_property
    def size(self) -> tuple[int, int | None]:
        """The least and the greatest number of members."""
        return _bounds(self.parts, "minProperties", "maxProperties")

    @cached_property
    def dependents(self) -> Mapping[str, frozenset[str]]:
        """The members that must be there when another is."""
        found: dict[str, frozenset[str]] = {}
        for part in self.parts:
            for name, needed in mapping_of(part.schema, "dependentRequired").items():
                if isinstance(needed, list):
                    found[name] = found.get(name, frozenset()) | frozenset(needed)
        return found

    def member(self, name: str) -> Node | None:
        """What the member of this name may be, None where there may be none."""
        node = self._member(name)
        return node if node is not None and node.options else None

    def _member(self, name: str) -> Node | None:
        if name not in self._members:
            schemas = tuple(one for part in self.parts for one in part.members(name) if one is not True)
            self._members[name] = self._child(schemas)
        return self._members[name]

    # Arrays

    @cached_property
    def count(self) -> tuple[int, int | None]:
        """The least and the greatest number of items."""
        least, most = _bounds(self.parts, "minItems", "maxItems")
        for index in range(self._prefix + 1):
            if most is not None and index >= most:
                break
            if self.item(index) is None:
                return least, index
        return least, most

    @cached_property
    def contained(self) -> Sequence[Node]:
        """What some of the items must be."""
        schemas = [part.schema["contains"] for part in self.parts if "contains" in part.schema]
        return [self._home.node((one,)) for one in schemas]

    def item(self, index: int) -> Node | None:
        """What the item at this index may be, None where there may be none."""
        node = self._item(min(index, self._prefix))
        return node if node is not None and node.options else None

    @cached_property
    def _prefix(self) -> int:
        """The index of the first item that is like all behind it."""
        return max((len(part.prefix) for part in self.parts), default=0)

    def _item(self, index: int) -> Node | None:
        if index not in self._items:
            self._items[index] = self._child(tuple(one for part in self.parts if (one := part.item(index)) is not True))
        return self._items[index]

    def _child(self, schemas: tuple[Any, ...]) -> Node | None:
        return None if any(one is False for one in schemas) else self._home.node(schemas)

    # Whether there is anything at all

    def _contradicts(self, kind: str) -> bool:
        """Whether its own bounds leave no value of the kind."""
        if kind == "string" and self.words is None:
            return _crossed(_bounds(self.parts, "minLength", "maxLength"))
        if kind == "object":
            names = any(name in part.required and one is False for part in self.parts for name, one in self._false())
            return names or _crossed(_bounds(self.parts, "minProperties", "maxProperties"))
        if kind == "array":
            return _crossed(_bounds(self.parts, "minItems", "maxItems"))
        return kind == "number" and self.values is None and _numbers_cross(self.parts)

    def _false(self) -> Iterator[tuple[str, Any]]:
        for part in self.parts:
            yield from ((name, one) for name, one in part.properties.items() if one is False)

    def is_void(self, kind: str, above: frozenset[int]) -> bool:
        """Whether it can be no value of the kind."""
        needed: list[Node | None] = []
        if kind == "object":
            needed = [self._member(name) for name in self.required]
            if (least := self.size[0]) and self._listed is not None:
                void = sum(self._member(name) is not None for name in self._listed) < least
                needed += [None] if void else []
        elif kind == "array":
            least = _bounds(self.parts, "minItems", "maxItems")[0]
            needed = [self._item(index) for index in range(min(least, self._prefix + 1))]
        return any(node is None or node.is_void(above) for node in needed)


@dataclass(frozen=True, slots=True)
class TextRule:
    """What a string must be: `patterns` that its beginnings can be followed through, `validators` for the whole."""

    patterns: Sequence[Pattern]
    validators: Sequence[jsonschema_rs.Validator]

    def accepts(self, text: str) -> bool:
        return all(validator.is_valid(text) for validator in self.validators)


def _common_values(
    listed: Sequence[Sequence[Any]], kinds: frozenset[str], home: Schema, parts: Sequence[Part]
) -> list[Any] | None:
    """The values that stand in every list, are of the kinds, and that what else the parts say allows."""
    if not listed:
        return None
    keys = [{key_of(value) for value in values} for values in listed]
    rules = [
        jsonschema_rs.validator_for(home.leaf(rule), validate_formats=True)
        for part in parts
        if (rule := kept(part.schema, ("type", *_STRING_KEYWORDS, *_NUMBER_KEYWORDS)))
    ]
    return [
        value
        for value in listed[0]
        if kind_of(value) in kinds
        and all(key_of(value) in one for one in keys)
        and all(rule.is_valid(value) for rule in rules)
        and (not isinstance(value, list | Mapping) or _allowed(value, home, parts))
    ]


def _allowed(value: Any, home: Schema, parts: Sequence[Part]) -> bool:
    """Whether an object or array is what the parts say, where they can be asked."""
    return not home.checks_parts or all(home.validator(part.schema).is_valid(value) for part in parts)


def _bounds(parts: Sequence[Part], least: str, most: str) -> tuple[int, int | None]:
    low = [part.schema[least] for part in parts if isinstance(part.schema.get(least), int | float)]
    high = [part.schema[most] for part in parts if isinstance(part.schema.get(most), int | float)]
    return int(max(low, default=0)), int(min(high)) if high else None


def _crossed(bounds: tuple[int, int | None]) -> bool:
    return bounds[1] is not None and bounds[0] > bounds[1]


def _numbers_cross(parts: Sequence[Part]) -> bool:
    low = [part.schema[key] for part in parts for key in ("minimum", "exclusiveMinimum") if _is_number(part, key)]
    high = [part.schema[key] for part in parts for key in ("maximum", "exclusiveMaximum") if _is_number(part, key)]
    return bool(low and high) and max(low) > min(high)


def _is_number(part: Part, key: str) -> bool:
    value = part.schema.get(key)
    return isinstance(value, int | float) and not isinstance(value, bool)


@lru_cache(maxsize=256)
def _is_checked_format(name: Any) -> bool:
    """Whether the validator knows the format: it lets everything pass for any other."""
    rule = jsonschema_rs.validator_for({"format": name}, validate_formats=True)
    return not all(rule.is_valid(text) for text in ("\x00 {}<>:%zz[\\", "~", "-.-", "("))
