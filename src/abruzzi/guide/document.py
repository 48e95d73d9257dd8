"""A whole schema: where the references in it lead, and validators of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import jsonschema_rs

from abruzzi.protocol.references import resolve

_OLD_DRAFTS = ("draft-03/", "draft-04/", "draft-06/", "draft-07/")
_REFERRING = frozenset(("$ref", "$dynamicRef", "$recursiveRef"))
# Keywords that hold data, not schemas.
DATA = frozenset(("const", "enum", "default", "example", "examples", "required", "description", "title")) | {
    "dependentRequired",
    "$vocabulary",
}
# Keywords under which schemas stand by names, which may be those of keywords.
NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"))
# Where the schema stands for the validator, which makes the addresses of its parts of it.
_ADDRESS = "json-schema:///arguments"
# What a pattern may come to when it is compiled, in bytes: three times the default, as `^\p{L}{1,500}$` needs. Each
# validator holds its own.
_PATTERNS = jsonschema_rs.FancyRegexOptions(size_limit=1 << 25)


# Schemas that the validator may have to ask about a single value. Each is asked as often as it is referred to.
_MAX_EVALUATIONS = 1_000_000


class Document:
    """A schema that others are parts of. Raises ValueError for one that the validator would not be done with, or that
    refers to what is no schema.
    """

    def __init__(self, schema: Mapping[str, Any] | bool) -> None:
        self.draft = schema.get("$schema") if isinstance(schema, Mapping) else None
        self.is_old = isinstance(self.draft, str) and any(draft in self.draft for draft in _OLD_DRAFTS)
        self._id = "id" if isinstance(self.draft, str) and "draft-04/" in self.draft else "$id"
        self.refers = any(one.keys() & _REFERRING for _, one in schemas_in(schema))
        # Only the validator knows what a reference in a part with an address of its own means.
        self.is_whole = not self.refers or not any(map(self._has_address, _below(schema)))
        # What is equal is one, for whoever tells parts by their identity.
        self.root: Any = _unified(schema, {}) if self.refers and self.is_whole else schema
        if self.refers:
            self._check_targets()
            if self._evaluations() > _MAX_EVALUATIONS:
                raise ValueError(f"it asks more than {_MAX_EVALUATIONS:,} schemas for one value")
        self._validators: dict[int, tuple[Any, jsonschema_rs.Validator]] = {}  # with the schema, whose id stays its own

    def resolve(self, reference: str) -> Any:
        """What a reference leads to, None where only the validator knows."""
        if not reference.startswith("#") or not self.is_whole:
            return None
        return self._anchors.get(reference[1:]) if reference[1:2].strip("/") else resolve(reference, self.root)

    def is_reference(self, schema: Mapping[str, Any]) -> bool:
        """Whether it refers to another, and what stands beside that doesn't count."""
        return self.is_old and isinstance(schema.get("$ref"), str)

    def validator(self, schema: Any) -> jsonschema_rs.Validator:
        """A validator of a part, or of a schema made of parts. Where references depend on where they stand (unless
        `is_whole`) only the whole can be asked.
        """
        found = self._validators.get(id(schema))
        if found is None:
            found = self._validators[id(schema)] = schema, self._validator(schema)
        return found[1]

    def leaf(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The schema in the draft of the whole."""
        return {"$schema": self.draft, **schema} if isinstance(self.draft, str) else dict(schema)

    def _validator(self, schema: Any) -> jsonschema_rs.Validator:
        if not isinstance(schema, Mapping):
            return validator_of(schema)
        if not self.refers or schema is self.root:
            return validator_of(self.leaf(schema))
        pointer = self._pointers.get(id(schema))
        part = _addressed(schema) if pointer is None else {"$ref": f"{_ADDRESS}#{pointer}"}
        return validator_of(self.leaf(part), registry=self._registry)

    @cached_property
    def _registry(self) -> jsonschema_rs.Registry:
        return jsonschema_rs.Registry([(_ADDRESS, self.root)])

    @cached_property
    def _pointers(self) -> Mapping[int, str]:
        return {id(one): pointer for pointer, one in schemas_in(self.root)}

    @cached_property
    def _anchors(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for _, one in schemas_in(self.root):
            names = [one.get(key) for key in ("$anchor", "$dynamicAnchor")]
            if isinstance(address := one.get(self._id), str) and address.startswith("#"):
                names.append(address[1:])
            found |= {name: one for name in names if isinstance(name, str)}
        return found

    def _check_targets(self) -> None:
        """Where a draft expects no schemas, it doesn't look whether they are any."""
        expected = ("#/definitions/",) if self.is_old else ("#/definitions/", "#/$defs/")
        found = (one.get("$ref") for _, one in schemas_in(self.root))
        for reference in dict.fromkeys(one for one in found if isinstance(one, str)):
            target = None if reference.startswith(expected) else self.resolve(reference)
            if isinstance(target, Mapping) and target is not self.root:
                try:
                    jsonschema_rs.meta.validate(self.leaf(target))
                except jsonschema_rs.ValidationError as error:
                    raise ValueError(f"{reference} leads to no JSON Schema: {error.message}") from None

    def _evaluations(self) -> int:
        """How many schemas a value may have to be asked about, what refers to itself counted once."""
        counts: dict[int, int] = {}
        closed: set[int] = set()
        pending: list[Any] = [one for _, one in schemas_in(self.root)]
        while pending:
            one = pending[-1]
            beside = self._beside(one)
            if id(one) not in counts:
                counts[id(one)] = 0
                pending += (other for other in beside if id(other) not in counts)
                continue
            pending.pop()
            if id(one) not in closed:
                closed.add(id(one))
                counts[id(one)] = 1 + sum(counts[id(other)] for other in beside)
        return max(counts.values(), default=0)

    def _beside(self, schema: Mapping[str, Any]) -> list[Any]:
        """The schemas in this one that speak of the same value."""
        found = [schema.get(key) for key in ("not", "if", "then", "else")]
        if isinstance(reference := schema.get("$ref"), str):
            found.append(self.resolve(reference) if self.is_whole else resolve(reference, self.root))
        for key in ("allOf", "anyOf", "oneOf"):
            found += schema[key] if isinstance(schema.get(key), list) else ()
        for key in ("dependentSchemas", "dependencies"):
            found += schema[key].values() if isinstance(schema.get(key), Mapping) else ()
        return [one for one in found if isinstance(one, Mapping)]

    def _has_address(self, schema: Mapping[str, Any]) -> bool:
        address = schema.get(self._id)
        return isinstance(address, str) and not address.startswith("#")


def validator_of(schema: Any, **how: Any) -> jsonschema_rs.Validator:
    """A validator of a schema by itself. Raises jsonschema_rs.ValidationError for what is none."""
    return jsonschema_rs.validator_for(schema, validate_formats=True, pattern_options=_PATTERNS, **how)


def _below(schema: Any) -> Iterator[Mapping[str, Any]]:
    found = (one for _, one in schemas_in(schema))
    next(found, None)
    return found


def schemas_in(node: Any, pointer: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schema and all that may be schemas in it, under keywords and under names of any kind, with their pointers."""
    pending = [(pointer, node)]
    while pending:
        pointer, node = pending.pop()
        if isinstance(node, list):
            pending += ((f"{pointer}/{i}", one) for i, one in enumerate(node) if isinstance(one, dict | list))
        elif isinstance(node, Mapping):
            yield pointer, node
            for key, one in node.items():
                if key in NAMED and isinstance(one, Mapping):
                    named = f"{pointer}/{key}"
                    pending += ((f"{named}/{escaped(name)}", each) for name, each in one.items())
                elif key not in DATA and isinstance(one, dict | list):
                    pending.append((f"{pointer}/{escaped(key)}", one))


def escaped(step: str) -> str:
    """A step of a pointer in a URI."""
    if step.isalnum() and step.isascii():
        return step
    step = step.replace("~", "~0").replace("/", "~1")
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}" for byte in step.encode())


def _addressed(node: Any) -> Any:
    """The same for a validator that stands outside of the whole, in which its references lead."""
    if isinstance(node, Mapping):
        made = {key: _addressed(one) for key, one in node.items()}
        if isinstance(reference := made.get("$ref"), str) and reference.startswith("#"):
            made["$ref"] = _ADDRESS + reference
        return made
    return list(map(_addressed, node)) if isinstance(node, list) else node


def _unified(node: Any, known: dict[Any, Any]) -> Any:
    """The same, in which equal objects and lists are one."""
    if isinstance(node, Mapping):
        made: Any = {key: _unified(one, known) for key, one in node.items()}
        return known.setdefault(("object", *((key, _mark(one)) for key, one in made.items())), made)
    if isinstance(node, list):
        made = [_unified(one, known) for one in node]
        return known.setdefault(("array", *map(_mark, made)), made)
    return node


def _mark(value: Any) -> tuple[Any, Any]:
    return (None, id(value)) if isinstance(value, dict | list) else (type(value), value)
