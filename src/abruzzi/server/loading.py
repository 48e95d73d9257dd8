"""Who answers while the engine loads: every request is told to come again. The port is ours from the beginning, and no
client hangs on it for as long as weights take to load.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import threading
import time
from types import TracebackType

import msgspec

# Seconds, in all, for a client to send what it has and leave; and for those that are being answered at the end.
_PATIENCE = 10.0
_LAST_WORDS = 0.1
# Seconds until a client had better come again, beside those that it has been loading for: most try three times in all.
_AGAIN = 3
_MOST = 10
# Bytes of a request's head that are looked at.
_HEAD = 65_536
_ID = re.compile(rb"\r\nx-request-id:[ \t]*([!-~](?:[ -~]{0,126}[!-~])?)[ \t]*\r\n", re.IGNORECASE)


class Loading:
    """Answers on a listening socket, in a thread of its own, until the `with` block is left: a 503 in a form that is
    OpenAI's and Anthropic's at once, and that `/health`'s readers understand, too. The socket is left open, for the
    server.
    """

    def __init__(self, listening: socket.socket) -> None:
        self.open: set[asyncio.Transport] = set()
        self._listening = listening
        self._began = time.monotonic()
        self._end = asyncio.Event()

    def __enter__(self) -> Loading:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._answer_all())

    async def _answer_all(self) -> None:
        server = await self._loop.create_server(lambda: _Answer(self), sock=self._listening.dup())
        await self._end.wait()
        server.close()
        if self.open:
            await asyncio.sleep(_LAST_WORDS)
        for one in tuple(self.open):
            one.abort()
        await asyncio.sleep(0)  # they are closed in the loop's next round

    def response(self, asked: bytes) -> bytes:
        """What everybody is told, head and body; `asked`: the request's head."""
        seconds = time.monotonic() - self._began
        message = f"the engine is loading, for {seconds:.0f} s by now"
        error = {"message": message, "type": "overloaded_error", "param": None, "code": "engine_unavailable"}
        body = msgspec.json.encode({"type": "error", "status": "loading", "error": error})
        given = _ID.search(asked)
        id = given[1].decode() if given else f"req_{secrets.token_hex(12)}"
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"x-request-id: {id}\r\nrequest-id: {id}\r\n"
            f"Retry-After: {min(_MOST, _AGAIN + int(seconds))}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class _Answer(asyncio.Protocol):
    """One connection: answered when a request's head is there, and closed when the client closes it. A body that is
    still coming is read, or the answer would be thrown away with the connection.
    """

    def __init__(self, loading: Loading) -> None:
        self._loading = loading
        self._head: bytes | None = b""  # it may come in parts; None when it is answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, transport.abort)
        self._loading.open.add(transport)

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            return
        head = self._head + data
        self._head = head[-_HEAD:]
        if b"\r\n\r\n" in head:
            self._head = None
            self._transport.write(self._loading.response(head.partition(b"\r\n\r\n")[0] + b"\r\n"))
            self._transport.write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._loading.open.discard(self._transport)
