"""A server of tests on a real socket, in a thread of its own: HTTP/1.1 as an engine's server speaks it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import Any, Self

import httptools

from abruzzi.server import listener

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error", 503: "Service Unavailable"}


@dataclass(frozen=True)
class Reply:
    """A response that comes whole."""

    status: int
    body: bytes = b""
    kind: str = "application/json"


def of_json(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value, ensure_ascii=False).encode())


def event(value: Any) -> bytes:
    """A server-sent event of JSON, or of text as it is."""
    return b"data: %s\n\n" % (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()


Stream = AsyncGenerator[bytes, None]
"""Server-sent events. One that raises breaks the response off, where the client waits for more of it."""


class Standin:
    """Serves while it is entered: `with Standin() as server`. What it notes may be read from any thread."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        """The bodies of all requests for a completion, refused ones too."""
        self.cancelled = 0
        """Responses whose client went away before they were whole."""
        self.changed = threading.Condition()
        """Notified of each new one of both."""
        self._socket = listener.listen("127.0.0.1", 0)
        self._loop = asyncio.new_event_loop()
        self._connections: set[_Connection] = set()
        self.root = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"{self.root}/v1"

    def until(self, *, asked: int = 0, cancelled: int = 0, seconds: float = 10) -> bool:
        """Wait for so many; whether they came."""
        with self.changed:
            return self.changed.wait_for(
                lambda: len(self.asked) >= asked and self.cancelled >= cancelled, timeout=seconds
            )

    def answer(self, method: str, path: str, body: bytes) -> Awaitable[Reply | Stream]:
        raise NotImplementedError

    def note(self, *, asked: dict[str, Any] | None = None, cancelled: int = 0) -> None:
        with self.changed:
            self.cancelled += cancelled
            if asked is not None:
                self.asked.append(asked)
            self.changed.notify_all()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve, args=(self._socket,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._socket.close()

    def _serve(self, listening: socket.socket) -> None:
        async def close() -> None:
            server.close()
            for connection in tuple(self._connections):
                connection.abort()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        server = self._loop.run_until_complete(self._loop.create_server(lambda: _Connection(self), sock=listening))
        self._loop.run_forever()
        self._loop.run_until_complete(close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


class _Connection(asyncio.Protocol):
    """One client's, kept for its next request; that it is gone is noticed at once."""

    def __init__(self, standin: Standin) -> None:
        self._standin = standin
        self._parser = httptools.HttpRequestParser(self)
        self._answering: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._standin._connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._standin._connections.discard(self)
        if self._answering is not None and not self._answering.done():
            self._answering.cancel()
            self._standin.note(cancelled=1)

    def abort(self) -> None:
        self._answering = None
        self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method, path = self._parser.get_method().decode(), self._url.decode()
        self._answering = asyncio.ensure_future(self._answer(method, path, self._body))

    async def _answer(self, method: str, path: str, body: bytes) -> None:
        reply = await self._standin.answer(method, path, body)
        if isinstance(reply, Reply):
            head = f"HTTP/1.1 {reply.status} {_REASONS[reply.status]}\r\ncontent-type: {reply.kind}\r\n"
            self._transport.write(f"{head}content-length: {len(reply.body)}\r\n\r\n".encode() + reply.body)
            return
        kind = "text/event-stream; charset=utf-8"
        self._transport.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        try:
            async for data in reply:
                self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))
                await self._writable.wait()
        except BrokenOff:
            self._answering = None
            self._transport.close()
            return
        self._transport.write(b"0\r\n\r\n")


class BrokenOff(Exception):
    """The engine fails in the midst of a stream and ends the connection."""
