"""Plain ASGI: a request's body in, JSON or server-sent events out, and an end to the work when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from types import TracebackType
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from abruzzi.protocol.errors import RequestError
from abruzzi.server.body import parse

_JSON = [(b"content-type", b"application/json")]
_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
# Seconds without a word after which a stream gets its head, so that what fails by then still has a status of its own;
# and between the comments that keep a silent one open through proxies.
_PATIENCE = 5.0
_COMMENTS = 15.0


class BodyTooLarge(RequestError):
    """The request's body is too long."""

    status = 413


class NotJson(RequestError):
    """The request says that its body is no JSON."""

    status = 415


class ClientLeft(Exception):
    """The client closed its connection before it had sent or got everything."""


async def read_json(scope: Scope, receive: Receive, most: int) -> dict[str, Any]:
    """The body's object. Raises RequestError, or ClientLeft."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"application/json")
    if b"json" not in kind.lower():
        raise NotJson(f"expected the Content-Type application/json, got {kind.decode('latin-1')}")
    body = await read_body(receive, most)
    # A long one takes a while, and others are being served meanwhile.
    return parse(body) if len(body) < 100_000 else await asyncio.to_thread(parse, body)


async def read_body(receive: Receive, most: int) -> bytes:
    """The whole body. Raises BodyTooLarge, or ClientLeft."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise BodyTooLarge(f"expected a body of at most {most:,} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def send_json(send: Send, status: int, value: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """A whole response."""
    body = msgspec.json.encode(value)
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*_JSON, length, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})


class EventStream:
    """A response of server-sent events. It begins with the first of them, or when that has kept everybody waiting."""

    def __init__(self, send: Send, opening: bytes) -> None:
        self._send = send
        self._opening = opening
        self._said = 0.0
        self.has_begun = False

    async def __aenter__(self) -> EventStream:
        self._said = asyncio.get_running_loop().time()
        self._keeper = asyncio.create_task(self._keep_open())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper

    async def send(self, events: bytes) -> None:
        """Whole events."""
        if not self.has_begun:
            self.has_begun = True
            events = self._opening + events
            await self._send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        if events:
            self._said = asyncio.get_running_loop().time()
            await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self, events: bytes) -> None:
        """The last events."""
        if not self.has_begun:
            await self.send(b"")
        self._keeper.cancel()
        await self._send({"type": "http.response.body", "body": events})

    async def _keep_open(self) -> None:
        while True:
            patience = _COMMENTS if self.has_begun else _PATIENCE
            silence = asyncio.get_running_loop().time() - self._said
            if silence < patience:
                await asyncio.sleep(patience - silence)
            else:
                await self.send(b": still at work\n\n" if self.has_begun else b"")


async def while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work, and drop it at once when the client leaves."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
    if not task.cancelled():
        task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
