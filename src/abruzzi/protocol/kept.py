"""Values that nobody changes, and what is made of them: once, and kept with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

_Value = TypeVar("_Value")
_Made = TypeVar("_Made")


class Kept:
    """A value that nobody changes, nor anything in it. It is remembered where it is read: what is long and comes with
    every request, as tools do, is the same object each time.
    """

    _made: dict[Callable[..., Any], Any] | None = None


class KeptList(Kept, list[Any]):
    """A list of JSON's."""


def made_of(value: _Value, make: Callable[[_Value], _Made]) -> _Made:
    """What `make`, a function that is there to stay, makes of the value: once where that is a kept one. Raises what
    `make` raises, and then keeps nothing.
    """
    if not isinstance(value, Kept):
        return make(value)
    if value._made is None:
        value._made = {}
    if make not in value._made:
        value._made[make] = make(value)
    return cast(_Made, value._made[make])
