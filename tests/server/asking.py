"""Requests to a served engine, byte by byte where it matters."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.conftest import Served

Serve = Callable[..., Served]
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
HELLO: Any = {"messages": [{"role": "user", "content": "Hello!"}]}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    served: Served | int,
    path: str = CHAT,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own. Without a body it is a GET, but for the chat path."""
    port = served if isinstance(served, int) else served.port
    if body is None and path == CHAT and method is None:
        body = HELLO
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method or ("GET" if data is None else "POST"), path, data, headers or {})
        with connection.getresponse() as response:
            return Answer(response.status, response.headers, response.read())


def streamed(**more: Any) -> dict[str, Any]:
    """A body that asks for a stream."""
    return {**HELLO, "stream": True, **more}


@contextlib.contextmanager
def raw(port: int, body: dict[str, Any], path: str = CHAT) -> Iterator[socket.socket]:
    """A connection on which a request has been sent, and nothing been read."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head.encode() + data)
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Up to the end of the connection."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)
