"""An HTTP/1.1 connection of the client's, and the response that comes on it."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

import httptools

# Below uvicorn's 5 s (vLLM, SGLang, TensorRT-LLM): a connection isn't taken again just when the engine gives it up.
_KEPT_SECONDS = 4.0
# How long the end of a response that is given back is waited for, so that its connection can be used again.
_LINGER_SECONDS = 0.2
# Bytes: of a response's head, or between two parts of its body; of a body that nobody has read yet, beyond which the
# server has to wait.
_MAX_HEAD = 64 << 10
_MAX_WAITING = 256 << 10


class BrokenOff(ConnectionError):
    """The connection ended, or made no sense, before the response was whole."""


class Silence(TimeoutError):
    """Nothing came for as long as one is willing to wait."""


class Owner(Protocol):
    """Who holds a connection between two requests."""

    loop: asyncio.AbstractEventLoop
    silence_seconds: float

    def keep(self, response: Response) -> None:
        """It may serve again."""
        ...

    def forget(self, response: Response) -> None:
        """It has ended."""
        ...


class Response(asyncio.Protocol):
    """A connection, and the response that comes on it. Who asked for it calls `close` in the end, once: from then on
    the connection may be another's.
    """

    def __init__(self, pool: Owner) -> None:
        self._pool = pool
        self._loop = pool.loop
        self._patience = pool.silence_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._idle = True
        self._reading = True

    # The request

    def ask(self, head: bytes, body: bytes) -> None:
        """Send a request. The response's head is there after `begun`."""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._bare = 0  # bytes behind which nothing of the body has come
        self._parts: list[bytes] = []
        self._size = 0
        self._idle, self._whole, self._lingers, self._is_kept = False, False, False, False
        self._parser: Any = httptools.HttpResponseParser(self)
        self._heard = self._loop.time()
        self._set_timer(self._patience, self._break_silence)  # in place of the one that ends what nobody uses
        if self._transport.is_closing():  # nobody may tell of its end any more
            self._fail(BrokenOff("the connection was ended, or spoken on, before it was asked"))
        else:
            self._transport.writelines((head, body))

    async def begun(self) -> None:
        """Wait for the head. Raises BrokenOff and Silence."""
        while not self.status:
            await self._wait()
        encoding = self.headers.get(b"content-encoding", b"identity").lower()
        if encoding != b"identity":
            raise BrokenOff(f"the answer came as {encoding.decode('latin-1')[:40]}, which it wasn't asked for")

    # The response

    @property
    def has_begun(self) -> bool:
        """Whether anything has come of it."""
        return bool(self.status or self._bare)

    async def read(self) -> bytes:
        """What has come of the body since, at least a byte; nothing where it is whole. Raises BrokenOff and Silence,
        each behind all that came before.
        """
        while not self._parts:
            if self._whole:
                return b""
            await self._wait()
        parts, self._parts, self._size = self._parts, [], 0
        self._go_on()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def rest(self, most: int) -> bytes:
        """The whole body that is left. Raises BrokenOff where it is longer than `most` bytes."""
        parts, size = [], 0
        while part := await self.read():
            parts.append(part)
            size += len(part)
            if size > most:
                raise BrokenOff(f"the answer is longer than {most:,} bytes")
        return b"".join(parts)

    def close(self, *, lingers: bool = False) -> None:
        """Nothing more of the response is wanted. Where it is whole the connection is kept, where its end is near
        (`lingers`) that is waited for; else the connection ends, and a server that is still at work stops at once.
        """
        if self._whole:
            self._keep()
        elif lingers:
            self._lingers = True
            self._set_timer(_LINGER_SECONDS, self.abort)
            self._go_on()
        else:
            self.abort()

    def abort(self) -> None:
        """End the connection."""
        self._set_timer()
        self._transport.abort()

    def _go_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._heard = self._loop.time()  # the silence until now was ours
            self._transport.resume_reading()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._transport.abort()
        self._wake()

    def _set_timer(self, seconds: float = 0.0, what: Any = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if what is None else self._loop.call_later(seconds, what)

    def _break_silence(self) -> None:
        """The timer isn't set anew with all that comes: it looks when the last of it did."""
        rest = self._heard + self._patience - self._loop.time()
        if rest > 0 or not self._reading:
            return self._set_timer(max(rest, 1.0), self._break_silence)
        self._fail(Silence(f"said nothing for {self._patience:g} s"))

    def _keep(self) -> None:
        """Back into the pool, where the server keeps the connection. One that answered before it had all of the request
        may never read the rest, behind which the next would wait.
        """
        self._idle = True
        self._parts.clear()
        self._go_on()
        if self._is_kept and not (self._transport.is_closing() or self._transport.get_write_buffer_size()):
            self._pool.keep(self)
            self._set_timer(_KEPT_SECONDS, self.abort)
        else:
            self.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._idle:
            return self._transport.abort()  # nobody asked
        self._heard = self._loop.time()
        self._bare += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._is_kept = False
            return self._fail(BrokenOff(f"what came is no HTTP: {error}"))
        except httptools.HttpParserUpgrade:
            return self._fail(BrokenOff("the server went over to another protocol, which it wasn't asked for"))
        if self._bare > _MAX_HEAD and not self._whole:
            what = "what stands between parts of the answer" if self.status else "the head of the answer"
            return self._fail(BrokenOff(f"{what} is longer than {_MAX_HEAD:,} bytes"))
        if self._lingers:
            self._parts.clear()
            if self._whole:
                self._keep()
        elif self._size > _MAX_WAITING and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._set_timer()
        self._pool.forget(self)
        if self._idle or self._whole:
            return
        if self._error is None:
            if error is None and self.status and not {b"content-length", b"transfer-encoding"} & self.headers.keys():
                self._whole = True  # a body without a length ends with the connection
            else:
                self._error = BrokenOff("the connection ended before the answer did")
        self._wake()

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # behind the body come other fields
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._whole:
            raise ValueError("another answer came behind the first")
        if status >= 200:  # others only announce it
            self.status = status
            self._wake()

    def on_body(self, data: bytes) -> None:
        self._bare = 0
        self._parts.append(data)
        self._size += len(data)
        self._wake()

    def on_message_complete(self) -> None:
        if self.status:
            self._whole = True
            self._is_kept = self._parser.should_keep_alive()
            self._wake()
        else:
            self.headers.clear()
