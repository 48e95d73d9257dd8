"""A regular expression of JSON Schema's (ECMA-262's, as jsonschema-rs reads them) taken apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from abruzzi.guide.expression import (
    Anchor,
    Characters,
    Choice,
    Expression,
    Group,
    Look,
    Ranges,
    Reference,
    Repeat,
    Row,
)

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
