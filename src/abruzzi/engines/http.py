"""An HTTP/1.1 client for one server: a request's body out, the response's as it comes, on connections that are kept.

`httptools` reads what comes, as it does for the server in front. A stream of tokens is many small reads, and what each
of them costs is most of what there is between an engine and its client: nothing lies here between the socket and who
reads the response.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

# Below uvicorn's 5 s (vLLM, SGLang, TensorRT-LLM): a connection isn't taken again just when the engine gives it up.
_KEPT_SECONDS = 4.0
# How long the end of a response that is given back is waited for, so that its connection can be used again.
_LINGER_SECONDS = 0.2
# Bytes: of a response's head; of a body that nobody has read yet, beyond which the server has to wait.
_MAX_HEAD = 64 << 10
_MAX_WAITING = 256 << 10


class Unreachable(ConnectionError):
    """There is no connection to the server."""


class BrokenOff(ConnectionError):
    """The connection ended, or made no sense, before the response was whole."""


class Silence(TimeoutError):
    """Nothing came for as long as one is willing to wait."""


class Response(asyncio.Protocol):
    """A connection, and the response that comes on it. Who asked for it calls `close` in the end, once: from then on
    the connection may be another's.
    """

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._loop = pool.loop
        self._patience = pool.client.silence_seconds
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
        self._head_size = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._idle, self._whole, self._lingers, self._is_kept = False, False, False, False
        self._parser: Any = httptools.HttpResponseParser(self)
        self._heard = self._loop.time()
        self._set_timer(self._patience, self._break_silence)  # in place of the one that ends what nobody uses
        self._transport.writelines((head, body))

    async def begun(self) -> None:
        """Wait for the head. Raises BrokenOff and Silence."""
        while not self.status:
            await self._wait()

    # The response

    @property
    def has_begun(self) -> bool:
        """Whether anything has come of it."""
        return self._head_size > 0

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
            self._pool.idle.append(self)
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
        if not self.status:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._is_kept = False
            return self._fail(BrokenOff(f"what came is no HTTP: {error}"))
        except httptools.HttpParserUpgrade:
            return self._fail(BrokenOff("the server went over to another protocol, which it wasn't asked for"))
        if not self.status and self._head_size > _MAX_HEAD:
            return self._fail(BrokenOff(f"the head of the answer is longer than {_MAX_HEAD:,} bytes"))
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
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._whole:
            raise ValueError("another answer came behind the first")
        if status >= 200:  # others only announce it
            self.status = status
            self._wake()

    def on_body(self, data: bytes) -> None:
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


class _Pool:
    """The connections of an event loop."""

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self.loop = loop
        self.open: set[Response] = set()
        self.idle: list[Response] = []

    def forget(self, response: Response) -> None:
        self.open.discard(response)
        if response in self.idle:
            self.idle.remove(response)

    async def close(self) -> None:
        for response in tuple(self.open):
            response.abort()
        await asyncio.sleep(0)  # the sockets are closed in the loop's next round


@dataclass
class Client:
    """Asks the server at a URL. Event loops of several threads, and one after another, may share it: each has its own
    connections. A redirect isn't followed: it leads to another server than the one that was named.
    """

    url: str
    connect_seconds: float
    silence_seconds: float
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path
        host = parts.netloc.rpartition("@")[2]
        fields = [("host", host), ("accept", "*/*"), ("accept-encoding", "identity"), *self.headers]
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self._pools: dict[asyncio.AbstractEventLoop, tuple[_Pool, AsyncGenerator[_Pool, None]]] = {}

    async def post(self, path: str, body: bytes) -> Response:
        """The response to a body of JSON, as soon as its head is there. Raises Unreachable, BrokenOff and Silence.

        A connection that had been kept may be given up by the server just as it is used: then the request goes out once
        more, on a new one. A server that is gone by then is one that broke off: the request may be what ended it.
        """
        pool = await self._pool()
        head = (
            f"POST {self._path}{path} HTTP/1.1\r\n{self._fields}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        given_up: BrokenOff | None = None
        if pool.idle:
            response = pool.idle.pop()
            try:
                return await _answered(response, head, body)
            except BrokenOff as error:
                if response.has_begun:
                    raise
                given_up = error
        try:
            response = await self._connect(pool)
        except Unreachable as error:
            raise given_up or error from error.__cause__
        return await _answered(response, head, body)

    async def reach(self) -> None:
        """Look whether there is a server. Raises Unreachable."""
        (await self._connect(await self._pool())).abort()

    async def _connect(self, pool: _Pool) -> Response:
        try:
            async with asyncio.timeout(self.connect_seconds):
                transport, response = await pool.loop.create_connection(
                    lambda: Response(pool), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise Unreachable(f"no connection within {self.connect_seconds:g} s") from None
        except (OSError, ssl.SSLError, UnicodeError) as error:
            # Event loops word a refusal each in its own way.
            plain = os.strerror(error.errno) if isinstance(error, ConnectionError) and error.errno else None
            raise Unreachable(
                plain or getattr(error, "strerror", None) or str(error) or type(error).__name__
            ) from error
        # Not before: uvloop tells nobody of the end of a connection that nobody waited for any more.
        if not transport.is_closing():
            pool.open.add(response)
        return response

    async def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        found = self._pools.get(loop)
        if found is None:
            for one in list(self._pools):
                if one.is_closed():  # without having been shut down
                    self._pools.pop(one, None)
            keeper = self._keep(loop)
            found = self._pools[loop] = await anext(keeper), keeper
        return found[0]

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[_Pool, None]:
        """Event loops end the asynchronous generators that are open when they are shut down, as `asyncio.run` does:
        nothing else tells of a loop's end.
        """
        pool = _Pool(self, loop)
        try:
            yield pool
        finally:
            self._pools.pop(loop, None)
            await pool.close()

    async def aclose(self) -> None:
        """Close the connections of the running loop; those of other loops end with them."""
        if found := self._pools.get(asyncio.get_running_loop()):
            await found[1].aclose()


async def _answered(response: Response, head: bytes, body: bytes) -> Response:
    try:
        response.ask(head, body)
        await response.begun()
        return response
    except BaseException:
        response.abort()
        raise
