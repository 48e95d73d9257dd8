"""A tool's JSON Schema: checked when the request comes in, and asked about every call that comes out."""

from __future__ import annotations

import json
import marshal
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jsonschema_rs
import msgspec

from abruzzi.guide.document import DATA, NAMED, escaped, schemas_in, validator_of
from abruzzi.guide.matcher import Matcher
from abruzzi.guide.node import Schema, Unsatisfiable
from abruzzi.guide.plain import is_plain
from abruzzi.guide.strict import check_strict
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.kept import made_of
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.remembered import Remembered

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
# The longest piece of a bad value that a message repeats.
_SHOWN = 300


class Arguments:
    """What the arguments of a tool may be. Made by `compile`, and made ready when they are first asked about."""

    def __init__(self, text: bytes) -> None:
        """`text`: the schema, as JSON."""
        self._text = text
        self._made: tuple[Schema, jsonschema_rs.Validator] | None = None

    def ready(self) -> tuple[Schema, jsonschema_rs.Validator]:
        """What arguments are read against, and asked of when they are whole. Raises _Unfit for a schema that can't be
        used.
        """
        if self._made is None:  # two threads may both make it, and either's will do
            schema = _read(msgspec.json.decode(self._text))
            validator = _validator(schema)
            try:
                self._made = Schema(_of_its_draft(schema)), validator
            except ValueError as error:
                path = error.path if isinstance(error, Unsatisfiable) else ""
                raise _Unfit(path, f"can't be used: {error}") from None
        return self._made

    @property
    def schema(self) -> Schema:
        """What they are read against."""
        return self.ready()[0]

    def fault(self, text: str) -> str | None:
        """What is wrong with these arguments, and where, or None when they are what the schema asks for."""
        try:
            value = json.loads(
                text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_without_repeats
            )
        except (ValueError, RecursionError) as error:
            return f"expected JSON, got {error}"
        if not isinstance(value, dict):
            return f"expected an object of arguments, got {text[:_SHOWN]}"
        try:
            self.ready()[1].validate(value)
        except jsonschema_rs.ValidationError as error:
            return f"{error.message[:_SHOWN]} (at ${_dotted(error.instance_path)})"
        except ValueError as error:  # a number that no float holds, a reference that leads nowhere
            return str(error)[:_SHOWN]
        return None

    def matcher(self) -> Matcher:
        """A reader of their text, from its beginning."""
        return Matcher(self.schema, self.fault)


class Schemas(Mapping[str, Arguments]):
    """What the arguments of a request's tools may be, by the tools' names."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        """Raises RequestError for two tools of one name and for parameters that are no JSON Schema of an object."""
        self._arguments = made_of(tools, _compiled_by_name)

    def __getitem__(self, name: str) -> Arguments:
        return self._arguments[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arguments)

    def __len__(self) -> int:
        return len(self._arguments)

    def fault(self, name: str, arguments: str) -> str | None:
        """What is wrong with these arguments of the tool, and where, or None."""
        return self._arguments[name].fault(arguments)


def _compiled_by_name(tools: Sequence[Tool]) -> dict[str, Arguments]:
    found: dict[str, Arguments] = {}
    for i, tool in enumerate(tools):
        if tool.name in found:
            raise RequestError(f"two tools are called {tool.name!r}", f"tools[{i}].function.name")
        where = f"tools[{i}].function.parameters"
        if tool.strict and tool.parameters is not None:
            check_strict(tool.parameters, where)
        found[tool.name] = compile(tool.parameters, name=tool.name, where=where)
    return found


def compile(schema: Mapping[str, Any] | None, *, name: str = "the tool", where: str = "parameters") -> Arguments:
    """What a tool's arguments may be; None stands for a tool without parameters.

    Raises RequestError, with the path of the fault behind `where`, for what is no JSON Schema, or none of an object, or
    one that nothing satisfies.
    """
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if schema is not None and not isinstance(schema, Mapping):
        raise RequestError(
            f"the schema of {name!r} is no JSON Schema: expected an object, got {schema!r}"[:_SHOWN], where
        )
    try:
        schema = NO_ARGUMENTS if schema is None else schema
        return _compiled(_key(schema), schema)
    except _Unfit as error:
        path, message = error.args
        raise RequestError(f"the schema of {name!r} {message}", where + path) from None
    except RecursionError:
        raise RequestError(f"the schema of {name!r} {_TOO_DEEP}", where) from None
    except (TypeError, ValueError) as error:
        path, message = _no_json(schema, "") or ("", str(error))
        raise RequestError(f"the schema of {name!r} is no JSON: {message[:_SHOWN]}", where + path) from None


def accepts(schema: Mapping[str, Any] | None, text: str) -> bool:
    """Whether the whole text is an arguments object that the guard lets through. Raises RequestError like `compile`."""
    matcher = compile(schema).matcher()
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which is no text
        return False
    matcher.feed(text)
    return matcher.whole and matcher.fault is None


class _Unfit(Exception):
    """A path and what is wrong there."""


def _key(schema: Any) -> bytes:
    """The schema as bytes, in which values of different types differ, be they JSON or not."""
    try:
        return marshal.dumps(schema, 2)  # version 2 has no references, so that equal values have equal bytes
    except ValueError:  # something of a class of its own
        if (found := _no_json(schema, "")) is not None:
            raise _Unfit(found[0], f"is no JSON: {found[1][:_SHOWN]}") from None
        return marshal.dumps(msgspec.json.decode(msgspec.json.encode(schema)), 2)


def _made(key: bytes, schema: Mapping[str, Any]) -> Arguments:
    text = msgspec.json.encode(schema)
    # It writes what is no JSON, too: null for NaN, a list for a set.
    if msgspec.json.decode(text) != schema and (found := _no_json(schema, "")) is not None:
        raise _Unfit(found[0], f"is no JSON: {found[1]}")
    arguments = Arguments(text)
    if not is_plain(text):
        arguments.ready()  # to see whether it can be
    return arguments


# By content: an agent sends the same tools with every request. A schema made ready takes some ten times its text.
_compiled = Remembered(_made, most=8 << 20)


def arguments_schema(tool: Tool) -> Mapping[str, Any]:
    """The schema of the tool's arguments; a tool without parameters takes the empty object."""
    return NO_ARGUMENTS if tool.parameters is None else _read(tool.parameters)


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with every object shut that declares properties and doesn't say whether it takes others.

    JSON Schema lets a model invent properties there. A large model doesn't; a small one does. Where an object is put
    together of several schemas (allOf, properties beside anyOf, ...) its properties are spread over the parts, and
    shutting one would shut out the others': the parts are left, and with them all definitions, for those may be parts.
    """
    return _shut(schema, _ELSEWHERE if _pieced_anywhere(schema) else _ELSEWHERE | _DEFINITIONS)


def _shut(schema: Mapping[str, Any], keywords: frozenset[str]) -> dict[str, Any]:
    inside = keywords if _pieced(schema) else keywords | _CHOICES
    shut = {**schema, **_changed({key: schema[key] for key in schema if key in inside}, lambda s: _shut(s, keywords))}
    properties = shut.get("properties")
    if (
        isinstance(properties, Mapping)
        and not shut.keys() & _OPEN
        and properties.keys() >= set(shut.get("required") or ())
        and len(properties) >= shut.get("minProperties", 0)
    ):
        shut["additionalProperties"] = False
    return shut


def _pieced(schema: Mapping[str, Any]) -> bool:
    """Whether several schemas in this one speak of the same object."""
    parts = schema.get("allOf")
    count = len(parts) if isinstance(parts, list) else 0
    return count + len(schema.keys() & _BESIDE) + bool(schema.keys() & _MEMBERS) > 1


def _pieced_anywhere(node: Any) -> bool:
    if isinstance(node, Mapping):
        return _pieced(node) or any(map(_pieced_anywhere, node.values()))
    return isinstance(node, list) and any(map(_pieced_anywhere, node))


def _changed(schema: Mapping[str, Any], change: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    """The schema with each of the schemas in it changed."""
    changed = dict(schema)
    for keyword, value in schema.items():
        if keyword in NAMED and isinstance(value, Mapping):
            changed[keyword] = {
                name: change(part) if isinstance(part, Mapping) else part for name, part in value.items()
            }
        elif isinstance(value, Mapping) and keyword not in DATA:
            changed[keyword] = change(value)
        elif isinstance(value, list) and keyword not in DATA:
            changed[keyword] = [change(part) if isinstance(part, Mapping) else part for part in value]
    return changed


_DEFINITIONS = frozenset(("$defs", "definitions"))
_MEMBERS = frozenset(("properties", "patternProperties", "additionalProperties"))
_CHOICES = frozenset(("allOf", "anyOf", "oneOf"))
# Keywords under which schemas speak of another value than the schema around.
_ELSEWHERE = _MEMBERS | {"items", "prefixItems"}
# Keywords whose schemas speak of the same value, beside those of allOf.
_BESIDE = frozenset(("$ref", "anyOf", "oneOf", "if", "dependentSchemas"))
# Keywords beside which an object is left as it is.
_OPEN = _BESIDE | {
    "additionalProperties",
    "unevaluatedProperties",
    "patternProperties",
    "allOf",
    "not",
}
# Drafts that are known; any other `$schema` is somebody's own, and is not looked up.
_DRAFTS = ("draft-04/", "draft-06/", "draft-07/", "draft/2019-09/", "draft/2020-12/")
# Keywords that a guard would follow, and the drafts that don't have them.
_LATER = (
    (("const", "propertyNames", "contains"), _DRAFTS[:1]),
    (("if", "then", "else"), _DRAFTS[:2]),
    (("dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems"), _DRAFTS[:3]),
    (("prefixItems",), _DRAFTS[:4]),
)
# Keywords of drafts behind the 4th and behind the 7th: a schema that has one is of no draft before.
_BEHIND_4 = frozenset(("const", "propertyNames", "contains", "if", "then", "else"))
_BEHIND_7 = frozenset(("$defs", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef")) | {
    "dependentRequired",
    "dependentSchemas",
    "maxContains",
    "minContains",
    "prefixItems",
    "unevaluatedItems",
    "unevaluatedProperties",
}
_DRAFT_4 = "http://json-schema.org/draft-04/schema#"
_DRAFT_7 = "http://json-schema.org/draft-07/schema#"
# How the validator says that a reference names another document, and that it reads no value of such a depth.
_UNRETRIEVED = "is not present in a registry"
_RECURSION = "Recursion limit reached"
_TOO_DEEP = "is nested too deep: expected at most 250 objects and lists inside one another"
_REFERRING = ("$ref", "$dynamicRef", "$recursiveRef")


def _validator(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    kinds = schema.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise _Unfit(".type", f"is not that of an object: expected type object, got {kinds!r}")
    try:
        jsonschema_rs.meta.validate(schema)
        return validator_of(schema, retriever=_no_retrieval)
    except jsonschema_rs.ValidationError as error:
        path = _dotted(error.instance_path) or _lost(schema, error.message)
        message = error.message[:_SHOWN]
        if _UNRETRIEVED in message:
            message = "the reference leads outside the schema, and nothing is fetched"
        if message.endswith('is not a "regex"'):
            message = message.removesuffix('is not a "regex"') + "is no regular expression, or one too large to be used"
        raise _Unfit(path, f"is no JSON Schema: {message}") from None
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        if str(error) == _RECURSION:
            raise _Unfit("", _TOO_DEEP) from None
        raise _Unfit(_lost(schema, str(error)), f"can't be used: {str(error)[:_SHOWN]}") from None


def _dotted(steps: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _lost(schema: Mapping[str, Any], message: str) -> str:
    """The path of the reference that leads nowhere, as the validator names it; "" where none is."""
    found = re.search(r"(?:Pointer|Anchor|Resource) '(.*?)'(?: |$)", message)
    for pointer, one in schemas_in(schema) if found else ():
        for keyword in _REFERRING:
            reference = one.get(keyword)
            if not isinstance(reference, str) or not found:
                continue
            address, _, fragment = reference.partition("#")
            names = (reference, fragment)
            if found[1] in names or (address and found[1].partition("#")[0].endswith(address.lstrip("./"))):
                return f"{_path(schema, pointer)}.{keyword}"
    return ""


def _path(schema: Any, pointer: str) -> str:
    """A pointer as the path that a message has."""
    steps: list[str | int] = []
    for part in pointer.split("/")[1:]:
        steps.append(
            int(part) if isinstance(schema, list) else next(one for one in schema if part in (one, escaped(one)))
        )
        schema = schema[steps[-1]]
    return _dotted(steps)


def _no_json(value: Any, path: str) -> tuple[str, str] | None:
    """The path of what is no JSON, and what it is."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            if not isinstance(key, str):
                return path, f"expected names that are strings, got {key!r}"
            if (found := _no_json(one, f"{path}.{key}")) is not None:
                return found
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            if (found := _no_json(one, f"{path}[{i}]")) is not None:
                return found
    elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        return path, f"expected a value that JSON has, got {value!r}"
    return None


def _read(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as it is read, with the draft that it is of where it only shows in its form."""
    read = _readable(schema)
    draft = None if "$schema" in read else _old_form(read)
    return read if draft is None else {"$schema": draft, **read}


def _old_form(schema: Mapping[str, Any]) -> str | None:
    """The older draft that a schema without `$schema` is written for, as pydantic 1, zod and OpenAPI 3.0 do."""
    keywords: set[str] = set()
    has_lists = has_booleans = False
    for _, one in schemas_in(schema):
        keywords |= one.keys()
        has_lists |= isinstance(one.get("items"), list) or "additionalItems" in one
        has_booleans |= any(isinstance(one.get(key), bool) for key in ("exclusiveMinimum", "exclusiveMaximum"))
    if keywords & _BEHIND_7 or (has_booleans and keywords & _BEHIND_4):
        return None
    return _DRAFT_4 if has_booleans else _DRAFT_7 if has_lists else None


def _readable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema, and each in it, without what some clients send and no draft has: null for a keyword that is left out,
    and a `$schema` that would have to be fetched.
    """
    kept = {key: value for key, value in schema.items() if value is not None or key in ("const", "default")}
    draft = kept.get("$schema")
    if not (isinstance(draft, str) and "//json-schema.org/" in draft and any(known in draft for known in _DRAFTS)):
        kept.pop("$schema", None)
    return _changed(kept, _readable)


def _of_its_draft(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema without what its draft doesn't have, which the validator doesn't heed."""
    draft = schema.get("$schema", "")
    unknown = frozenset(one for keywords, drafts in _LATER if any(old in draft for old in drafts) for one in keywords)
    return _spoken(schema, unknown) if unknown else schema


def _spoken(schema: Mapping[str, Any], unknown: frozenset[str]) -> dict[str, Any]:
    known = {key: value for key, value in schema.items() if key not in unknown}
    return _changed(known, lambda one: _spoken(one, unknown))


def _no_retrieval(uri: str) -> Any:
    raise ValueError(f"the reference {uri} leads outside the schema")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name}, which JSON does not have")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:20]}, which no double holds")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object with two values for one name")
    return value
