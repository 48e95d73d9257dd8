"""Short strings that a regular expression may match."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import jsonschema_rs

from abruzzi.guide.expression import Characters, Choice, Expression, Group, Look, Reference, Repeat, Row
from abruzzi.guide.regex import parsed

# What a string is made of, the plain first; then one of many a script and category.
_PLAIN = "a0A-bB1cC2_dD3eE4f.F5gG6hH7iI8jJ9kKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ /:@!#$%&'()*+,;<=>?[\\]^`{|}~\""
_OTHERS = "\n\té中あア가\u03b1\u0431אعअกªǅ\u0301²Ⅷ€©«»\xa0\u2028\x01"
# The longest string that is made of an expression, how many characters of all of them, and how many that were before.
_LONGEST = 20_000
_MAX_WRITTEN = 200_000
_MAX_REPEATED = 100


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
