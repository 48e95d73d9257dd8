"""Requests on their way in: how long a body may take, how much of all bodies is kept, and when a request counts as one
that a model is answering.
"""

from __future__ import annotations

import asyncio
from typing import Any

from abruzzi.server.body import parse
from abruzzi.server.exchange import ClientLeft, Exchange
from abruzzi.server.refusals import BodyTooLarge, BodyTooSlow, NoRoom, NotJson, TooMany
from abruzzi.server.settings import Settings

# Seconds that a client may be silent in the midst of its body, and bytes a second that it has to come to beside them:
# less than any line has on which somebody sends megabytes.
_SILENCE = 30.0
_LEAST_RATE = 16_384
# Bytes of each body that are always taken: as many wait in its connection's buffer anyway. So requests of usual length
# find room whatever others send.
_FREE = 65_536
# Bodies of the greatest length that may be on their way at once.
_BODIES = 4
# Bytes that take more than a millisecond or two to read.
_LONG = 100_000


class Intake:
    """Takes requests in: their bodies as long as there is room, and no more of them than are to be answered at once."""

    def __init__(self, settings: Settings) -> None:
        self.reading: dict[Exchange, int] = {}
        """The requests whose body is on its way, or that no model answers, and the bytes that are kept of each body,
        without those that are free.
        """
        self.open: set[Exchange] = set()
        """The requests that a model is answering."""
        self._max_body = settings.max_body
        self._max_open = settings.max_concurrent
        self._room = _BODIES * settings.max_body

    async def read(self, exchange: Exchange, *, is_work: bool = True) -> dict[str, Any]:
        """The body's object; from then on the request counts as open. One that asks no model doesn't (`is_work`), and
        keeps the room that its body took until it is over.

        Raises RequestError for a body that can't be taken, ClientLeft, NoRoom, and TooMany: before the body is read,
        or behind it where others were faster.
        """
        if is_work:
            self._check_open()
        self._check_head(exchange)
        self.reading[exchange] = 0
        try:
            body = await self._whole(exchange)
            exchange.is_long = len(body) >= _LONG
            # A long one takes a while, and others are being served meanwhile.
            value = await asyncio.to_thread(parse, body) if exchange.is_long else parse(body)
        except BaseException:
            self._let_go(exchange)
            raise
        if is_work:
            self._let_go(exchange)
            self._check_open()
            self.open.add(exchange)
        return value

    def leave(self, exchange: Exchange) -> None:
        """The request is over."""
        self.open.discard(exchange)
        self._let_go(exchange)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way."""
        return not (self.open or self.reading)

    def _check_open(self) -> None:
        if len(self.open) >= self._max_open:
            raise TooMany(f"{len(self.open):,} requests are being answered, and more are not taken", 1)

    def _check_head(self, exchange: Exchange) -> None:
        headers = exchange.headers
        kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        if kind != b"application/json" and not kind.endswith(b"+json"):
            raise NotJson(f"expected the Content-Type application/json, got {kind.decode('latin-1')[:100]}")
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding != b"identity":
            raise NotJson(f"expected a body without Content-Encoding, got {coding.decode('latin-1')[:100]}")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()

    async def _whole(self, exchange: Exchange) -> bytes:
        body = bytearray()  # not a list of pieces: those of two bytes would take twenty times the room
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout_at(began + _SILENCE) as patience:
                while True:
                    message = await exchange.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    body += message.get("body", b"")
                    if len(body) > self._max_body:
                        raise self._too_large()
                    self._keep(exchange, len(body))
                    if not message.get("more_body"):
                        return bytes(body)
                    patience.reschedule(min(loop.time(), began + len(body) / _LEAST_RATE) + _SILENCE)
        except TimeoutError:
            raise BodyTooSlow(
                f"expected more of the body within {_SILENCE:g} s, and {_LEAST_RATE:,} bytes a second beside these: got"
                f" {len(body):,} bytes in {loop.time() - began:.1f} s"
            ) from None

    def _keep(self, exchange: Exchange, length: int) -> None:
        """Note how long a body has become."""
        more = max(0, length - _FREE) - self.reading[exchange]
        if more > self._room:
            raise NoRoom("too much of other requests is on its way for another long one: come again")
        self._room -= more
        self.reading[exchange] += more

    def _let_go(self, exchange: Exchange) -> None:
        """Its body needs no room any more."""
        self._room += self.reading.pop(exchange, 0)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"expected a body of at most {self._max_body:,} bytes")
