"""Plain ASGI: server-sent events out, and an end to the work when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType

from abruzzi.server.exchange import ClientLeft, Exchange

_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
# Seconds without a word after which a stream gets its head, so that what fails by then still has a status of its own;
# and between what keeps a silent one open through proxies.
_PATIENCE = 5.0
_KEEP_ALIVE = 15.0


class EventStream:
    """A response of server-sent events. It begins with the first of them, or when that has kept everybody waiting."""

    def __init__(self, exchange: Exchange, opening: bytes) -> None:
        self._exchange = exchange
        self._send = exchange.send
        self._opening = opening
        self._loop = asyncio.get_running_loop()
        self._said = self._loop.time()
        self._timer = self._loop.call_later(_PATIENCE, self._break_silence)
        self._filler: asyncio.Task[None] | None = None
        self._head = asyncio.Lock()
        self.has_begun = False

    async def __aenter__(self) -> EventStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep_quiet()

    async def send(self, events: bytes) -> None:
        """Whole events."""
        if not self.has_begun:
            events = await self._begin() + events
        if events:
            self._said = self._loop.time()
            await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self, events: bytes) -> None:
        """The last events."""
        self._keep_quiet()
        if not self.has_begun:
            events = await self._begin() + events
        self._exchange.is_whole = True
        await self._send({"type": "http.response.body", "body": events})

    async def _begin(self) -> bytes:
        """Send the head, if nothing that keeps it open has. Returns what must come first then."""
        async with self._head:
            if self.has_begun:
                return b""
            await self._exchange.start(200, _EVENTS)
            self.has_begun = True
            return self._opening

    def _break_silence(self) -> None:
        patience = _KEEP_ALIVE if self.has_begun else _PATIENCE
        rest = self._said + patience - self._loop.time()
        if rest <= 0 and (self._filler is None or self._filler.done()):
            self._filler = self._loop.create_task(
                self.send(self._exchange.dialect.keep_alive if self.has_begun else b"")
            )
        self._timer = self._loop.call_later(rest if rest > 0 else _KEEP_ALIVE, self._break_silence)

    def _keep_quiet(self) -> None:
        self._timer.cancel()
        if self._filler is not None:
            self._filler.cancel()


async def while_connected(exchange: Exchange, work: Awaitable[None]) -> None:
    """Do the work, and drop it at once when the client leaves."""
    watch = asyncio.get_running_loop().create_task(_watch(exchange))
    try:
        await work
    finally:
        watch.cancel()


async def _watch(exchange: Exchange) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
    exchange.end(ClientLeft())
