"""Schemas as nearly all tools have them, known at one reading to be well-formed, and to be satisfied by something.

What is known of them is enough to ask a model: they are made ready when their tool is called. All others, be they good
or bad, are no plain ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType, field

from abruzzi.guide.bounds import LARGEST

# A longer one takes too long to be made ready while others are served, a deeper one may be too deep to be read.
_LONGEST = 64 << 10
_DEEPEST = 20

_Kind = Literal["null", "boolean", "number", "integer", "string", "array", "object"]
_Count = Annotated[int, Meta(ge=0, le=LARGEST)]
# Numbers that every double holds, with room between them.
_Limit = Annotated[int, Meta(ge=-(10**9), le=10**9)] | Annotated[float, Meta(ge=-1e9, le=1e9)]


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False, rename="camel"):
    """A schema of keywords that mean the same in every draft."""

    type: _Kind | list[_Kind] | UnsetType = UNSET
    title: str = ""
    description: str = ""
    comment: str = field(default="", name="$comment")
    default: Raw = Raw()
    examples: list[Raw] = []
    deprecated: bool = False
    read_only: bool = False
    write_only: bool = False
    enum: list[str | None] | UnsetType = UNSET
    any_of: list[_Plain] | UnsetType = UNSET
    properties: dict[str, _Plain] = {}
    required: list[str] = []
    additional_properties: bool | _Plain = True
    items: _Plain | UnsetType = UNSET
    min_items: _Count = 0
    max_items: _Count = LARGEST
    format: str = ""
    min_length: _Count = 0
    max_length: _Count = LARGEST
    minimum: _Limit | UnsetType = UNSET
    maximum: _Limit | UnsetType = UNSET
    exclusive_minimum: _Limit | UnsetType = UNSET
    exclusive_maximum: _Limit | UnsetType = UNSET


class _Whole(_Plain):
    """A schema that is no part of another."""

    draft: (
        Literal["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"] | UnsetType
    ) = field(default=UNSET, name="$schema")


_decode = msgspec.json.Decoder(_Whole).decode
_NOTHING = _Plain()
_OF_STRINGS = ("format", "min_length", "max_length")
_OF_NUMBERS = ("minimum", "maximum", "exclusive_minimum", "exclusive_maximum")
_OF_OTHERS = ("properties", "required", "additional_properties", "items", "min_items", "max_items")
_OF_VALUES = ("type", "enum", *_OF_STRINGS, *_OF_NUMBERS, *_OF_OTHERS)


def is_plain(text: bytes) -> bool:
    """Whether this JSON text is a plain schema of objects."""
    if len(text) > _LONGEST:
        return False
    try:
        schema = _decode(text)
    except msgspec.ValidationError:
        return False
    is_open = schema.type is UNSET and schema.enum is UNSET and schema.any_of is UNSET
    return (schema.type == "object" or is_open) and _takes_something(schema, 1)


def _takes_something(schema: _Plain, level: int) -> bool:
    """Whether its keywords leave a value of each of its kinds, and so in all schemas in it."""
    if level > _DEEPEST or schema.min_items > schema.max_items or schema.min_length > schema.max_length:
        return False
    if isinstance(schema.type, list) and not 0 < len(schema.type) == len(frozenset(schema.type)):
        return False
    if schema.enum is not UNSET and not _lists_a_string(schema):
        return False
    if schema.any_of is not UNSET and not (schema.any_of and _says_nothing_of(schema, _OF_VALUES)):
        return False
    if schema.required and not _lets_what_it_requires(schema):
        return False
    if (schema.minimum is not UNSET or schema.exclusive_minimum is not UNSET) and not _leaves_a_number(schema):
        return False
    inside = [*schema.properties.values()] if schema.properties else []
    if schema.items is not UNSET:
        inside.append(schema.items)
    if schema.any_of is not UNSET:
        inside += schema.any_of
    if schema.additional_properties is not True and schema.additional_properties is not False:
        inside.append(schema.additional_properties)
    return not inside or all(_takes_something(one, level + 1) for one in inside)


def _says_nothing_of(schema: _Plain, keywords: Sequence[str]) -> bool:
    return all(getattr(schema, keyword) == getattr(_NOTHING, keyword) for keyword in keywords)


def _lists_a_string(schema: _Plain) -> bool:
    kinds = schema.type if isinstance(schema.type, list) else [schema.type]
    listed = isinstance(schema.enum, list) and any(isinstance(one, str) for one in schema.enum)
    return listed and (UNSET in kinds or "string" in kinds) and _says_nothing_of(schema, _OF_STRINGS)


def _lets_what_it_requires(schema: _Plain) -> bool:
    names = frozenset(schema.required)
    may_be = schema.additional_properties is not False or names <= schema.properties.keys()
    return may_be and len(names) == len(schema.required)


def _leaves_a_number(schema: _Plain) -> bool:
    """Whether the limits are so far apart that there is a whole one between them, where it has to be whole."""
    least = [one for one in (schema.minimum, schema.exclusive_minimum) if one is not UNSET]
    most = [one for one in (schema.maximum, schema.exclusive_maximum) if one is not UNSET]
    if not least or not most:
        return True
    between = min(most) - max(least)
    return between > (0 if schema.type == "number" else 1)
