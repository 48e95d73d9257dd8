"""llama.cpp's slots, each with a key-value cache of what it read last."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence


class Slots:
    """Who has which slot. A request gets the free one whose cache shares the longest prefix with its prompt.

    Slots are taken in an event loop and given back by a worker's thread, which may outlive that loop.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, Sequence[int]] = dict.fromkeys(range(count), ())
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = deque()

    async def take(self, ids: Sequence[int]) -> int:
        while True:
            with self._lock:
                if self._free:
                    slot = max(self._free, key=lambda free: (_common(self._free[free], ids), -len(self._free[free])))
                    del self._free[slot]
                    return slot
                given_back = asyncio.Event()
                self._waiting.append((asyncio.get_running_loop(), given_back))
            await given_back.wait()

    def give_back(self, slot: int, ids: Sequence[int]) -> None:
        with self._lock:
            self._free[slot] = ids
            # All who wait look again: one of them may have left, and would take the only wake-up with it.
            waiting, self._waiting = self._waiting, deque()
        for loop, given_back in waiting:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(given_back.set)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    length = min(len(a), len(b))
    return next((i for i in range(length) if a[i] != b[i]), length)
