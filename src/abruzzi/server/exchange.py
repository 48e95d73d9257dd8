"""A request and what becomes of it: for who answers it, and for who counts or logs it afterwards."""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from abruzzi.chat import Report
from abruzzi.chat.report import usage_of
from abruzzi.engines.base import Usage
from abruzzi.protocol.errors import AbruzziError
from abruzzi.server.dialect import Call, Dialect
from abruzzi.server.refusals import Headers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_ID = re.compile(rb"[ -~]{1,128}")
_JSON = b"application/json"
# Seconds that a client had better wait before it tries an engine again that is down and doesn't say how long.
_RETRY_AFTER = 5


def _as_it_is(error: AbruzziError) -> AbruzziError:
    return error


class ClientLeft(Exception):
    """The client closed its connection before it had sent or got everything."""


@dataclass(slots=True, eq=False)
class Exchange:
    """`dialect` is the one that its errors are told in."""

    scope: Scope
    receive: Receive
    send: Send
    dialect: Dialect
    headers: Mapping[bytes, bytes]
    """The request's; of one that came twice, the last."""
    path: str
    """As it is counted: one of the server's own, or `other`."""
    id: str = ""
    began: float = field(default_factory=time.perf_counter)
    at: float = field(default_factory=time.time)
    key: bytes | None = None
    """The digest of the client's key, where it has one."""
    is_trusted: bool = False
    """Whether the client may see what runs here."""
    outward: Callable[[AbruzziError], AbruzziError] = _as_it_is
    """What the client is told of an error."""
    status: int = 0
    """Of the response; 0 where the client left before there was one."""
    is_whole: bool = False
    """Whether the response has been written to its end."""
    streamed: bool = False
    first: float | None = None
    """When the first of a streamed answer went out."""
    call: Call | None = None
    body: Mapping[str, Any] | None = None
    is_long: bool = False
    """Whether what is done with all of the body takes a while, and had better be done beside other work."""
    reports: dict[int, Report] = field(default_factory=dict)
    """One for each answer that became whole, by its index."""
    finish_reasons: list[str] = field(default_factory=list)
    error: BaseException | None = None
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """What goes with the response whatever it is."""
    _task: asyncio.Task[Any] | None = field(default_factory=asyncio.current_task)
    _reason: Exception | None = None

    def __post_init__(self) -> None:
        given = self.headers.get(b"x-request-id", b"")
        self.id = given.decode() if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        name = self.id.encode()
        # Anthropic's clients look for the second.
        self.response_headers += [(b"x-request-id", name), (b"request-id", name)]

    def end(self, reason: Exception) -> None:
        """Stop the work on it. Who does it finds the reason with `interrupted`."""
        if not self.is_whole and self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()

    def forget(self) -> None:
        """It is over. An error's traceback leads back here, in a circle with all that was read: megabytes would wait
        for the garbage collector.
        """
        self.error = self._reason = None

    def interrupted(self) -> Exception | None:
        """Why the task was cancelled; None where it wasn't by `end`."""
        if self._reason is not None and self._task is not None:
            self._task.uncancel()
        return self._reason

    @property
    def usage(self) -> Usage:
        """What the answers cost that became whole, as the client is told."""
        return usage_of(self.reports, 1 if self.call is None else self.call.answers)

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The response's head."""
        self.status = status
        await self.send(
            {"type": "http.response.start", "status": status, "headers": [*headers, *self.response_headers]}
        )

    async def answer(
        self, status: int, body: bytes, kind: bytes = _JSON, headers: Headers | list[tuple[bytes, bytes]] = ()
    ) -> None:
        """A whole response."""
        length = str(len(body)).encode()
        await self.start(status, [(b"content-type", kind), (b"content-length", length), *headers])
        self.is_whole = True
        await self.send({"type": "http.response.body", "body": body})

    async def answer_json(self, status: int, value: Any, headers: Headers = ()) -> None:
        """A whole response of JSON."""
        await self.answer(status, msgspec.json.encode(value), _JSON, headers)

    async def refuse(self, error: AbruzziError) -> None:
        """An error, in the dialect's form."""
        self.error = error
        headers: Headers = getattr(error, "headers", ()) or _retry_after(error)
        await self.answer_json(error.status, self.dialect.error(self.outward(error)), headers)


def _retry_after(error: AbruzziError) -> Headers:
    if error.status not in (429, 503):
        return ()
    seconds = getattr(error, "retry_after", None)
    return ((b"retry-after", str(_RETRY_AFTER if seconds is None else math.ceil(seconds)).encode()),)
