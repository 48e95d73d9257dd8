"""How much is taken on: requests at once, and requests a minute from one caller."""

from __future__ import annotations

import ipaddress
import math
import re
import time
from typing import Any, NamedTuple

from abruzzi.protocol.errors import RequestError
from abruzzi.server.refusals import TooMany

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|sec|second|m|min|minute|h|hour))?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
# Callers that are remembered. Who is forgotten begins anew with a full bucket.
_MAX_CALLERS = 65_536


class Rate(NamedTuple):
    """So many requests in so many seconds."""

    requests: float
    seconds: float = 60.0

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Of `60/min`, `2/s`, `1000/h`, or a bare number, which is a minute's. Raises RequestError."""
        found = _RATE.fullmatch(text.strip())
        if not found or not float(found[1]):
            raise RequestError(f"expected a rate such as 60/min, got {text!r}")
        return cls(float(found[1]), _SECONDS[(found[2] or "m")[0]])


class Buckets:
    """A token bucket a caller: all the requests of a rate may come at once, and it fills up steadily."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._size = max(rate.requests, 1.0)
        self._a_second = rate.requests / rate.seconds
        self._buckets: dict[object, tuple[float, float]] = {}

    def take(self, caller: object) -> None:
        """One request. Raises TooMany, with the time until there is another."""
        now = time.monotonic()
        left, when = self._buckets.pop(caller, (self._size, now))
        left = min(self._size, left + (now - when) * self._a_second)
        # Put in last, so that the first is the one that has been silent for longest.
        self._buckets[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_CALLERS:
            del self._buckets[next(iter(self._buckets))]
        if left < 1:
            wait = math.ceil((1 - left) / self._a_second)
            raise TooMany(
                f"more than {self._rate.requests:g} requests in {self._rate.seconds:g} s: another may come in {wait} s",
                wait,
            )


def address(client: Any) -> str:
    """The caller of a connection. Who has an IPv6 address has 2^64 of them."""
    host = str(client[0]) if client else ""
    return str(ipaddress.ip_network(f"{host}/64", strict=False)) if ":" in host and "%" not in host else host
