"""What was made of a text, remembered by the text, within a bound of characters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sized
from threading import Lock
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Sized)
_Made = TypeVar("_Made")
# What even the shortest costs, in characters.
_LEAST = 500


class Remembered(Generic[_Key, _Made]):
    """Calls `make` once for equal keys, while there is room for them: `most` characters. The least lately used go
    first.
    """

    def __init__(self, make: Callable[[_Key], _Made], most: int) -> None:
        self._make = make
        self._most = most
        self._size = 0
        self._made: OrderedDict[_Key, _Made] = OrderedDict()
        self._lock = Lock()

    def __call__(self, key: _Key) -> _Made:
        """Raises what `make` raises, and then remembers nothing."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        made = self._make(key)
        with self._lock:
            if key not in self._made:
                self._size += len(key) + _LEAST
            self._made[key] = made
            while self._size > self._most and len(self._made) > 1:
                dropped, _ = self._made.popitem(last=False)
                self._size -= len(dropped) + _LEAST
        return made

    def cache_clear(self) -> None:
        with self._lock:
            self._made.clear()
            self._size = 0
