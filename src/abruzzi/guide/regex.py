"""A regular expression of JSON Schema's (ECMA-262's, as jsonschema-rs reads them) taken apart.

Of it are made the expression that llguidance follows, and short strings that it may match.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import jsonschema_rs

Ranges: TypeAlias = tuple[tuple[int, int], ...]

# ECMA-262's classes: those of words and digits are narrower than Unicode's.
_CLASSES: dict[str, Ranges] = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": (
        *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
        *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
    ),
}
# jsonschema-rs doesn't translate every expression that looks around: there the classes may be either's. What is more
# than both, and, inside of what is negated, less than both.
_WIDE = {"d": r"\d", "w": r"\w", "s": r"[\s\x{feff}]", "D": "[^0-9]", "W": "[^0-9A-Z_a-z]"}
_NARROW = {"D": r"\D", "W": r"\W", "S": r"[^\s\x{feff}]"}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_CODE = re.compile(r"\\(?:[ux]\{([0-9a-fA-F]+)\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_PROPERTY = re.compile(r"\\[pP](?:\{[^}]*\}|[A-Z])")
_BOUNDARY = re.compile(r"\\(?:[bB](?:\{[a-z-]+\})?|[Az<>])")
_REFERENCE = re.compile(r"\\([1-9][0-9]*)")
# What a group begins with: a name, flags of one that isn't captured, or how it looks around; or flags for what follows.
_GROUP = re.compile(r"\((?:\?(?:P?<[^>=!][^>]*>|([a-zA-Z-]*):|<?([=!])|([a-zA-Z]+)\))|(?!\?))")
_QUANTIFIER = re.compile(r"(?:\{([0-9]+)(,([0-9]*))?\}|([*+?]))(?:\?|(?<=[*+])\+)?")
_MAX_DEPTH = 100
# Anchors inside of groups are followed into this many branches.
_MAX_BRANCHES = 64
# What a string is made of, the plain first; then one of many a script and category.
_PLAIN = "a0A-bB1cC2_dD3eE4f.F5gG6hH7iI8jJ9kKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ /:@!#$%&'()*+,;<=>?[\\]^`{|}~\""
_OTHERS = "\n\té中あア가\u03b1\u0431אعअกªǅ\u0301²Ⅷ€©«»\xa0\u2028\x01"
# The longest string that is made of an expression, how many characters of all of them, and how many that were before.
_LONGEST = 20_000
_MAX_WRITTEN = 200_000
_MAX_REPEATED = 100


@dataclass(frozen=True, slots=True)
class Characters:
    """One of some characters. `spelling`: in Rust's way; `ranges`: None where only the validator knows."""

    spelling: str
    source: str
    ranges: Ranges | None


@dataclass(frozen=True, slots=True)
class Anchor:
    sign: str


@dataclass(frozen=True, slots=True)
class Row:
    items: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    branches: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    item: Expression
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Group:
    """`number`: where it is captured."""

    item: Expression
    number: int | None = None
    flags: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What looks around. It is left out of what is followed: the expression is only looser without."""

    item: Expression
    negated: bool


@dataclass(frozen=True, slots=True)
class Reference:
    number: int


Expression: TypeAlias = Characters | Anchor | Row | Choice | Repeat | Group | Look | Reference


@lru_cache(maxsize=1024)
def parsed(pattern: str) -> Expression:
    """Raises ValueError for what isn't known here."""
    return _Parser(pattern).whole()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._groups = 0
        self._depth = 0
        # With the flag `m` anchors stand at the ends of lines, too: they are left out.
        self._anchored = not re.search(r"\(\?[a-z]*m", pattern)
        self._looks = bool(re.search(r"\(\?<?[=!]", pattern))

    def whole(self) -> Expression:
        found = self._choice()
        if self._at < len(self._pattern):
            raise ValueError("a bracket too many")
        return found

    def _choice(self) -> Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("too deep")
        branches: list[Expression] = []
        flags = ""
        while True:
            items: list[Expression] = []
            begin = 0  # of what the flags are for
            while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
                found = _GROUP.match(self._pattern, self._at)
                if found and found[3]:
                    if self._looks:
                        raise ValueError("flags that leave their group")
                    items[begin:] = [_flagged(items[begin:], flags)]
                    flags = _flags(flags + found[3])
                    begin = len(items)
                    self._at = found.end()
                else:
                    items.append(self._quantified())
            items[begin:] = [_flagged(items[begin:], flags)]
            branches.append(Row(tuple(items)))
            if self._pattern[self._at : self._at + 1] != "|":
                break
            self._at += 1
        self._depth -= 1
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def _quantified(self) -> Expression:
        item = self._item()
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return item
        self._at = found.end()
        if _QUANTIFIER.match(self._pattern, self._at):
            raise ValueError("a quantifier of a quantifier")  # of which jsonschema-rs makes this or that
        if found[4]:
            return Repeat(item, int(found[4] == "+"), 1 if found[4] == "?" else None)
        least = int(found[1])
        return Repeat(item, least, least if found[2] is None else int(found[3]) if found[3] else None)

    def _item(self) -> Expression:
        character = self._pattern[self._at]
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        self._at += 1
        if character in "^$":
            return Anchor(character) if self._anchored else Row()
        if character == ".":
            return Characters(".", ".", _without(((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))))
        if character in "*+?{":
            raise ValueError("a quantifier of nothing")
        return _literal(character)

    def _group(self) -> Expression:
        found = _GROUP.match(self._pattern, self._at)
        if found is None:
            raise ValueError("an unknown group")
        self._at = found.end()
        number = None
        if found[1] is None and found[2] is None:
            self._groups += 1
            number = self._groups
        item = self._choice()
        if self._pattern[self._at : self._at + 1] != ")":
            raise ValueError("a bracket that isn't closed")
        self._at += 1
        return Look(item, found[2] == "!") if found[2] else Group(item, number, _flags(found[1] or ""))

    def _escape(self) -> Expression:
        if found := _BOUNDARY.match(self._pattern, self._at):
            self._at = found.end()
            return Row()
        if found := _REFERENCE.match(self._pattern, self._at):
            self._at = found.end()
            return Reference(int(found[1]))
        begin = self._at
        spelling, ranges = self._escaped()
        return Characters(spelling, self._pattern[begin : self._at], ranges)

    def _escaped(self, *, negated: bool = False) -> tuple[str, Ranges | None]:
        """An escape that stands for characters, in brackets (and these negated) or outside."""
        pattern, at = self._pattern, self._at
        if found := _CODE.match(pattern, at):
            self._at = found.end()
            code = int(found[1] or found[2] or found[3], 16)
            return f"\\x{{{code:x}}}", ((code, code),)
        if found := _PROPERTY.match(pattern, at):
            self._at = found.end()
            return found[0], None
        name = pattern[at + 1 : at + 2]
        self._at = at + 2
        if (ranges := _CLASSES.get(name.lower())) is not None:
            spelling = f"[{'^' * name.isupper()}{_spelled(ranges)}]"
            if self._looks:
                spelling = (_NARROW if negated else _WIDE).get(name, spelling)
            return spelling, _without(ranges) if name.isupper() else ranges
        if name == "c" and pattern[at + 2 : at + 3].isalpha():
            self._at = at + 3
            return _one(chr(ord(pattern[at + 2]) % 32))
        if not name or (name not in _CONTROLS and name.isalnum()):
            raise ValueError("an unknown escape")
        return _one(_CONTROLS.get(name, name))

    def _class(self) -> Expression:
        begin = self._at
        self._at += 1
        negated = self._pattern[self._at : self._at + 1] == "^"
        self._at += negated
        spellings: list[str] = []
        ranges: list[tuple[int, int]] = []
        is_known = True
        if self._pattern[self._at : self._at + 1] == "]":
            raise ValueError("a class that begins with a bracket")  # of which jsonschema-rs makes this or that
        while self._pattern[self._at : self._at + 1] != "]":
            spelling, several = self._member(negated=negated)
            if self._is_range():
                self._at += 1
                to, others = self._member(negated=negated)
                if several is None or others is None:
                    raise ValueError("a range of classes")
                spelling, several = f"{spelling}-{to}", ((several[0][0], others[0][0]),)
            spellings.append(spelling)
            ranges += several or ()
            is_known &= several is not None
        self._at += 1
        source = self._pattern[begin : self._at]
        spelling = f"[{'^' * negated}{''.join(spellings)}]"
        if negated and "--" in source:  # behind an escape, jsonschema-rs takes it for a difference of sets
            spelling = "(?s:.)"
        if not is_known:
            return Characters(spelling, source, None)
        return Characters(spelling, source, _without(tuple(ranges)) if negated else tuple(ranges))

    def _member(self, *, negated: bool) -> tuple[str, Ranges | None]:
        if self._pattern[self._at : self._at + 2] == "\\b":
            self._at += 2
            return _one("\b")
        if self._pattern[self._at : self._at + 1] == "\\":
            return self._escaped(negated=negated)
        if self._at >= len(self._pattern):
            raise ValueError("a bracket that isn't closed")
        self._at += 1
        return _one(self._pattern[self._at - 1])

    def _is_range(self) -> bool:
        return self._pattern[self._at : self._at + 1] == "-" and self._pattern[self._at + 1 : self._at + 2] != "]"


def _flags(flags: str) -> str:
    if set(flags) - set("ims-"):
        raise ValueError("unknown flags")
    return flags.replace("m", "").rstrip("-")


def _flagged(items: Sequence[Expression], flags: str) -> Expression:
    return Group(Row(tuple(items)), flags=flags) if flags else Row(tuple(items))


def _one(character: str) -> tuple[str, Ranges]:
    """Spelled as no part of a class or an expression can be taken for."""
    code = ord(character)
    is_plain = character.isalnum() or code > 0x7F
    return character if is_plain else f"\\x{{{code:x}}}", ((code, code),)


def _literal(character: str) -> Characters:
    spelling, ranges = _one(character)
    return Characters(spelling, character, ranges)


def _spelled(ranges: Ranges) -> str:
    return "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in ranges)


def _without(ranges: Ranges) -> Ranges:
    """All characters but these."""
    found, begin = [], 0
    for low, high in sorted(ranges):
        if low > begin:
            found.append((begin, low - 1))
        begin = max(begin, high + 1)
    return (*found, (begin, 0x10FFFF)) if begin <= 0x10FFFF else tuple(found)


# What is followed


def whole(expression: Expression) -> str:
    """The expression, which may match anywhere in a string, as one that all of the string matches, in Rust's way of
    writing it. Raises ValueError for what can't be followed.
    """
    branches = []
    for begins, left in _opened([expression], "^"):
        for ends, items in _opened(left, "$"):
            body = "".join(_spelling(item) for item in items)
            branches.append(f"{'' if begins else '(?s:.*)'}(?:{body}){'' if ends else '(?s:.*)'}")
    if len(branches) > _MAX_BRANCHES:
        raise ValueError("too many branches")
    return "|".join(dict.fromkeys(branches))


def _opened(items: Sequence[Expression], sign: str) -> Iterator[tuple[bool, list[Expression]]]:
    """The ways to read the items, each with whether an anchor stands at their beginning (or end), and without it."""
    at, rest = (0, slice(1, None)) if sign == "^" else (-1, slice(None, -1))
    left = list(items)
    while left and (isinstance(left[at], Look) or left[at] == Row()):
        left = left[rest]
    if not left or not _has_anchor(left[at], sign):
        yield False, left
        return
    edge, others = left[at], left[rest]
    if isinstance(edge, Anchor):
        yield True, others
    elif isinstance(edge, Row):
        yield from _opened([*edge.items, *others] if sign == "^" else [*others, *edge.items], sign)
    else:
        branches = edge.branches if isinstance(edge, Choice) else [edge.item]  # type: ignore[union-attr]
        for branch in branches:
            for anchored, inside in _opened([branch], sign):
                group = Group(Row(tuple(inside)), flags=edge.flags if isinstance(edge, Group) else "")
                yield anchored, [group, *others] if sign == "^" else [*others, group]


def _has_anchor(expression: Expression, sign: str) -> bool:
    """Whether there is such an anchor that stands for itself, in no repetition."""
    if isinstance(expression, Anchor):
        return expression.sign == sign
    if isinstance(expression, Row):
        return any(_has_anchor(item, sign) for item in expression.items)
    if isinstance(expression, Choice):
        return any(_has_anchor(branch, sign) for branch in expression.branches)
    return isinstance(expression, Group) and _has_anchor(expression.item, sign)


def _spelling(expression: Expression) -> str:
    if isinstance(expression, Characters):
        return expression.spelling
    if isinstance(expression, Row):
        return "".join(map(_spelling, expression.items))
    if isinstance(expression, Choice):
        return f"(?:{'|'.join(map(_spelling, expression.branches))})"
    if isinstance(expression, Group):
        return f"(?{expression.flags}:{_spelling(expression.item)})"
    if isinstance(expression, Repeat):
        item = _spelling(expression.item)
        most = "" if expression.most is None else expression.most
        return f"(?:{item}){{{expression.least},{most}}}" if item else ""
    if isinstance(expression, Reference):
        raise ValueError("a reference to what a group matched")
    return ""


# Strings


def strings(pattern: str, least: int = 0) -> Iterator[str]:
    """Strings that the pattern may match, what looks around aside; the shortest first, and about as long as `least`
    where they can be.
    """
    try:
        expression = parsed(pattern)
    except ValueError:
        return
    seen: set[str] = set()
    left, turn = _MAX_WRITTEN, 0
    while left > 0 and turn - len(seen) < _MAX_REPEATED:
        writer = _Writer(turn, 0)
        writer.write(expression)
        if (missing := least - writer.length) > 0:
            writer = _Writer(turn, missing, writer.repeats)
            writer.write(expression)
        text = "".join(writer.written)
        if text not in seen and writer.length <= _LONGEST:
            seen.add(text)
            yield text
        left -= writer.length + 1
        turn += 1


class _Writer:
    """Writes a string: in turn 0 nothing that need not be, in turn 1 everything once, then what comes."""

    def __init__(self, turn: int, missing: int, repeats: int = 1) -> None:
        self.written: list[str] = []
        self.length = 0
        self.repeats = 0
        self._turn = turn
        self._state = turn * 7919
        self._missing = missing
        self._stretched = turn % max(1, repeats)  # which of the repetitions gets what is missing
        self._groups: dict[int, str] = {}

    def _pick(self, count: int) -> int:
        if self._turn < 2:
            return 0
        self._state = (self._state * 1103515245 + 12345) & 0x7FFFFFFF
        return (self._state >> 12) % count

    def _put(self, text: str) -> None:
        self.written.append(text)
        self.length += len(text)

    def write(self, expression: Expression) -> None:
        if self.length > _LONGEST:
            return
        if isinstance(expression, Characters):
            some = _some(expression)
            self._put(some[self._pick(len(some))])
        elif isinstance(expression, Row):
            for item in expression.items:
                self.write(item)
        elif isinstance(expression, Choice):
            self.write(expression.branches[self._pick(len(expression.branches))])
        elif isinstance(expression, Group):
            begin = len(self.written)
            self.write(expression.item)
            if expression.number is not None:
                self._groups[expression.number] = "".join(self.written[begin:])
        elif isinstance(expression, Repeat):
            for _ in range(self._count(expression)):
                self.write(expression.item)
        elif isinstance(expression, Reference):
            self._put(self._groups.get(expression.number, ""))
        elif isinstance(expression, Look) and not expression.negated and self._turn % 2:
            self.write(expression.item)

    def _count(self, repeat: Repeat) -> int:
        count = max(repeat.least, int(self._turn == 1)) + self._pick(4)
        if self.repeats == self._stretched:
            count += self._missing
        self.repeats += 1
        return count if repeat.most is None else min(count, repeat.most)


@lru_cache(maxsize=1024)
def _some(characters: Characters) -> str:
    """Some of the characters, the plain ones first."""
    if characters.ranges is None:
        rule = jsonschema_rs.validator_for({"pattern": f"^{characters.source}$"})
        return "".join(one for one in _PLAIN + _OTHERS if rule.is_valid(one)) or "a"
    ranges = characters.ranges
    found = "".join(one for one in _PLAIN if any(low <= ord(one) <= high for low, high in ranges))
    return found or "".join(chr(low) for low, _ in ranges if not 0xD800 <= low <= 0xDFFF) or "a"
