"""What was made of a text, remembered by the text, within a bound of characters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sized
from typing import Concatenate, Generic, ParamSpec, TypeVar

_Key = TypeVar("_Key", bound=Sized)
_More = ParamSpec("_More")
_Made = TypeVar("_Made")
# What even the shortest costs, in characters.
_LEAST = 500


class Remembered(Generic[_Key, _More, _Made]):
    """Calls `make` once for equal keys, while there is room for them: `most` characters. The least lately used go
    first. What else it is called with is handed on, and is the same where the key is.
    """

    def __init__(self, make: Callable[Concatenate[_Key, _More], _Made], most: int) -> None:
        self._make = make
        self._most = most
        self._size = 0  # about: threads may add to it at once
        self._made: OrderedDict[_Key, _Made] = OrderedDict()

    def __call__(self, key: _Key, *more: _More.args, **named: _More.kwargs) -> _Made:
        """Raises what `make` raises, and then remembers nothing."""
        try:
            made = self._made[key]
            self._made.move_to_end(key)
            return made
        except KeyError:  # or another thread has just dropped it
            pass
        made = self._made[key] = self._make(key, *more, **named)
        self._size += len(key) + _LEAST
        if self._size > self._most:
            self._drop()
        return made

    def _drop(self) -> None:
        """An eighth more than it must: all are counted for it, which would take long for each of thousands."""
        self._size = sum(len(key) + _LEAST for key in tuple(self._made))
        while self._size > self._most * 7 // 8 and len(self._made) > 1:
            dropped, _ = self._made.popitem(last=False)
            self._size -= len(dropped) + _LEAST

    def cache_clear(self) -> None:
        self._made.clear()
        self._size = 0
