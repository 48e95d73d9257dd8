"""Regular expressions and formats of strings, followed character by character.

What is followed here may be looser than the schema, never stricter; the whole string is validated in any case.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer

# The shapes of formats that have one. What is in a shape and not in the format (a 30th of February) shows at its end.
_SHAPES = {
    "date": r"[0-9]{4}-[01][0-9]-[0-3][0-9]",
    "time": r"[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,18})?([zZ]|[+-][0-2][0-9]:[0-5][0-9])",
    "date-time": r"[0-9]{4}-[01][0-9]-[0-3][0-9][tT][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,18})?"
    r"([zZ]|[+-][0-2][0-9]:[0-5][0-9])",
    "duration": r"P[0-9]{0,18}[0-9YMWDTHS.]{1,64}",
    "ipv4": r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}",
    "ipv6": r"[0-9a-fA-F:.]{2,45}",
    "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "hostname": r"[0-9A-Za-z.-]{1,255}",
    "email": r"(?s:.){1,320}",
    "uri": r"[a-zA-Z][a-zA-Z0-9+.-]*:[^\x00-\x20]*",
    "iri": r"[a-zA-Z][a-zA-Z0-9+.-]*:[^\x00-\x20]*",
    "uri-reference": r"[^\x00-\x20]*",
}
# ECMA-262's classes, which JSON Schema means, are narrower than those of Unicode. Inside of brackets, and outside.
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_"}
_NEGATED = {"D": "[^0-9]", "W": "[^A-Za-z0-9_]"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
# What llguidance can't follow, and what is left out: the pattern is only looser without.
_LOOKAROUND = re.compile(r"\(\?(?:=|!|<=|<!)")
# A shortest match is looked for by going ahead; more steps than this it has only where that fails.
_LONGEST = 250
_TRIES = 16
# A quantifier, behind what can't be taken for one.
_QUANTIFIED = re.compile(
    r"(\\x\{[0-9a-fA-F]+\}|\\.|\[\^?(?:\\.|[^\]\\])*\]|\(\?[a-z]*:|[^\\\[*+?{])|([*+?]|\{[0-9]+(?:,[0-9]*)?\})\??",
    re.DOTALL,
)
# What is tried first: what is plain, then whatever there is.
_ORDER = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_./:@ "
_RANK = {byte: rank for rank, byte in enumerate(_ORDER)}
_PATIENCE = 24
_ALPHANUMERIC = frozenset((string.ascii_letters + string.digits).encode())


@lru_cache(maxsize=1)
def _bytes() -> LLTokenizer:
    """A vocabulary of the 256 bytes."""
    return LLTokenizer("byte")


class Pattern:
    """A regular expression that a whole string has to match."""

    def __init__(self, regex: str, found: str | None = None) -> None:
        """`found`: what is to be found in a string that `regex` is all of, if that is another. Raises ValueError for
        what llguidance can't follow.
        """
        self._found = found or regex
        self._regex = regex
        self._matcher = LLMatcher(_bytes(), LLMatcher.grammar_from_regex(regex))
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())

    def follow(self) -> Following:
        """A match that begins."""
        return Following(self._matcher.deep_copy())

    def examples(self) -> Iterator[str]:
        """Short strings that match."""
        # First nothing is repeated that need not be, and everything once; without loops every way leads to an end.
        for regex in dict.fromkeys((_repeated(self._found, 0), _repeated(self._found, 1), self._regex)):
            pattern = self if regex == self._regex else _compiled(regex)
            literals = _literals(regex)
            for turn in range(_TRIES if pattern is not None else 0):
                found = _match(pattern._matcher.deep_copy(), literals, turn)  # type: ignore[union-attr]
                if found is not None:
                    yield found


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


def patterns_of(pattern: object, name: object) -> list[Pattern]:
    """What strings with this pattern and this format can be followed through."""
    found = [_compiled(*_whole(pattern))] if isinstance(pattern, str) else []
    if isinstance(name, str) and name in _SHAPES:
        found.append(_compiled(_SHAPES[name]))
    return [one for one in found if one is not None]


@lru_cache(maxsize=1024)
def _compiled(regex: str, found: str | None = None) -> Pattern | None:
    try:
        return Pattern(regex, found)
    except ValueError:
        return None


def _whole(pattern: str) -> tuple[str, str]:
    """The pattern, which may match anywhere in a string, as one of the whole string; and what is found there."""
    branches = []
    bodies = []
    for branch in _branches(pattern):
        begins = branch.startswith("^")
        ends = branch.endswith("$") and len(branch[:-1]) - len(branch[:-1].rstrip("\\")) in range(0, 99, 2)
        body = _translated(branch[begins : len(branch) - ends])
        bodies.append(f"(?:{body})")
        branches.append(f"{'' if begins else '(?s:.*)'}(?:{body}){'' if ends else '(?s:.*)'}")
    return "|".join(branches), "|".join(bodies)


def _repeated(regex: str, most: int) -> str:
    """The expression with nothing repeated more often than it must be, or than `most` times."""

    def count(found: re.Match[str]) -> str:
        if found[1]:
            return found[1]
        quantifier = found[2]
        if quantifier in "*?":
            return f"{{{most}}}"
        if quantifier == "+":
            return ""
        least, _, greatest = quantifier[1:-1].partition(",")
        return f"{{{least if int(least) or greatest == '0' else most}}}"

    return _QUANTIFIED.sub(count, regex)


def _branches(pattern: str) -> list[str]:
    """The pattern's alternatives at its top."""
    branches, begin, depth, at, in_class = [], 0, 0, 0, False
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and depth == 0:
            branches.append(pattern[begin:at])
            begin = at + 1
        at += 1
    return [*branches, pattern[begin:]]


def _translated(pattern: str) -> str:
    """ECMA-262's regular expressions in Rust's way of writing them."""
    written: list[str] = []
    at, in_class = 0, False
    while at < len(pattern):
        if found := _ESCAPE.match(pattern, at):
            written.append(_escape(found[1], in_class=in_class))
            at = found.end()
            continue
        character = pattern[at]
        if in_class:
            in_class = character != "]"
            written.append("\\" + character if character in "[&~" else character)
        elif found := _LOOKAROUND.match(pattern, at):
            at = _behind_group(pattern, found.end())
            continue
        else:
            in_class = character == "["
            written.append(character)
            if in_class and pattern[at + 1 : at + 2] == "^":
                written.append("^")
                at += 1
        at += 1
    return "".join(written)


def _behind_group(pattern: str, at: int) -> int:
    """Where a group ends whose inside begins at `at`."""
    depth = 1
    while at < len(pattern) and depth:
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] in "()":
            depth += 1 if pattern[at] == "(" else -1
        at += 1
    return at


def _escape(name: str, *, in_class: bool) -> str:
    if name in _CLASSES:
        return _CLASSES[name] if in_class else f"[{_CLASSES[name]}]"
    if name in _NEGATED and not in_class:
        return _NEGATED[name]
    if name in "bB" and not in_class:
        return ""
    if len(name) > 1:
        return f"\\x{{{name[1:]}}}"
    return name if name in "/'\"`@!#%&,:;<=>~ _" else f"\\{name}"


def _literals(regex: str) -> bytes:
    """The characters that the expression names, in their order."""
    return re.sub(
        r"\\x\{[^}]*\}|\\[A-Za-z]|\(\?[a-z]*:|\[(?:\\.|[^\]])*\]|\{[0-9,]*\}|[\\()|?*+^$.](?<!\\\.)", "", regex
    ).encode()


def _match(matcher: LLMatcher, literals: bytes, turn: int) -> str | None:
    """A string that matches, found by going ahead. Where the next character that the expression names may stand and
    others, too, the bits of `turn` tell which is taken.
    """
    written = bytearray()
    named = 0
    while not matcher.is_accepting():
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        if not allowed or len(written) > _LONGEST:
            break
        literal = literals[named] if named < len(literals) else None
        byte = min(allowed, key=lambda byte: _RANK.get(byte, 500 + byte))
        if literal in allowed:
            if len(allowed) == 1 or turn & 1 == 0:
                byte = literal
                named += 1
            turn >>= len(allowed) > 1
        elif written[-_PATIENCE:] == bytes((byte,)) * _PATIENCE:
            # In a circle, out of which another may lead.
            others = [one for one in allowed if one in _ALPHANUMERIC] or allowed
            byte = others[len(written) * 37 % len(others)]
        matcher.try_consume_tokens([byte])
        written.append(byte)
    try:
        return written.decode() if matcher.is_accepting() else None
    except UnicodeDecodeError:
        return None
