"""What a value that is being read may still be, and what its objects and arrays may still hold."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import jsonschema_rs

from abruzzi.guide.examples import examples
from abruzzi.guide.node import Node, Option


class Thread(NamedTuple):
    """One of the options that a value may still be. `parents`: those of the container's threads that allow it."""

    option: Option
    checks: tuple[jsonschema_rs.Validator, ...]
    parents: tuple[int, ...]


class Members:
    """The names that one of an object's options still needs, and those that it has left where it lists them, sorted;
    kept up as members come.
    """

    __slots__ = ("left", "needed", "seen")

    def __init__(self, option: Option) -> None:
        self.needed = set(option.needed)
        self.left = None if option.sorted_names is None else list(option.sorted_names)
        self.seen = 0

    def take(self, option: Option, name: str, names: dict[str, None]) -> None:
        self.needed.discard(name)
        if option.dependents:
            self.needed |= option.follows(name) - names.keys()
        if self.left is not None:
            at = bisect_left(self.left, name)
            if self.left[at : at + 1] == [name]:
                del self.left[at]
        self.seen += 1


class Container:
    """An object or array that is open."""

    __slots__ = ("_members", "count", "holds_entry", "is_object", "key", "marked", "names", "threads")

    def __init__(self, threads: list[Thread], *, is_object: bool, marked: bool) -> None:
        self.threads = threads
        self.is_object = is_object
        self.marked = marked
        self.holds_entry = False  # whether the member or item that is being read is held from its comma
        self.names: dict[str, None] = {}
        self.key = ""
        self.count = 0
        self._members: dict[Option, Members] = {}

    def members(self, option: Option) -> Members:
        found = self._members.get(option)
        if found is None:
            found = self._members[option] = Members(option)
        if found.seen < len(self.names):
            for name in islice(reversed(self.names), len(self.names) - found.seen):
                found.take(option, name, self.names)
        return found


def threads_of(nodes: Sequence[Node | None]) -> list[Thread]:
    """The threads of a member or item that is one of these nodes: of the container's threads each has its own or
    none. What is the same from here on is followed once.
    """
    if len(nodes) == 1:
        node = nodes[0]
        return [] if node is None else [Thread(option, node.checks, (0,)) for option in node.options]
    parents: dict[Node, list[int]] = {}
    for i, node in enumerate(nodes):
        if node is not None:
            parents.setdefault(node, []).append(i)
    return [Thread(option, node.checks, tuple(own)) for node, own in parents.items() for option in node.options]


def has_value(node: Node) -> bool:
    """Whether a value of the node is known. Where none is, there may be none, though some begin like one."""
    if node.has_value is None:
        plain = not node.checks and any(map(_is_plain, node.options))
        node.has_value = plain or any(True for _ in examples(node))
    return node.has_value


def _is_plain(option: Option) -> bool:
    """Whether it is seen at once that there is a value."""
    kinds = option.kinds
    return bool(
        option.values
        or kinds & {"null", "boolean"}
        or ("string" in kinds and option.text is None)
        or ("number" in kinds and not any("multipleOf" in part.schema for part in option.parts))
        or ("object" in kinds and not option.needed and not option.size[0])
        or ("array" in kinds and not option.count[0])
    )


def names_needed(option: Option, container: Container) -> list[str]:
    """The names of the members that must still come."""
    needed = container.members(option).needed
    if len(needed) < 2:
        return list(needed)
    order = [name for name in option.known if name in needed]
    return [*order, *sorted(needed.difference(order))]


def may_end(option: Option, container: Container) -> bool:
    if not container.is_object:
        return container.count >= option.count[0]
    return container.count >= option.size[0] and not container.members(option).needed


def may_go_on(option: Option, container: Container) -> bool:
    """Whether another member or item may follow."""
    if not container.is_object:
        most = option.count[1]
        return (most is None or container.count < most) and option.item(container.count) is not None
    most = option.size[1]
    if most is not None and container.count >= most:
        return False
    names = names_left(option, container)
    return names is None or bool(names)


def names_left(option: Option, container: Container) -> list[str] | None:
    """The names that a next member may have, sorted; None where they aren't listed."""
    members, most = container.members(option), option.size[1]
    names = members.left
    if most is not None and most - container.count <= len(members.needed):
        names = sorted(members.needed)
    if names is None or not option.dependents:
        return names
    return [name for name in names if may_come(option, container, name)]


def may_come(option: Option, container: Container, name: str) -> bool:
    """Whether a member of this name is no second one, and leaves room for those that must come behind it."""
    if name in container.names:
        return False
    most = option.size[1]
    if most is None and not option.dependents:
        return True
    following = option.follows(name)
    if most is not None:
        needed = (container.members(option).needed | following) - container.names.keys() - {name}
        if container.count + 1 + len(needed) > most:
            return False
    return all(option.member(one) is not None for one in following)
