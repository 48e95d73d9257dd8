"""An HTTP/1.1 client for one server: a request's body out, the response's as it comes, on connections that are kept.

`httptools` reads what comes, as it does for the server in front. A stream of tokens is many small reads, and what each
of them costs is most of what there is between an engine and its client: nothing lies here between the socket and who
reads the response.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import urlsplit

from abruzzi.engines.http_response import BrokenOff, Response, Silence

__all__ = ["BrokenOff", "Client", "Response", "Silence", "Unreachable", "plain"]

# For a place in the queue of a server that is slow to accept the kernel asks after 1, 3 and 7 seconds: a new connection
# asks at once.
_TRIES = 3
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class Unreachable(ConnectionError):
    """There is no connection to the server."""


class _Pool:
    """The connections of an event loop."""

    def __init__(self, silence_seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self.silence_seconds = silence_seconds
        self.loop = loop
        self.open: set[Response] = set()
        self.idle: list[Response] = []

    def keep(self, response: Response) -> None:
        self.idle.append(response)

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
    connections. A redirect isn't followed: it leads to another server than the one that was named. `connect_seconds`
    is what each of three tries to connect has.
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

    async def ask(self, method: str, path: str, body: bytes) -> Response:
        """The response to a body of JSON, as soon as its head is there. Raises Unreachable, BrokenOff and Silence.

        A connection that had been kept may be given up by the server just as it is used: then the request goes out once
        more, on a new one. Whether the server had begun with it nobody can know; completions have no other effect.
        A server that is gone by then is one that broke off: the request may be what ended it.
        """
        pool = await self._pool()
        head = (
            f"{method} {self._path}{path} HTTP/1.1\r\n{self._fields}"
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
            response = await self._connect(pool, _TRIES)
        except Unreachable as error:
            raise given_up or error from error.__cause__
        return await _answered(response, head, body)

    async def reach(self) -> None:
        """Look whether there is a server, in one try. Raises Unreachable."""
        (await self._connect(await self._pool(), 1)).abort()

    async def _connect(self, pool: _Pool, tries: int) -> Response:
        for left in reversed(range(tries)):
            try:
                async with asyncio.timeout(self.connect_seconds):
                    transport, response = await pool.loop.create_connection(
                        lambda: Response(pool), self._host, self._port, ssl=self._tls
                    )
                break
            except TimeoutError:
                if not left:
                    raise Unreachable(f"no connection within {tries * self.connect_seconds:g} s") from None
            except (OSError, UnicodeError) as error:
                raise Unreachable(plain(error)) from error
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
        pool = _Pool(self.silence_seconds, loop)
        try:
            yield pool
        finally:
            self._pools.pop(loop, None)
            await pool.close()

    async def aclose(self) -> None:
        """Close the connections of the running loop; those of other loops end with them."""
        if found := self._pools.get(asyncio.get_running_loop()):
            await found[1].aclose()


def plain(error: object) -> str:
    """Why there is no connection, in the same words on every event loop. A name may stand for several addresses, of
    which asyncio tells one by one.
    """
    numbers = dict.fromkeys(_ERRNO.findall(str(error)))
    if numbers:
        return ", ".join(os.strerror(int(number)) for number in numbers)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


async def _answered(response: Response, head: bytes, body: bytes) -> Response:
    try:
        response.ask(head, body)
        await response.begun()
        return response
    except BaseException:
        response.abort()
        raise
