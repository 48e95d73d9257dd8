"""What strings and listed values must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jsonschema_rs

from abruzzi.guide.document import validator_of
from abruzzi.guide.parts import Home, Part, kept, key_of, kind_of
from abruzzi.guide.pattern import Pattern

STRING_KEYWORDS = ("minLength", "maxLength", "pattern", "format")
NUMBER_KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


@dataclass(frozen=True, slots=True)
class TextRule:
    """What a string must be: `patterns` that its beginnings can be followed through, `validators` for the whole."""

    patterns: Sequence[Pattern]
    validators: Sequence[jsonschema_rs.Validator]

    def accepts(self, text: str) -> bool:
        return all(validator.is_valid(text) for validator in self.validators)


def common_values(
    listed: Sequence[Sequence[Any]], kinds: frozenset[str], home: Home, parts: Sequence[Part]
) -> list[Any] | None:
    """The values that stand in every list, are of the kinds, and that what else the parts say allows."""
    if not listed:
        return None
    keys = [{key_of(value) for value in values} for values in listed]
    rules = [
        validator_of(home.leaf(rule))
        for part in parts
        if (rule := kept(part.schema, ("type", *STRING_KEYWORDS, *NUMBER_KEYWORDS)))
    ]
    denying = [part for part in parts if "not" in part.schema or "if" in part.schema]
    return [
        value
        for value in listed[0]
        if kind_of(value) in kinds
        and all(key_of(value) in one for one in keys)
        and all(rule.is_valid(value) for rule in rules)
        and _allowed(value, home, parts if isinstance(value, list | Mapping) else denying)
    ]


def _allowed(value: Any, home: Home, parts: Sequence[Part]) -> bool:
    """Whether the value is what the parts say, where they can be asked."""
    return not home.is_whole or all(home.validator(part.schema).is_valid(value) for part in parts)


@lru_cache(maxsize=256)
def is_checked_format(name: Any) -> bool:
    """Whether the validator knows the format: it lets everything pass for any other."""
    rule = validator_of({"format": name})
    return not all(rule.is_valid(text) for text in ("\x00 {}<>:%zz[\\", "~", "-.-", "("))
