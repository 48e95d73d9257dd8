"""Short values that satisfy a schema: what a call is finished with when its model can't."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import jsonschema_rs

from abruzzi.guide.node import Option
from abruzzi.guide.parts import key_of
from abruzzi.guide.refine import refined, together
from abruzzi.guide.scalars import free_names, numbers, strings

# Deeper than any value in use; a schema that needs more refers to itself without an end.
_MAX_DEPTH = 50
# More items or members than any turn has room for.
_LONGEST = 20_000
# Candidates that are looked at in one search, those for one member or item of them, and those of a place that are
# refused before others are tried.
_BUDGET = 8_000
_SHARE = 2_000
_REFUSED = 150
# What is tried of each kind first, and other values for one member or item.
_FIRST = 8
_VARIANTS = 12
# The simplest first. What takes any kind gets a string: an empty one says least.
_ORDER = ("string", "null", "boolean", "number", "array", "object")
_NONE = object()


class Place(Protocol):
    """A node, or part of one."""

    @property
    def options(self) -> Sequence[Option]: ...
    @property
    def checks(self) -> Sequence[jsonschema_rs.Validator]: ...


def examples(place: Place) -> Iterator[Any]:
    """Values of the place, the shorter ones first."""
    return _Search().values(place, ())


def names(option: Option) -> Iterator[str]:
    """Names that members may have and that have a value, the known ones first; not all of them may be there."""
    search = _Search()
    for name in search.names(option):
        node = option.member(name)
        if node is not None and search.first(node, ()) is not _NONE:
            yield name


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    options: Sequence[Option]
    checks: Sequence[jsonschema_rs.Validator]


class _Search:
    """The places on the way to one are `above` it: the shortest value of a place holds no other value of it."""

    def __init__(self) -> None:
        self._left = _BUDGET
        self._found: dict[Place, Any] = {}
        self._cuts = 0  # values that weren't looked for because of what is above

    def values(self, place: Place, above: tuple[Place, ...]) -> Iterator[Any]:
        if len(above) > _MAX_DEPTH or above.count(place) > 1:
            self._cuts += 1
            return
        above = (*above, place)
        # The first candidates of each kind, then more, then what is found by looking into cases and negations.
        simple_first = sorted(place.options, key=lambda option: option.kinds <= {"array", "object"})
        several = [candidates for option in simple_first for candidates in self._candidates(option, above)]
        for candidates in several:
            yield from self._allowed(place, islice(candidates, _FIRST))
        for candidates in several:
            yield from self._allowed(place, candidates)
        if place.checks:
            for option in place.options:
                for one in refined(option):
                    for candidates in self._candidates(one, above):
                        yield from self._allowed(place, islice(candidates, _VARIANTS))

    def first(self, place: Place, above: tuple[Place, ...]) -> Any:
        """The shortest value that was found, or _NONE."""
        if place not in self._found:
            cuts = self._cuts
            spare = max(0, self._left - _SHARE)
            self._left -= spare
            value = next(self.values(place, above), _NONE)
            self._left += spare
            if value is _NONE and cuts != self._cuts:
                return _NONE  # elsewhere there may be one
            self._found[place] = value
        return self._found[place]

    def _allowed(self, place: Place, candidates: Iterator[Any]) -> Iterator[Any]:
        refused = 0
        for value in candidates:
            self._left -= 1
            if self._left < 0 or refused > _REFUSED:
                return
            if all(check.is_valid(value) for check in place.checks):
                yield value
            else:
                refused += 1

    def _candidates(self, option: Option, above: tuple[Place, ...]) -> Iterator[Iterator[Any]]:
        """What may be values, of each kind."""
        if option.values is not None:
            yield iter(option.values)
            return
        for kind in _ORDER:
            if kind not in option.kinds:
                continue
            if kind == "null":
                yield iter((None,))
            elif kind == "boolean":
                yield iter((False, True))
            elif kind == "string":
                yield strings(option)
            elif kind == "number":
                yield numbers(option)
            elif kind == "array":
                yield self._arrays(option, above)
            else:
                yield self._objects(option, above)

    # Arrays

    def _arrays(self, option: Option, above: tuple[Place, ...]) -> Iterator[list[Any]]:
        least, most = option.count
        said = [part.schema for part in option.parts if "contains" in part.schema]
        wanted = [
            schema["contains"] for schema in said for _ in range(min(int(schema.get("minContains", 1)), _LONGEST))
        ]
        fewest = max(least, len(wanted)) if most is None else min(max(least, len(wanted)), most)
        most = fewest + 2 if most is None else min(fewest + 2, most)
        for count in range(fewest, most + 1) if fewest < _LONGEST else ():
            yield from self._of_length(option, count, wanted, said, above)
        if least < fewest:  # one item may be several of those that are wanted
            yield from self._of_length(option, least, (), said, above)

    def _of_length(
        self, option: Option, count: int, wanted: Sequence[Any], said: Sequence[Any], above: tuple[Place, ...]
    ) -> Iterator[list[Any]]:
        places = self._items(option, count, wanted, above)
        limits = [(option.home.validator(schema["contains"]), schema.get("maxContains")) for schema in said]
        limits = [(rule, limit) for rule, limit in limits if limit is not None]
        unique = any(part.schema.get("uniqueItems") is True for part in option.parts)
        array = self._array(places, unique, limits, above)
        if array is None:
            return
        yield array
        if not unique and count > 1 and (other := self._array(places, True, limits, above)) is not None:
            yield other
        for index in reversed(range(max(0, count - 3), count)):
            for value in islice(self.values(places[index], above), 1, _VARIANTS):
                yield [*array[:index], value, *array[index + 1 :]]

    def _items(self, option: Option, count: int, wanted: Sequence[Any], above: tuple[Place, ...]) -> list[Place]:
        """What the items are, the last of them what is wanted."""
        places: list[Place] = [node for index in range(count) if (node := option.item(index)) is not None]
        made: dict[tuple[Place, int], Place] = {}
        free = list(range(count))
        for schema in wanted:
            for index in reversed(free):
                key = (place := places[index]), id(schema)
                if key not in made:
                    options = [more for one in place.options for more in together(one, schema)]
                    made[key] = _Place(options, (*place.checks, option.home.validator(schema)))
                if self.first(made[key], above) is not _NONE:
                    places[index] = made[key]
                    free.remove(index)
                    break
        return places

    def _array(
        self,
        places: Sequence[Place],
        distinct: bool,
        limits: Sequence[tuple[jsonschema_rs.Validator, int]],
        above: tuple[Place, ...],
    ) -> list[Any] | None:
        """Values of the places: the first of each, or such as differ; no more within a rule than its limit."""
        array: list[Any] = [None] * len(places)
        used = set()
        left = [limit for _, limit in limits]
        streams: dict[Place, Iterator[Any]] = {}
        for index in sorted(range(len(places)), key=lambda index: not isinstance(places[index], _Place)):
            place = places[index]
            if distinct or limits:
                stream = self.values(place, above)
                if distinct:
                    stream = streams.setdefault(place, stream)
                free = (one for one in islice(stream, _REFUSED) if not (distinct and key_of(one) in used))
                full = [rule for (rule, _), more in zip(limits, left, strict=True) if more < 1]
                value = next((one for one in free if not any(rule.is_valid(one) for rule in full)), _NONE)
            else:
                value = self.first(place, above)
            if value is _NONE:
                return None
            left = [more - rule.is_valid(value) for (rule, _), more in zip(limits, left, strict=True)]
            used.add(key_of(value))
            array[index] = value
        return array

    # Objects

    def names(self, option: Option) -> Iterator[str]:
        least = option.size[0]
        yield from option.known
        for node in option.said_of_names:
            yield from islice(self.values(node, ()), _VARIANTS + least)
        if option.names is None:
            yield from free_names(least)

    def _objects(self, option: Option, above: tuple[Place, ...]) -> Iterator[dict[str, Any]]:
        least, most = option.size
        base: dict[str, Any] = {}
        for name in (*(one for one in option.known if one in option.required), *sorted(option.required)):
            added = self._added(option, base, name, above)
            if added is None:
                return
            base |= added
        for name in self.names(option) if len(base) < least <= _LONGEST else ():
            added = self._added(option, base, name, above)
            if added is not None and (most is None or len(base) + len(added) <= most):
                base |= added
            if len(base) >= least:
                break
        if len(base) >= least and (most is None or len(base) <= most):
            yield base
            yield from self._varied(option, base, above)

    def _varied(self, option: Option, base: dict[str, Any], above: tuple[Place, ...]) -> Iterator[dict[str, Any]]:
        """The object with other members, and with other values for its own."""
        most = option.size[1]
        optional = [name for name in option.known if name not in base]
        optional += islice((name for name in self.names(option) if name not in base and name not in optional), 1)
        whole = base
        for name in optional:
            added = self._added(option, base, name, above)
            if added is not None and (most is None or len(base) + len(added) <= most):
                yield base | added
                whole = whole | added
        if len(whole) > len(base) + 1 and (most is None or len(whole) <= most):
            yield whole
        for name in base:
            yield from (base | {name: value} for value in self._others(option, name, above))
        # What no schema of their own tells of, another may: all of another kind.
        if len(base) > 1:
            several = (self._others(option, name, above) for name in base)
            yield from (dict(zip(base, values, strict=True)) for values in zip(*several, strict=False))
        for name in sorted(whole.keys() - base.keys()) if most is None or len(base) < most else ():
            yield from (base | {name: value} for value in self._others(option, name, above))

    def _added(
        self, option: Option, base: dict[str, Any], name: str, above: tuple[Place, ...]
    ) -> dict[str, Any] | None:
        """This member and those that it asks for, if they aren't there; None where there is no value for one."""
        nodes = {one: option.member(one) for one in (name, *sorted(option.follows(name))) if one not in base}
        added = {one: self.first(node, above) if node is not None else _NONE for one, node in nodes.items()}
        return added if _NONE not in added.values() else None

    def _others(self, option: Option, name: str, above: tuple[Place, ...]) -> Iterator[Any]:
        node = option.member(name)
        return islice(self.values(node, above), 1, 2 * _VARIANTS) if node is not None else iter(())
