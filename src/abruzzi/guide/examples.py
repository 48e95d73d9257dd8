"""Short values that satisfy a schema: what a call is finished with when its model can't."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import jsonschema_rs

from abruzzi.guide.node import Option

# Deeper than any value in use; a schema that needs more refers to itself without an end.
_MAX_DEPTH = 24
# Candidates that are looked at for one place.
_TRIES = 200
_VARIANTS = 12
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
# The simplest first. What takes any kind gets a string: an empty one says least.
_ORDER = ("string", "null", "boolean", "number", "array", "object")


class Place(Protocol):
    """A node, or part of one."""

    @property
    def options(self) -> Sequence[Option]: ...
    @property
    def checks(self) -> Sequence[jsonschema_rs.Validator]: ...


def examples(node: Place, depth: int = 0) -> Iterator[Any]:
    """Values of the node, the shorter ones first."""
    if depth > _MAX_DEPTH:
        return
    simple_first = sorted(node.options, key=lambda option: option.kinds <= {"array", "object"})
    found = (value for option in simple_first for value in _of(option, depth))
    for value in islice(found, _TRIES):
        if all(check.is_valid(value) for check in node.checks):
            yield value


def _of(option: Option, depth: int) -> Iterator[Any]:
    if option.values is not None:
        yield from option.values
        return
    for kind in _ORDER:
        if kind not in option.kinds:
            continue
        if kind == "null":
            yield None
        elif kind == "boolean":
            yield from (False, True)
        elif kind == "string":
            yield from islice(_strings(option), _VARIANTS)
        elif kind == "number":
            yield from _numbers(option)
        elif kind == "array":
            yield from islice(_arrays(option, depth), _VARIANTS)
        else:
            yield from islice(_objects(option, depth), 4 * _VARIANTS)


def names(option: Option) -> Iterator[str]:
    """Names that members may have, the known ones first; not all of them may be there."""
    yield from option.known
    yield from (letter * n for n in range(1, 4) for letter in "abcdefghijklmnopqrstuvwxyz")
    for node in option.said_of_names:
        yield from islice(examples(node), _VARIANTS)


def _strings(option: Option) -> Iterator[str]:
    least, most = option.length
    if option.text is None:
        yield from (
            letter * max(least, i) for i, letter in enumerate("abcdef") if most is None or max(least, i) <= most
        )
        return
    made = (text for pattern in option.text.patterns for text in pattern.examples())
    for text in (*_SAMPLES, *made):
        for padded in dict.fromkeys((text, *_stretched(text, least))):
            if len(padded) >= least and (most is None or len(padded) <= most) and option.text.accepts(padded):
                yield padded


def _stretched(text: str, least: int) -> Iterable[str]:
    missing = least - len(text)
    if missing > 0 and text:
        yield from (text + text[-1] * missing, text[0] * missing + text, text[:1] + text[1:2] * missing + text[1:])


def _numbers(option: Option) -> Iterator[int | float]:
    bounds = [0, 1, 2, -1, 3]
    steps: list[float] = [0.5]
    for part in option.parts:
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            bound = part.schema.get(key)
            if isinstance(bound, int | float) and not isinstance(bound, bool):
                whole = math.floor(bound)
                bounds += [whole, whole + 1, whole - 1]
                steps += [bound, bound + 0.5, bound - 0.5, bound + 0.01, bound - 0.01, bound + 1e-9, bound - 1e-9]
        step = part.schema.get("multipleOf")
        if isinstance(step, int | float) and step > 0:
            for bound in bounds[:]:
                if not math.isfinite(quotient := bound / step):
                    continue
                count = math.ceil(quotient)
                steps += [count * step, (count + 1) * step, (count - 1) * step]
    whole_steps = [int(step) for step in steps if float(step).is_integer()]
    for value in dict.fromkeys((*bounds, *whole_steps, *steps)):
        if option.takes_scalar(value):
            yield value


def _arrays(option: Option, depth: int) -> Iterator[list[Any]]:
    least, most = option.count
    contained = [value for node in option.contained for value in islice(examples(node, depth + 1), 2)]
    for count in range(least, least + 3):
        if most is not None and count > most:
            return
        items = [option.item(index) for index in range(count)]
        for ahead in range(1 if count == 0 else 3):
            # Items that differ, for those that must; and the first of each, which is the shortest.
            chosen = []
            for index, item in enumerate(items):
                values = list(islice(examples(item, depth + 1), index * ahead + 1)) if item is not None else []
                if not values:
                    return
                chosen.append(values[-1])
            yield chosen
            if chosen and not ahead:  # some must be what `contains` says
                yield from ([*chosen[:-1], value] for value in contained)


def _objects(option: Option, depth: int) -> Iterator[dict[str, Any]]:
    base: dict[str, Any] = {}
    needed = [name for name in option.known if name in option.required]
    needed += sorted(option.required - set(needed))
    while needed:
        name = needed.pop(0)
        if name not in base:
            value = _member(option, name, depth)
            if value is _NONE:
                return
            base[name] = value
            needed += sorted(option.dependents.get(name, ()))
    least, most = option.size
    optional = [name for name in option.known if name not in base]
    for name in names(option):
        if len(base) >= least:
            break
        if name not in base and (value := _member(option, name, depth)) is not _NONE:
            base[name] = value
    if len(base) < least or (most is not None and len(base) > most):
        return
    yield base
    whole = dict(base)
    for name in optional:
        value = _member(option, name, depth)
        if value is not _NONE and name not in base and (most is None or len(base) < most):
            yield {**base, name: value}
            whole[name] = value
    other = next((name for name in names(option) if name not in whole and option.member(name)), None)
    if (
        other is not None
        and (value := _member(option, other, depth)) is not _NONE
        and (most is None or len(base) < most)
    ):
        yield {**base, other: value}
    if len(whole) > len(base) + 1 and (most is None or len(whole) <= most):
        yield whole
    for name in base:
        node = option.member(name)
        for value in islice(examples(node, depth + 1), 1, _VARIANTS) if node is not None else ():
            yield {**base, name: value}
    # What no schema of their own tells of, another may (`unevaluatedProperties`): all of another kind.
    nodes = {name: node for name in base if (node := option.member(name)) is not None}
    if len(nodes) > 1:
        several = (islice(examples(node, depth + 1), 1, 2 * _VARIANTS) for node in nodes.values())
        yield from (dict(zip(nodes, values, strict=True)) for values in zip(*several, strict=False))


_NONE = object()


def _member(option: Option, name: str, depth: int) -> Any:
    node = option.member(name)
    return next(examples(node, depth + 1), _NONE) if node is not None else _NONE
