"""What a value that is being read may still be, and what its objects and arrays may still hold."""

from __future__ import annotations

from typing import NamedTuple

import jsonschema_rs

from abruzzi.guide.node import Node, Option


class Thread(NamedTuple):
    """One of the options that a value may still be. `parents`: those of the container's threads that allow it."""

    option: Option
    checks: tuple[jsonschema_rs.Validator, ...]
    parents: tuple[int, ...]


class Container:
    """An object or array that is open."""

    __slots__ = ("count", "is_object", "key", "marked", "names", "threads")

    def __init__(self, threads: list[Thread], *, is_object: bool, marked: bool) -> None:
        self.threads = threads
        self.is_object = is_object
        self.marked = marked
        self.names: set[str] = set()
        self.key = ""
        self.count = 0


def threads_of(node: Node, parents: tuple[int, ...]) -> list[Thread]:
    return [Thread(option, node.checks, parents) for option in node.options]


def names_needed(option: Option, container: Container, name: str | None = None) -> list[str]:
    """The names of the members that must still come, behind one of this name, if any."""
    there = container.names if name is None else container.names | {name}
    needed = option.required - there
    if option.dependents:
        reached = there | needed
        while more := frozenset().union(*(option.dependents.get(one, ()) for one in reached)) - reached:
            reached = reached | more
        needed = frozenset(reached - there)
    if len(needed) < 2:
        return list(needed)
    order = [name for name in option.known if name in needed]
    return [*order, *sorted(needed - set(order))]


def may_end(option: Option, container: Container) -> bool:
    if not container.is_object:
        return container.count >= option.count[0]
    return container.count >= option.size[0] and not names_needed(option, container)


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
    """The names that a next member may have; None where they aren't listed."""
    most, names = option.size[1], option.names
    if most is not None and most - container.count <= len(needed := names_needed(option, container)):
        names = tuple(needed)
    return None if names is None else [name for name in names if may_come(option, container, name)]


def may_come(option: Option, container: Container, name: str) -> bool:
    """Whether a member of this name is no second one, and leaves room for those that must come behind it."""
    if name in container.names:
        return False
    most = option.size[1]
    if most is None and not option.dependents:
        return True
    needed = names_needed(option, container, name)
    if most is not None and container.count + 1 + len(needed) > most:
        return False
    return not option.dependents or all(option.member(one) is not None for one in needed)
