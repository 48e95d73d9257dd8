"""A connection: uvicorn's, with limits for heads, and an answer of the server's own to what is no HTTP."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from abruzzi.server.refusals import HeadTooLarge, NotHttp, Refusal

# Bytes of a request's head, and seconds that it may take.
_MAX_HEAD = 65_536
_HEAD_PATIENCE = 30.0
# Bytes of the path of a head that is too long: it may be what is too long.
_SHOWN = 1_000


class Connection(HttpToolsProtocol):
    """As uvicorn has it, but that a head is neither endless nor waited for without end, behind which a request has
    limits of its own; and that what can't be read is answered in the server's form.
    """

    _head = 0
    _timer: asyncio.TimerHandle | None = None
    _is_over = False
    """Whether nothing more is read, because what came was no HTTP or too long."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        was_waiting = self._timer is not None
        super().data_received(data)
        if was_waiting and self._timer is not None:
            self._head += len(data)
            if self._head > _MAX_HEAD:
                self._refuse(_head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._wait()

    def on_headers_complete(self) -> None:
        self._wait_no_more()
        # A head that comes in one piece was never waited for. Beside names and values stand a colon, a space, a line's
        # end.
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > _MAX_HEAD:
            self._is_over = True
            self.app = self._refusing(_head_too_large())
            self.url = self.url[:_SHOWN]
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this while it handles what the parser raised."""
        error = sys.exception()
        if isinstance(error, httptools.HttpParserCallbackError):
            error = error.__context__  # raised in a method of this class
        reason = str(error)[:200] if isinstance(error, httptools.HttpParserError) else "a path that is none"
        self._refuse(NotHttp(f"expected a request of HTTP/1.1, got what can't be read as one: {reason}"))

    def _refuse(self, error: Refusal) -> None:
        """Answer what can't be read, behind all that came before it, and close the connection."""
        self._is_over = True
        self._wait_no_more()
        before, app = self.cycle, self._refusing(error)
        is_open = before is not None and not before.response_complete
        is_broken = is_open and before.more_body  # it is the last request's body that can't be read
        if self.transport.is_closing() or (is_broken and before.response_started):
            self.transport.close()
            return
        super().on_message_begin()
        self.scope |= {"method": "-", "path": "-", "raw_path": b"-", "query_string": b""}
        self.cycle = self._last_cycle()
        if is_broken:
            before.disconnected = True  # whoever waits for the rest hears that there is none
            before.message_event.set()
        if not is_open or (is_broken and not self.pipeline):
            self._start_asgi_task(self.cycle, app)
            return
        if is_broken:
            self.pipeline.popleft()
        self.pipeline.appendleft((self.cycle, app))

    def _last_cycle(self) -> RequestResponseCycle:
        """A request's way through the application, with which the connection ends."""
        return RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )

    def _refusing(self, error: Refusal) -> Any:
        """The application, as it answers whatever comes."""
        return partial(self.config.app.refuse, error=error)  # type: ignore[union-attr]

    def _wait(self) -> None:
        self._head = 0
        self._timer = self.loop.call_later(_HEAD_PATIENCE, self._give_up)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self.transport.close()


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"expected a head of at most {_MAX_HEAD:,} bytes")
