"""A JSON Schema as what a value may be, made ready for a reader that goes through the value character by character.

    Node ── options: the value must be one of them ── Option ── parts: plain schemas that must all hold ── Part

`$ref`, `allOf`, `anyOf` and `oneOf` are taken apart into options; everything below (members, items) is a node of its
own, made when a value gets there, so that a schema may be large and may refer to itself. What can't be decided while a
value is read (`not`, `if`, `contains`, `uniqueItems`, options of a `oneOf` that overlap, ...) makes a node looser and
gives it `checks`: validators that are asked when the value is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import jsonschema_rs

from abruzzi.guide.bounds import LARGEST, Span, crossed, numbers_cross, span, wanted_cross
from abruzzi.guide.certain import literals, refuses
from abruzzi.guide.document import validator_of
from abruzzi.guide.leaves import NUMBER_KEYWORDS, STRING_KEYWORDS, TextRule, common_values, is_checked_format
from abruzzi.guide.parts import (
    KINDS,
    MAX_OPTIONS,
    Home,
    Part,
    alternatives,
    kept,
    key_of,
    kind_of,
    list_of,
    mapping_of,
)
from abruzzi.guide.pattern import patterns_of

_FEW = {"null": 1, "boolean": 2}
_LEAST = ("minLength", "minItems", "minProperties")


class Unsatisfiable(ValueError):
    """A schema that nothing satisfies; `path`: the innermost schema in it that can't be satisfied."""

    def __init__(self, path: str, schema: Any) -> None:
        asks_too_much = isinstance(schema, Mapping) and any(schema.get(key, 0) > LARGEST for key in _LEAST)
        super().__init__(f"no object{' that a turn has room for' if asks_too_much else ''} satisfies it")
        self.path = path


class Schema(Home):
    """A schema that values are read against: hands out its nodes. Raises Unsatisfiable."""

    def __init__(self, schema: Mapping[str, Any] | bool) -> None:
        super().__init__(schema)
        self._nodes: dict[tuple[int, ...], Node] = {}
        # Where references are left to the validator, it is asked about the whole before any of it goes out.
        self.arguments = self.node((self.root, {"type": "object"}), () if self.is_whole else (self.root,))
        if not self.arguments.options:
            raise Unsatisfiable(*self._culprit())

    def node(self, schemas: tuple[Any, ...], checked: tuple[Any, ...] = ()) -> Node:
        """What satisfies all of these schemas, which are parts of this one."""
        key = tuple(map(id, schemas))
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(self, schemas, checked)
        return node

    def _culprit(self) -> tuple[str, Any]:
        """The path and the schema of the innermost member or item that must be there and can't be."""
        path, schema = "", self.root
        while isinstance(schema, Mapping):
            needed = [
                (f".properties.{name}", one)
                for name, one in mapping_of(schema, "properties").items()
                if name in list_of(schema, "required")
            ]
            if schema.get("minItems", 0) > 0 and "items" in schema:
                needed.append((".items", schema["items"]))
            void = [(step, one) for step, one in needed if not self.node((one,)).options]
            if not void:
                break
            path, schema = path + void[0][0], void[0][1]
        return path, schema


class Node:
    """What a value at one place may be."""

    def __init__(self, schema: Schema, schemas: tuple[Any, ...], checked: tuple[Any, ...] = ()) -> None:
        self._schemas = schemas  # keeps their ids theirs
        schema.expansions = 0
        unsure: list[Any] = list(checked)
        options: list[list[Part]] = [[]]
        for one in schemas:
            found, sure = alternatives(one, schema, ())
            if not sure and schema.is_whole:
                unsure.append(one)
            if len(options) * len(found) > MAX_OPTIONS:
                found = [[Part({}, schema)]]
                if schema.is_whole:
                    unsure.append(one)
            options = [[*option, *alternative] for option in options for alternative in found]
        self._all = [made for option in options if (made := Option(option, schema)).own_kinds]
        self.has_value: bool | None = None  # whether one is known; set by who looks for one
        self.is_filled: bool | None = None  # whether any value can be this; not known before it is asked for
        self.checks = tuple(schema.validator(one) for one in unsure)

    @cached_property
    def options(self) -> Sequence[Option]:
        """What it may be, without options that no value can be."""
        return [option for option in self._all if option.kinds]

    @cached_property
    def several(self) -> int | None:
        """How many different values it has at most, where those are few."""
        counts = [option.several for option in self._all]
        return None if None in counts else sum(count or 0 for count in counts)

    @cached_property
    def ways(self) -> Sequence[Sequence[Node]]:
        """What else must be filled for this to be, in each of its ways."""
        needs = (option.needs(kind) for option in self._all for kind in option.own_kinds)
        return [one for one in needs if one is not None]


def fill(nodes: Iterable[Node]) -> None:
    """Find out of nodes, and of all that they need, whether any value can be them, as far as that is seen without
    looking at `checks`. What would have to hold itself can't be.
    """
    pending = [node for node in nodes if node.is_filled is None]
    found: dict[Node, None] = {}
    while pending:
        node = pending.pop()
        if node.is_filled is None and node not in found:
            if not all(node.ways):
                node.is_filled = True
            else:
                found[node] = None
                pending += (needed for way in node.ways for needed in way)
    unfilled = list(reversed(found))
    while True:
        left = []
        for node in unfilled:
            if any(all(needed.is_filled for needed in way) for way in node.ways):
                node.is_filled = True
            else:
                left.append(node)
        if len(left) == len(unfilled):
            break
        unfilled = left
    for node in unfilled:
        node.is_filled = False


class Option:
    """Parts that must all hold, put together by the kinds of values."""

    def __init__(self, parts: Sequence[Part], home: Schema) -> None:
        self._home = home
        self._members: dict[str, Node | None] = {}
        self._items: dict[int, Node | None] = {}
        self._follows: dict[str, frozenset[str]] = {}
        self.parts = parts
        kinds = KINDS
        for part in parts:
            kinds &= part.kinds
        self.values = common_values([part.values for part in parts if part.values is not None], kinds, home, parts)
        if self.values is not None:
            kinds &= {kind_of(value) for value in self.values}
            self._keys = frozenset(map(key_of, self.values))
        self.own_kinds = frozenset(kind for kind in kinds if not self._contradicts(kind))

    @property
    def home(self) -> Schema:
        """The schema that it is a part of."""
        return self._home

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of values that it may be."""
        return frozenset(kind for kind in self.own_kinds if self._is_filled(kind))

    @property
    def several(self) -> int | None:
        """How many different values it has at most, where those are few."""
        if self.values is not None:
            return len(self._keys)
        return sum(_FEW[kind] for kind in self.own_kinds) if self.own_kinds <= _FEW.keys() else None

    # Strings and numbers

    @cached_property
    def words(self) -> list[str] | None:
        """The strings that it may be, sorted, where they are listed."""
        return None if self.values is None else sorted({value for value in self.values if isinstance(value, str)})

    @cached_property
    def length(self) -> Span:
        """The least and the greatest length of a string, in characters."""
        return span(self.parts, "minLength", "maxLength")

    @cached_property
    def text(self) -> TextRule | None:
        """What a string must be beyond its length, if anything."""
        rules = [r for part in self.parts if (r := kept(part.schema, STRING_KEYWORDS[2:]))]
        rules = [rule for rule in rules if "pattern" in rule or is_checked_format(rule["format"])]
        if not rules or self.words is not None:
            return None
        whole = [self._home.leaf({"type": "string", **kept(part.schema, STRING_KEYWORDS)}) for part in self.parts]
        draft = self._home.draft
        patterns = [one for rule in rules for one in patterns_of(rule.get("pattern"), rule.get("format"), draft)]
        return TextRule(patterns, [validator_of(one) for one in whole])

    @cached_property
    def number(self) -> Sequence[jsonschema_rs.Validator]:
        """What a number must be."""
        rules = []
        for part in self.parts:
            rule = kept(part.schema, NUMBER_KEYWORDS)
            if rule or part.integer:
                rule["type"] = "integer" if part.integer else "number"
                rules.append(validator_of(self._home.leaf(rule)))
        return rules

    def takes_scalar(self, value: Any) -> bool:
        """Whether it may be this number, boolean or null."""
        if kind_of(value) not in self.kinds:
            return False
        if self.values is not None and key_of(value) not in self._keys:
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
    def sorted_names(self) -> Sequence[str] | None:
        return None if self.names is None else sorted(self.names)

    @cached_property
    def _listed(self) -> Sequence[str] | None:
        lists = [dict.fromkeys(names) for part in self.parts if (names := part.listed) is not None]
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
    def size(self) -> Span:
        """The least and the greatest number of members."""
        return span(self.parts, "minProperties", "maxProperties")

    @cached_property
    def dependents(self) -> Mapping[str, frozenset[str]]:
        """The members that must be there when another is."""
        found: dict[str, frozenset[str]] = {}
        for part in self.parts:
            for name, needed in mapping_of(part.schema, "dependentRequired").items():
                if isinstance(needed, list):
                    found[name] = found.get(name, frozenset()) | frozenset(needed)
        return found

    def follows(self, name: str) -> frozenset[str]:
        """The members that must be there when this one is, by way of others, too."""
        found = self._follows.get(name)
        if found is None:
            reached = {name: None}
            for one in (pending := [name]):
                new = [other for other in self.dependents.get(one, ()) if other not in reached]
                reached |= dict.fromkeys(new)
                pending += new
            found = self._follows[name] = frozenset(pending[1:])
        return found

    @cached_property
    def needed(self) -> frozenset[str]:
        """The members that must be there in any case."""
        return self.required.union(*map(self.follows, self.required)) if self.dependents else self.required

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
    def count(self) -> Span:
        """The least and the greatest number of items."""
        least, most = span(self.parts, "minItems", "maxItems")
        for index in range(self._prefix + 1):
            if most is not None and index >= most:
                break
            if self.item(index) is None:
                return least, index
        return least, most

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
        if any(refuses(part.schema, kind, self.required) for part in self.parts):
            return True
        if kind == "string" and self.words is None:
            return crossed(span(self.parts, "minLength", "maxLength")) or self._refuses_literals()
        if kind == "object":
            names = any(name in part.required and one is False for part in self.parts for name, one in self._false())
            return names or crossed(span(self.parts, "minProperties", "maxProperties"))
        if kind == "array":
            return crossed(span(self.parts, "minItems", "maxItems")) or wanted_cross(self.parts)
        return kind == "number" and self.values is None and numbers_cross(self.parts)

    def _false(self) -> Iterator[tuple[str, Any]]:
        for part in self.parts:
            yield from ((name, one) for name, one in part.properties.items() if one is False)

    def _refuses_literals(self) -> bool:
        """Whether a pattern is of a few strings, and none of them is right."""
        for part in self.parts:
            listed = literals(part.schema.get("pattern"))
            if listed is not None and self.text is not None:
                return not any(map(self.text.accepts, listed))
        return False

    def needs(self, kind: str) -> Sequence[Node] | None:
        """The members or items that a value of the kind must have; None where it can't have them."""
        needed: list[Node | None] = []
        if kind == "object":
            least, most = self.size
            if most is not None and len(self.needed) > most:
                return None
            if (
                least
                and self._listed is not None
                and sum(self._member(one) is not None for one in self._listed) < least
            ):
                return None
            needed = [self._member(name) for name in self.needed]
        elif kind == "array":
            least = span(self.parts, "minItems", "maxItems")[0]
            if least > self._prefix and any(part.schema.get("uniqueItems") is True for part in self.parts):
                node = self._item(self._prefix)
                several = None if node is None else node.several
                if several is not None and least > self._prefix + several:
                    return None
            needed = [self._item(index) for index in range(min(least, self._prefix + 1))]
        found = [node for node in needed if node is not None]
        return found if len(found) == len(needed) else None

    def _is_filled(self, kind: str) -> bool:
        needed = self.needs(kind)
        if needed:
            fill(needed)
        return needed is not None and all(node.is_filled for node in needed)
