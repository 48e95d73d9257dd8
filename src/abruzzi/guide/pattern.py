"""Regular expressions and formats of strings, followed character by character.

What is followed here may be looser than the schema, never stricter; the whole string is validated in any case.
"""

from __future__ import annotations

from functools import lru_cache

import jsonschema_rs
from llguidance import LLMatcher, LLTokenizer

from abruzzi.guide.regex import parsed
from abruzzi.guide.regex_spelling import whole

# The shapes of formats that have one. What is in a shape and not in the format (a 30th of February) shows at its end.
SHAPES = {
    "date": r"^[0-9]{4}-[01][0-9]-[0-3][0-9]$",
    "time": r"^[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]+)?([zZ]|[+-][0-2][0-9]:[0-5][0-9])$",
    "date-time": r"^[0-9]{4}-[01][0-9]-[0-3][0-9][tT][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]+)?"
    r"([zZ]|[+-][0-2][0-9]:[0-5][0-9])$",
    "duration": r"^P[0-9YMWDTHS.]+$",
    "ipv4": r"^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$",
    "ipv6": r"^[0-9a-fA-F:.]{2,45}$",
    "uuid": r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
    "hostname": r"^[0-9A-Za-z.-]{1,255}$",
    "uri": r"^[a-zA-Z][a-zA-Z0-9+.-]*:[^\x00-\x20]*$",
    "iri": r"^[a-zA-Z][a-zA-Z0-9+.-]*:[^\x00-\x20]*$",
    "uri-reference": r"^[^\x00-\x20]*$",
}
# No string of a format that has a shape.
_SHAPELESS = "\x00 {"


@lru_cache(maxsize=1)
def _bytes() -> LLTokenizer:
    """A vocabulary of the 256 bytes."""
    return LLTokenizer("byte")


class Pattern:
    """A regular expression that a whole string has to match."""

    def __init__(self, regex: str) -> None:
        """Raises ValueError for what llguidance can't follow."""
        self._matcher = LLMatcher(_bytes(), LLMatcher.grammar_from_regex(regex))
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())

    def follow(self) -> Following:
        """A match that begins."""
        return Following(self._matcher.deep_copy())


class Following:
    """A string on its way through a pattern."""

    __slots__ = ("_matcher",)

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def fits(self, text: str) -> int:
        """How many of the next characters may stand."""
        data = text.encode()
        taken = self._matcher.validate_tokens(list(data))
        return (
            len(text) if taken == len(data) or self._matcher.is_error() else len(data[:taken].decode(errors="ignore"))
        )

    def take(self, text: str) -> None:
        self._matcher.try_consume_tokens(list(text.encode()))

    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting()) or bool(self._matcher.is_error())


def patterns_of(pattern: object, name: object, draft: object = None) -> list[Pattern]:
    """What strings with this pattern and this format can be followed through. `draft`: the schema's `$schema`."""
    regexes = [pattern] if isinstance(pattern, str) else []
    if isinstance(name, str) and name in SHAPES and _is_checked(name, draft):
        regexes.append(SHAPES[name])
    return [found for regex in regexes if (found := _compiled(regex)) is not None]


@lru_cache(maxsize=256)
def _is_checked(name: str, draft: object) -> bool:
    """Whether the validator knows the format in this draft: older ones have fewer."""
    schema = {"$schema": draft, "format": name} if isinstance(draft, str) else {"format": name}
    return not jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(_SHAPELESS)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Pattern | None:
    try:
        return Pattern(whole(parsed(pattern)))
    except ValueError:
        return None
