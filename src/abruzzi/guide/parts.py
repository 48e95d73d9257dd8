"""A JSON Schema taken apart: alternatives of plain schemas that must all hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations, product
from typing import Any

import jsonschema_rs

from abruzzi.guide.certain import ANNOTATIONS, is_nothing, literals
from abruzzi.guide.document import Document, validator_of

KINDS = frozenset(("null", "boolean", "number", "string", "array", "object"))
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
# Schemas that are looked at for one node. What has more, as diamonds of references do, is checked when whole.
_MAX_EXPANSIONS = 3_000
# Schemas in each other that speak of the same value; what has more, as chains of references do, is checked when whole.
_MAX_NESTED = 50
# Combinations of alternatives that are followed at once; what has more is read as anything and checked when whole.
MAX_OPTIONS = 64
# Keywords whose schemas may tell of members, too, so that those aren't unevaluated.
_IN_PLACE = frozenset(
    ("$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
)
# Members of a `oneOf` that are looked through for equal ones.
_MAX_COMPARED = 100


class Home(Document):
    """The whole schema that a part belongs to."""

    expansions = 0
    """Schemas that were looked at for the node that is being made."""


class Part:
    """A schema without combinators."""

    def __init__(self, schema: Mapping[str, Any], home: Home) -> None:
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
        self.properties = mapping_of(schema, "properties")
        self.required = frozenset(name for name in list_of(schema, "required") if isinstance(name, str))
        self.patterns = [(pattern, value) for pattern, value in mapping_of(schema, "patternProperties").items()]
        self.others: Any = schema.get("additionalProperties", True)
        if "unevaluatedProperties" in schema and not schema.keys() & (_IN_PLACE | {"additionalProperties"}):
            self.others = True if home.is_old else schema["unevaluatedProperties"]
        dependent = mapping_of(schema, "dependencies" if home.is_old else "dependentSchemas")
        self.barred = frozenset(name for name, one in dependent.items() if is_nothing(one))
        """Names of members that may not be there, whatever they are."""
        if home.is_old:
            listed = schema.get("items")
            self.prefix = listed if isinstance(listed, list) else []
            self.items: Any = schema.get("additionalItems", True) if self.prefix else schema.get("items", True)
        else:
            self.prefix = list_of(schema, "prefixItems")
            self.items = schema.get("items", True)
            if isinstance(self.items, list):  # an older draft's way, which is no schema in this one
                self.prefix, self.items = self.items, schema.get("additionalItems", True)
        self._names = schema.get("propertyNames")
        self.home = home

    def members(self, name: str) -> list[Any]:
        """The schemas of the member of this name; False among them where there may be none."""
        if name in self.barred:
            return [False]
        found = [self.properties[name]] if name in self.properties else []
        found += [value for pattern, value in self.patterns if searches(pattern, name)]
        if self._names is not None and not self._may_be_called(name):
            return [False]
        return found or [self.others]

    def _may_be_called(self, name: str) -> bool:
        return bool(self.home.validator(self._names).is_valid(name)) if self.home.is_whole else True

    @property
    def takes_any_name(self) -> bool:
        """Whether a member may have any name, as far as names are asked about."""
        return self.others is not False and not self.patterns and self._names is None

    @property
    def listed(self) -> Sequence[str] | None:
        """Names of which each of its members has one, where it lists them."""
        if self.others is False and not self.patterns:
            return list(self.properties)
        if isinstance(self._names, Mapping) and not self.home.is_reference(self._names):
            if self._names.get("maxLength") == 0:
                return [""]
            values = [self._names["const"]] if "const" in self._names else self._names.get("enum")
            if values is None:
                return literals(self._names.get("pattern"))
            return [name for name in values if isinstance(name, str)] if isinstance(values, list) else None
        return () if self._names is False else None

    def item(self, index: int) -> Any:
        return self.prefix[index] if index < len(self.prefix) else self.items


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


def alternatives(schema: Any, home: Home, above: tuple[int, ...]) -> tuple[list[list[Part]], bool]:
    """The schema as alternatives of parts, and whether they say all that it says."""
    if not isinstance(schema, Mapping):
        return ([] if schema is False else [[]]), True
    if id(schema) in above:
        return [[]], False  # by way of itself: no draft says what that means, and the validator lets it pass
    if schema.get("not", False) in (True, {}) and not home.is_reference(schema):
        return [], True
    home.expansions += 1
    if home.expansions > _MAX_EXPANSIONS or len(above) > _MAX_NESTED:
        return [[]], False
    above = (*above, id(schema))
    reference = schema.get("$ref")
    groups: list[list[list[Part]]] = []
    sure = True
    if isinstance(reference, str):
        target = home.resolve(reference)
        if target is None:
            sure = False  # somewhere that only the validator knows
        else:
            found, exact = alternatives(target, home, above)
            groups.append(found)
            sure &= exact
        if home.is_old:
            return groups[0] if groups else [[]], sure
    for one in list_of(schema, "allOf"):
        found, exact = alternatives(one, home, above)
        groups.append(found)
        sure &= exact
    for keyword in ("anyOf", "oneOf"):
        if members := list_of(schema, keyword):
            found, exact = _choice(members, home, above, one_only=keyword == "oneOf")
            groups.append(found)
            sure &= exact
    if "if" in schema and ("then" in schema or "else" in schema):
        # For whoever looks for an example: what fits `if` and `then`, or `else`.
        begun, _ = alternatives(schema["if"], home, above)
        holds, _ = alternatives(schema.get("then", True), home, above)
        fails, _ = alternatives(schema.get("else", True), home, above)
        always = schema["if"] in (True, {})
        groups.append([*([] if always else fails), *([*one, *other] for one in begun for other in holds)])
    sure &= not any(_speaks(schema, keyword) for keyword in _UNDECIDED)
    part = Part(schema, home)
    sure &= part.values is None or not any(isinstance(value, list | Mapping) for value in part.values)
    sure &= part._names is None or home.is_whole
    total = 1
    for group in groups:
        total *= len(group)
    if total > MAX_OPTIONS:
        return [[part]], False
    return [_together(part, chosen) for chosen in product(*groups)], sure


def _choice(
    members: Sequence[Any], home: Home, above: tuple[int, ...], *, one_only: bool
) -> tuple[list[list[Part]], bool]:
    """The alternatives of an `anyOf`, or of a `oneOf`."""
    listed = _listed(members)
    if listed is not None and (not one_only or len(set(map(key_of, listed))) == len(listed)):
        return [[Part({"enum": listed}, home)]], True
    if (
        one_only
        and sum(one is True or (isinstance(one, Mapping) and not one.keys() - ANNOTATIONS) for one in members) > 1
    ):
        return [], True  # whatever the value, two of them hold
    several = [alternatives(one, home, above) for one in members]
    twice = _twice(members) if one_only else frozenset()  # what is one of them is the other, too
    found = [alternative for i, (found, _) in enumerate(several) if i not in twice for alternative in found]
    sure = all(exact for _, exact in several)
    if one_only and sure and len(found) <= MAX_OPTIONS:
        sure = _are_disjoint([found for found, _ in several])
    elif one_only:
        sure = False
    return found, sure


def _twice(members: Sequence[Any]) -> frozenset[int]:
    """The indices of the schemas that are there twice."""
    if len(members) > _MAX_COMPARED:
        return frozenset()
    plain = [
        {key: said for key, said in one.items() if key not in ANNOTATIONS} if isinstance(one, Mapping) else one
        for one in members
    ]
    pairs = ((i, j) for i, j in combinations(range(len(plain)), 2) if plain[i] == plain[j])
    # Python holds true and 1 equal.
    return frozenset(k for i, j in pairs if key_of(plain[i]) == key_of(plain[j]) for k in (i, j))


def _listed(members: Sequence[Any]) -> list[Any] | None:
    """The values that may be, where each schema is of a single one that is no object or array."""
    values = []
    for one in members:
        if not isinstance(one, Mapping) or "const" not in one or one.keys() - ANNOTATIONS - {"const", "type"}:
            return None
        value = one["const"]
        if isinstance(value, list | Mapping) or one.get("type", kind_of(value)) != kind_of(value):
            return None
        values.append(value)
    return values


def _together(part: Part, chosen: Sequence[list[Part]]) -> list[Part]:
    """The parts that must all hold, each once, by however many references it is reached."""
    parts = (part, *(one for alternative in chosen for one in alternative))
    return list({id(one.schema): one for one in parts}.values())


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
        if isinstance(member, Mapping) and not part.home.is_reference(member):
            values = [member["const"]] if "const" in member else member.get("enum")
            if isinstance(values, list):
                return {key_of(value) for value in values}
    return None


def kept(schema: Mapping[str, Any], keywords: Sequence[str]) -> dict[str, Any]:
    return {key: schema[key] for key in keywords if key in schema}


@lru_cache(maxsize=1024)
def _pattern_validator(pattern: str) -> jsonschema_rs.Validator:
    return validator_of({"pattern": pattern})


def searches(pattern: str, text: str) -> bool:
    return bool(_pattern_validator(pattern).is_valid(text))


def mapping_of(schema: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    value = schema.get(keyword)
    return value if isinstance(value, Mapping) else {}


def list_of(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []
