"""Plain ASGI: a request's body in, server-sent events out, and an end to the work when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Any

from abruzzi.server.body import parse
from abruzzi.server.exchange import ClientLeft, Exchange
from abruzzi.server.refusals import BodyTooLarge, BodyTooSlow, NotJson

_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
# Seconds without a word after which a stream gets its head, so that what fails by then still has a status of its own;
# and between the comments that keep a silent one open through proxies.
_PATIENCE = 5.0
_COMMENTS = 15.0
# Seconds that a client may be silent in the midst of its body.
_BODY_SILENCE = 30.0


async def read_json(exchange: Exchange, most: int) -> dict[str, Any]:
    """The body's object. Raises RequestError, or ClientLeft."""
    headers = exchange.headers
    kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise NotJson(f"expected the Content-Type application/json, got {kind.decode('latin-1')[:100]}")
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding != b"identity":
        raise NotJson(f"expected a body without Content-Encoding, got {coding.decode('latin-1')[:100]}")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > most:
        raise _too_large(most)
    body = await read_body(exchange, most)
    # A long one takes a while, and others are being served meanwhile.
    return parse(body) if len(body) < 100_000 else await asyncio.to_thread(parse, body)


async def read_body(exchange: Exchange, most: int) -> bytes:
    """The whole body. Raises BodyTooLarge, BodyTooSlow, or ClientLeft."""
    parts: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_BODY_SILENCE) as patience:
            while True:
                message = await exchange.receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise _too_large(most)
                if not message.get("more_body"):
                    return b"".join(parts)
                patience.reschedule(loop.time() + _BODY_SILENCE)
    except TimeoutError:
        raise BodyTooSlow(f"nothing more of the body came for {_BODY_SILENCE:g} s") from None


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"expected a body of at most {most:,} bytes")


class EventStream:
    """A response of server-sent events. It begins with the first of them, or when that has kept everybody waiting."""

    def __init__(self, exchange: Exchange, opening: bytes) -> None:
        self._exchange = exchange
        self._send = exchange.send
        self._opening = opening
        self._loop = asyncio.get_running_loop()
        self._said = self._loop.time()
        self._timer = self._loop.call_later(_PATIENCE, self._break_silence)
        self._comment: asyncio.Task[None] | None = None
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
        """Send the head, if no comment has. Returns what must come first then."""
        async with self._head:
            if self.has_begun:
                return b""
            await self._exchange.start(200, _EVENTS)
            self.has_begun = True
            return self._opening

    def _break_silence(self) -> None:
        patience = _COMMENTS if self.has_begun else _PATIENCE
        rest = self._said + patience - self._loop.time()
        if rest <= 0 and (self._comment is None or self._comment.done()):
            self._comment = self._loop.create_task(self.send(b": still at work\n\n" if self.has_begun else b""))
        self._timer = self._loop.call_later(rest if rest > 0 else _COMMENTS, self._break_silence)

    def _keep_quiet(self) -> None:
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()


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
