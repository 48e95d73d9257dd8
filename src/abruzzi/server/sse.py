"""Plain ASGI: a request's body in, JSON or server-sent events out, and an end to the work when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
from starlette.types import Receive, Send

from abruzzi.protocol.errors import RequestError

MAX_BODY = 64 << 20
_JSON = [(b"content-type", b"application/json")]
_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class BodyTooLarge(RequestError):
    """The request's body is longer than `MAX_BODY` bytes."""

    status = 413


class ClientLeft(Exception):
    """The client closed its connection before it had sent or got everything."""


async def read_body(receive: Receive) -> bytes:
    """The whole body. Raises BodyTooLarge, or ClientLeft."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise BodyTooLarge(f"expected a body of at most {MAX_BODY:,} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def send_json(send: Send, status: int, value: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """A whole response."""
    body = msgspec.json.encode(value)
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*_JSON, length, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})


async def start_events(send: Send) -> None:
    """The head of a stream; `send_event` and `end_events` follow."""
    await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})


async def send_event(send: Send, value: Any) -> None:
    await send(
        {"type": "http.response.body", "body": b"data: " + msgspec.json.encode(value) + b"\n\n", "more_body": True}
    )


async def end_events(send: Send) -> None:
    """OpenAI's own last line, and the end."""
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


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
