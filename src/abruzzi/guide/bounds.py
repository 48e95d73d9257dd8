"""The least and the greatest of what several schemas allow at once: lengths, counts and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from abruzzi.guide.certain import has_no_multiple, is_nothing
from abruzzi.guide.parts import Part

# More characters, members or items than a turn has room for, and a number that no double holds.
LARGEST = 1_000_000
_LARGEST_DOUBLE = 1.7976931348623157e308

_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

Span = tuple[int, int | None]


def span(parts: Sequence[Part], least: str, most: str) -> Span:
    low = [part.schema[least] for part in parts if isinstance(part.schema.get(least), int | float)]
    high = [part.schema[most] for part in parts if isinstance(part.schema.get(most), int | float)]
    return int(max(low, default=0)), int(min(high)) if high else None


def crossed(bounds: Span) -> bool:
    """Whether there is nothing within, or nothing that a turn has room for."""
    least, most = bounds
    return least > LARGEST or (most is not None and least > most)


def numbers_cross(parts: Sequence[Part]) -> bool:
    """Whether no number is within the bounds and, where it must be a whole one or a multiple of one, is that."""
    if not any(keyword in part.schema for part in parts for keyword in _LIMITS):
        return False
    least, above = max(_limits(parts, "minimum", "exclusiveMinimum"), default=(-_LARGEST_DOUBLE, False))
    limits = [(-limit, below) for limit, below in _limits(parts, "maximum", "exclusiveMaximum")]
    negative, below = max(limits, default=(-_LARGEST_DOUBLE, False))
    most = -negative
    if least > _LARGEST_DOUBLE or most < -_LARGEST_DOUBLE or least > most or (least == most and (above or below)):
        return True
    steps = [1] if any(part.integer for part in parts) else []
    for part in parts:
        step = _number(part, "multipleOf")
        if step is not None and step == int(step):
            steps.append(int(step))
    fractions = [step for part in parts if (step := _number(part, "multipleOf")) is not None]
    if any(has_no_multiple(step, least, most) for step in fractions):
        return True
    if not steps:
        return False
    step = math.lcm(*steps)
    first = -(-math.ceil(least) // step) * step
    last = math.floor(most) // step * step
    first += step if above and first == least else 0
    last -= step if below and last == most else 0
    return first > last


def wanted_cross(parts: Sequence[Part]) -> bool:
    """Whether more items are wanted (`contains`) than there may be."""
    most = span(parts, "minItems", "maxItems")[1]
    for part in parts:
        if "contains" not in part.schema:
            continue
        least, within = 1, None
        if not part.home.is_old:
            least, within = span([part], "minContains", "maxContains")
            least = least if "minContains" in part.schema else 1
        if least and is_nothing(part.schema["contains"]):
            return True
        if any(limit is not None and least > limit for limit in (most, within)):
            return True
    return False


def _limits(parts: Sequence[Part], plain: str, exclusive: str) -> list[tuple[float, bool]]:
    """The bounds, each with whether it is no longer within."""
    found = []
    for part in parts:
        # In draft 4 the second keyword is a boolean that tells of the first.
        if (limit := _number(part, plain)) is not None:
            found.append((limit, part.schema.get(exclusive) is True))
        if (limit := _number(part, exclusive)) is not None:
            found.append((limit, True))
    return found


def _number(part: Part, keyword: str) -> int | float | None:
    value = part.schema.get(keyword)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
