"""Strings and numbers that an option of a schema may be, the shorter ones first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, combinations, islice, product
from string import ascii_lowercase, ascii_uppercase, digits

from abruzzi.guide.node import Option
from abruzzi.guide.pattern import SHAPES
from abruzzi.guide.regex_strings import strings as strings_of

# One for each format, and some that fit many a pattern.
_SAMPLES = (
    "",
    "a",
    "0",
    "A",
    "2000-01-01",
    "2000-01-01T00:00:00Z",
    "00:00:00Z",
    "P1D",
    "a@example.com",
    "example.com",
    "192.0.2.1",
    "2001:db8::1",
    "http://example.com/",
    "00000000-0000-4000-8000-000000000000",
    "/a",
    "1/a",
    "a.b",
    "a/b",
    "a-b",
    "Aa0!Aa0!Aa0!",
    "0000",
    "-",
    " ",
)
# Where others of a format are asked for. Of what has only its shape here, many are right.
_FORMATS = SHAPES | {
    "duration": "^P[1-9][0-9]?D$",
    "email": r"^[a-z]{1,3}@[a-z]\.[a-z]{1,3}$",
    "hostname": r"^[a-z]{1,3}(\.[a-z]{2,3})?$",
    "idn-email": r"^[a-z]{1,3}@[a-z]\.[a-z]{1,3}$",
    "idn-hostname": r"^[a-z]{1,3}(\.[a-z]{2,3})?$",
    "ipv6": "^[1-9a-f]{0,3}::[1-9a-f]{0,3}$",
    "iri": "^[a-z]{1,3}:[a-z]{0,3}$",
    "iri-reference": "^[a-z]{1,3}$",
    "json-pointer": "^/[a-z]{0,3}$",
    "regex": "^[a-z]{1,3}$",
    "relative-json-pointer": "^[1-9](/[a-z]{0,3})?$",
    "uri": "^[a-z]{1,3}:[a-z]{0,3}$",
    "uri-reference": "^[a-z]{1,3}$",
    "uri-template": "^[a-z]{1,3}$",
    "uuid": "^[0-9a-f]{8}-0000-4000-8000-000000000000$",
}
# Strings in a row that aren't right, behind which none is looked for.
_MAX_MISSED = 1_000
# Multiples, or whole numbers, that are looked at on each side of a bound.
_NEAR = 2_000
# Longer ones are refused by the reader, as by many others.
_MAX_DIGITS = 300
_LOW = ("minimum", "exclusiveMinimum")
_HIGH = ("maximum", "exclusiveMaximum")


def strings(option: Option) -> Iterator[str]:
    least, most = option.length
    if option.text is None:
        samples = (text for one in _SAMPLES for text in _stretched(one, least) if text)
        found = _alternating([_letters(least), samples])
        yield from (text for text in found if most is None or len(text) <= most)
        return
    schemas = [part.schema for part in option.parts]
    patterns = [pattern for schema in schemas if isinstance(pattern := schema.get("pattern"), str)]
    patterns += [_FORMATS[name] for schema in schemas if (name := schema.get("format")) in _FORMATS]
    made = [strings_of(pattern, least) for pattern in patterns]
    made += (_joined(*pair, least) for pair in combinations(patterns, 2))
    seen = set()
    missed = 0
    for text in chain(_SAMPLES, _alternating(made)):
        for padded in _stretched(text, least):
            if padded not in seen and option.text.accepts(padded):
                yield padded
                missed = 0
            seen.add(padded)
        missed += 1
        if missed > _MAX_MISSED:
            return


def _joined(one: str, other: str, least: int) -> Iterator[str]:
    """Strings of two patterns, behind and on top of each other."""
    for b, a in product(islice(strings_of(other, least), 40), islice(strings_of(one, least), 10)):
        yield from (a + b, b + a, a + b[len(a) :], b[: -len(a)] + a, b + a[len(b) :], a[: -len(b)] + b)


def free_names(fewest: int) -> Iterator[str]:
    """Names of no meaning, some more than so many."""
    yield from ascii_lowercase
    yield from map("".join, product(ascii_lowercase, repeat=2)) if fewest < 600 else map("a{}".format, range(fewest))


def _letters(least: int) -> Iterator[str]:
    """The empty string, single letters, digits, pairs of letters, ...; longer where they must be."""
    begin = "a" * (least - 2)
    if least < 1:
        yield ""
    if least < 2:
        yield from ascii_lowercase + digits + ascii_uppercase
    yield from (begin + "".join(pair) for pair in product(ascii_lowercase, repeat=2))


def _stretched(text: str, least: int) -> Iterable[str]:
    """The string, or longer ones like it where it is too short."""
    missing = least - len(text)
    if missing <= 0:
        return (text,)
    second = text[1:2] or text
    return (text + text[-1] * missing, text[0] * missing + text, text[0] + second * missing + text[1:]) if text else ()


def _alternating(several: list[Iterator[str]]) -> Iterator[str]:
    while several:
        for one in several[:]:
            text = next(one, None)
            if text is None:
                several.remove(one)
            else:
                yield text


def numbers(option: Option) -> Iterator[int | float]:
    seen = set()
    for number in _candidates(option):
        value = _written(number)
        if value is not None and value not in seen:
            seen.add(value)
            if option.takes_scalar(value):
                yield value


def _candidates(option: Option) -> Iterator[Fraction]:
    lows, highs, steps = (_exact(option, keywords) for keywords in (_LOW, _HIGH, ("multipleOf",)))
    steps += [Fraction(1)] * any(part.integer for part in option.parts)
    step = Fraction(math.lcm(*(one.numerator for one in steps)), math.gcd(*(one.denominator for one in steps)) or 1)
    bases = [0, *(math.floor(bound / step) for bound in (*lows, *highs))]
    yield from (step * (base + off) for base in bases for off in (0, 1, 2, -1, 3))
    if not steps:
        offsets = [Fraction(off) for off in ("0", ".5", "-.5", ".01", "-.01")]
        yield from (bound + off for bound in (*lows, *highs) for off in offsets)
        yield from (low + (high - low) * part / 64 for low in lows for high in highs for part in range(64))
        yield Fraction(1, 2)
    yield from (one for bound in (*lows, *highs) for one in _beside(bound))
    if highs and not lows:
        last = math.ceil(min(highs) / step)
        yield from (step * count for count in range(last, last - _NEAR, -1))
    else:
        first = math.floor(max(lows, default=Fraction(0)) / step)
        last = math.ceil(min(highs) / step) if highs else first + _NEAR
        yield from (step * count for count in range(first, min(last, first + _NEAR) + 1))


def _beside(bound: Fraction) -> Iterator[Fraction]:
    """The double that this is, and the next ones."""
    if (value := _written(bound)) is not None:
        several = (float(value), *(math.nextafter(value, side) for side in (-math.inf, math.inf)))
        yield from (Fraction(one) for one in several if math.isfinite(one))


def _exact(option: Option, keywords: Sequence[str]) -> list[Fraction]:
    """The numbers under these keywords, as they are written: 0.1 is a tenth."""
    values = [part.schema[keyword] for part in option.parts for keyword in keywords if keyword in part.schema]
    return [
        Fraction(repr(value))
        for value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) != math.inf
    ]


def _written(number: Fraction) -> int | float | None:
    """The number as one whose text the reader takes."""
    value: int | float = number.numerator
    if number.denominator > 1 or abs(value) >= 10**_MAX_DIGITS:
        try:
            value = float(number)
        except OverflowError:
            return None
    return value
