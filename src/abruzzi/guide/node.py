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
from itertools import combinations, product
from typing import Any

import jsonschema_rs

from abruzzi.guide.pattern import Pattern, patterns_of
from abruzzi.protocol.references import resolve

KINDS = frozenset(("null", "boolean", "number", "string", "array", "object"))
_STRING_KEYWORDS = ("minLength", "maxLength", "pattern", "format")
_NUMBER_KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Decided only when the value is whole.
_UNDECIDED = frozenset(
    (
        "not",
        "if",
        "contains",
        "uniqueItems",
        "dependencies",
        "dependentSchemas",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
        "$recursiveRef",
    )
)
# Keywords that hold data, not schemas.
_DATA = frozenset(("const", "enum", "default", "example", "examples", "required", "description", "title"))
# Combinations of alternatives that are followed at once; what has more is read as anything and checked when whole.
_MAX_OPTIONS = 64
_OLD_DRAFTS = ("draft-03/", "draft-04/", "draft-06/", "draft-07/")


class Schema:
    """A schema that values are read against: hands out its nodes. Raises ValueError for one that nothing satisfies."""

    def __init__(self, schema: Mapping[str, Any] | bool) -> None:
        self.root = schema
        self.draft = schema.get("$schema") if isinstance(schema, Mapping) else None
        self.is_old = isinstance(self.draft, str) and any(draft in self.draft for draft in _OLD_DRAFTS)
        self._nodes: dict[tuple[int, ...], Node] = {}
        self._validators: dict[int, tuple[Any, jsonschema_rs.Validator]] = {}  # with the schema, whose id stays its own
        # A validator of a part needs the definitions that the part refers to; other references only the root resolves.
        self.checks_parts = all(ref.startswith(("#/$defs/", "#/definitions/")) for ref in _references(schema))
        held = not self.checks_parts and _is_undecided(schema)
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
        unsure: list[Any] = list(checked)
        options: list[list[Part]] = [[]]
        for one in schemas:
            alternatives, sure = _alternatives(one, schema, ())
            if not sure and schema.checks_parts:
                unsure.append(one)
            if len(options) * len(alternatives) > _MAX_OPTIONS:
                alternatives = [[Part({}, schema)]]
                if schema.checks_parts:
                    unsure.append(one)
            options = [[*option, *alternative] for option in options for alternative in alternatives]
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


class Part:
    """A schema without combinators."""

    def __init__(self, schema: Mapping[str, Any], home: Schema) -> None:
        kinds = schema.get("type")
        names = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else None
        self.kinds = KINDS if names is None else frozenset("number" if n == "integer" else n for n in names) & KINDS
        self.integer = names is not None and "integer" in names and "number" not in names
        self.values: Sequence[Any] | None = None
        if isinstance(schema.get("enum"), list):
            self.values = schema["enum"]
        if "const" in schema:
            only = key_of(schema["const"])
            self.values = [one for one in self.values or [schema["const"]] if key_of(one) == only]
        self.schema = schema
        self.properties = _mapping(schema, "properties")
        self.required = frozenset(name for name in _list(schema, "required") if isinstance(name, str))
        self.patterns = [(pattern, value) for pattern, value in _mapping(schema, "patternProperties").items()]
        self.others: Any = schema.get("additionalProperties", True)
        if home.is_old:
            listed = schema.get("items")
            self.prefix = listed if isinstance(listed, list) else []
            self.items: Any = schema.get("additionalItems", True) if self.prefix else schema.get("items", True)
        else:
            self.prefix = _list(schema, "prefixItems")
            self.items = schema.get("items", True)
            if isinstance(self.items, list):  # an older draft's way, which is no schema in this one
                self.prefix, self.items = self.items, schema.get("additionalItems", True)
        self._names = schema.get("propertyNames")
        self._home = home

    def members(self, name: str) -> list[Any]:
        """The schemas of the member of this name; False among them where there may be none."""
        found = [self.properties[name]] if name in self.properties else []
        found += [value for pattern, value in self.patterns if _searches(pattern, name)]
        if self._names is not None and not self._may_be_called(name):
            return [False]
        return found or [self.others]

    def _may_be_called(self, name: str) -> bool:
        names = self._names
        if not isinstance(names, Mapping):
            return bool(names)
        return bool(self._home.validator(names).is_valid(name)) if not _refers(names) else True

    @property
    def takes_any_name(self) -> bool:
        """Whether a member may have any name, as far as names are asked about."""
        return self.others is not False and not self.patterns and self._names is None

    @property
    def listed(self) -> Sequence[str] | None:
        """Names of which each of its members has one, where it lists them."""
        if self.others is False and not self.patterns:
            return list(self.properties)
        if isinstance(self._names, Mapping):
            values = [self._names["const"]] if "const" in self._names else self._names.get("enum")
            return [name for name in values if isinstance(name, str)] if isinstance(values, list) else None
        return () if self._names is False else None

    def item(self, index: int) -> Any:
        return self.prefix[index] if index < len(self.prefix) else self.items


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
        rules = [r for part in self.parts if (r := _kept(part.schema, _STRING_KEYWORDS[2:]))]
        rules = [rule for rule in rules if "pattern" in rule or _is_checked_format(rule["format"])]
        if not rules or self.words is not None:
            return None
        whole = [self._home.leaf({"type": "string", **_kept(part.schema, _STRING_KEYWORDS)}) for part in self.parts]
        patterns = [one for rule in rules for one in patterns_of(rule.get("pattern"), rule.get("format"))]
        return TextRule(patterns, [jsonschema_rs.validator_for(one, validate_formats=True) for one in whole])

    @cached_property
    def number(self) -> Sequence[jsonschema_rs.Validator]:
        """What a number must be."""
        rules = []
        for part in self.parts:
            rule = _kept(part.schema, _NUMBER_KEYWORDS)
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
            for name, needed in _mapping(part.schema, "dependentRequired").items():
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


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    return "object" if isinstance(value, Mapping) else "number"


def key_of(value: Any) -> Any:
    """Equal for what JSON Schema holds equal: 1 and 1.0, and not 1 and true."""
    if isinstance(value, Mapping):
        return ("object", frozenset((name, key_of(one)) for name, one in value.items()))
    if isinstance(value, list):
        return ("array", tuple(map(key_of, value)))
    return (kind_of(value), value)


def _alternatives(schema: Any, home: Schema, above: tuple[int, ...]) -> tuple[list[list[Part]], bool]:
    """The schema as alternatives of parts, and whether they say all that it says."""
    if not isinstance(schema, Mapping):
        return ([] if schema is False else [[]]), True
    if id(schema) in above:
        return [], True  # by way of itself nothing more can be satisfied
    if schema.get("not", False) in (True, {}):
        return [], True
    above = (*above, id(schema))
    reference = schema.get("$ref")
    groups: list[list[list[Part]]] = []
    sure = True
    if isinstance(reference, str):
        target = resolve(reference, home.root) if reference.startswith("#") else None
        if target is None:
            sure = False  # somewhere that only the validator knows
        else:
            found, exact = _alternatives(target, home, above)
            groups.append(found)
            sure &= exact
        if home.is_old:
            return groups[0] if groups else [[]], sure
    for one in _list(schema, "allOf"):
        found, exact = _alternatives(one, home, above)
        groups.append(found)
        sure &= exact
    for keyword in ("anyOf", "oneOf"):
        members = _list(schema, keyword)
        if members:
            several = [_alternatives(one, home, above) for one in members]
            sure &= all(exact for _, exact in several)
            sure &= keyword == "anyOf" or _are_disjoint([found for found, _ in several])
            groups.append([alternative for found, _ in several for alternative in found])
    if "if" in schema and ("then" in schema or "else" in schema):
        # For whoever looks for an example: what fits `if` and `then`, or `else`.
        holds, _ = _alternatives({"allOf": [schema["if"], schema.get("then", True)]}, home, above)
        fails, _ = _alternatives(schema.get("else", True), home, above)
        groups.append([*fails, *holds])
    sure &= not any(_speaks(schema, keyword) for keyword in _UNDECIDED)
    part = Part(schema, home)
    sure &= part.values is None or not any(isinstance(value, list | Mapping) for value in part.values)
    if part._names is not None and _refers(part._names):
        sure = False
    total = 1
    for group in groups:
        total *= len(group)
    if total > _MAX_OPTIONS:
        return [[part]], False
    return [[part, *(one for alternative in chosen for one in alternative)] for chosen in product(*groups)], sure


def _speaks(schema: Mapping[str, Any], keyword: str) -> bool:
    """Whether the keyword is there and says anything."""
    if keyword not in schema:
        return False
    value = schema[keyword]
    if keyword == "uniqueItems":
        return value is True
    if keyword == "if":
        return "then" in schema or "else" in schema
    if keyword in ("not", "contains"):
        return keyword == "contains" or value is not False
    return value is not True and value != {}


def _is_undecided(node: Any) -> bool:
    """Whether there is anything in a schema that can't be decided while a value is read."""
    if isinstance(node, Mapping):
        if any(_speaks(node, keyword) for keyword in _UNDECIDED | {"oneOf"}):
            return True
        if any(isinstance(one, list | Mapping) for one in (*_list(node, "enum"), node.get("const"))):
            return True
        if isinstance(node.get("$ref"), str) and not node["$ref"].startswith("#"):
            return True
        return any(_is_undecided(one) for key, one in node.items() if key not in _DATA)
    return isinstance(node, list) and any(map(_is_undecided, node))


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(node.get(key), str):
                yield node[key]
        if isinstance(node.get("$id"), str) or "$anchor" in node or "$dynamicAnchor" in node:
            yield "$id"
        for key, one in node.items():
            if key not in _DATA:
                yield from _references(one)
    elif isinstance(node, list):
        for one in node:
            yield from _references(one)


def _refers(node: Any) -> bool:
    return any(True for _ in _references(node))


def _are_disjoint(groups: Sequence[list[list[Part]]]) -> bool:
    """Whether no value is of two groups, as far as their kinds, lists of values and marked members tell."""
    return all(_differ(one, other) for a, b in combinations(groups, 2) for one in a for other in b)


def _differ(one: Sequence[Part], other: Sequence[Part]) -> bool:
    kinds = KINDS
    for part in (*one, *other):
        kinds &= part.kinds
    if not kinds:
        return True
    if _marks_differ(_values_of(one), _values_of(other)):
        return True
    if kinds != {"object"}:
        return False
    names = {name for part in one for name in part.required} & {name for part in other for name in part.required}
    return any(_marks_differ(_member_values(one, name), _member_values(other, name)) for name in names)


def _marks_differ(one: set[Any] | None, other: set[Any] | None) -> bool:
    return one is not None and other is not None and not one & other


def _values_of(parts: Sequence[Part]) -> set[Any] | None:
    listed = [{key_of(value) for value in part.values} for part in parts if part.values is not None]
    return set.intersection(*listed) if listed else None


def _member_values(parts: Sequence[Part], name: str) -> set[Any] | None:
    for part in parts:
        member = part.properties.get(name)
        if isinstance(member, Mapping):
            values = [member["const"]] if "const" in member else member.get("enum")
            if isinstance(values, list):
                return {key_of(value) for value in values}
    return None


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
        if (rule := _kept(part.schema, ("type", *_STRING_KEYWORDS, *_NUMBER_KEYWORDS)))
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


def _kept(schema: Mapping[str, Any], keywords: Sequence[str]) -> dict[str, Any]:
    return {key: schema[key] for key in keywords if key in schema}


@lru_cache(maxsize=256)
def _is_checked_format(name: Any) -> bool:
    """Whether the validator knows the format: it lets everything pass for any other."""
    rule = jsonschema_rs.validator_for({"format": name}, validate_formats=True)
    return not all(rule.is_valid(text) for text in ("\x00 {}<>:%zz[\\", "~", "-.-", "("))


@lru_cache(maxsize=1024)
def _pattern_validator(pattern: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for({"pattern": pattern})


def _searches(pattern: str, text: str) -> bool:
    return bool(_pattern_validator(pattern).is_valid(text))


def _mapping(schema: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    value = schema.get(keyword)
    return value if isinstance(value, Mapping) else {}


def _list(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []
