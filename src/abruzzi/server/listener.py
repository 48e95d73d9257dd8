"""uvicorn in front of the application: the socket, and how a server stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from abruzzi.protocol.errors import EngineUnavailable
from abruzzi.server.app import App
from abruzzi.server.connection import Connection

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds: for requests that are on their way when a server stops, and for those that are cut to say so.
_ON_THEIR_WAY = 0.1
_LAST_WORDS = 1.0
# Longer than clients keep a connection for another request, so that it is never closed under one.
_KEEP_ALIVE = 75


def listen(host: str, port: int) -> socket.socket:
    """A port. Raises EngineUnavailable where it can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio turns Nagle's algorithm off only where it stands.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise EngineUnavailable(
            f"can't listen on {host}:{port}: {error.strerror or error}; choose others with --host and --port"
        ) from error
    return listening


class Listener(uvicorn.Server):
    """A server of its own. The first signal has it stop in order, the second at once, the third ends the process."""

    def __init__(self, app: App) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="error",
                access_log=False,
                # Who believes X-Forwarded-For lets a client choose its address.
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
            )
        )
        self._application = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, let what is open end, cut the rest, and close the engine."""
        app, loop = self._application, asyncio.get_running_loop()
        app.stop()
        for server in self.servers:
            server.close()
        for one in sockets or ():
            one.close()
        deadline = loop.time() + app.settings.grace
        if not self.force_exit:
            await asyncio.sleep(_ON_THEIR_WAY)
        await _until(lambda: app.intake.is_empty or self.force_exit, deadline)
        app.cut()
        await self._until_gone()
        if self.force_exit:
            # A thread that is at work, on a schema or in the embedded engine, would keep Python from ending.
            sys.stderr.flush()
            os._exit(1)
        await self.lifespan.shutdown()

    async def _until_gone(self) -> None:
        """Close the connections when nothing is at work on them; in the end those of clients that don't read, too."""
        connections = self.server_state.connections
        deadline = asyncio.get_running_loop().time() + _LAST_WORDS
        await _until(lambda: self._application.intake.is_empty, deadline)
        for connection in tuple(connections):
            connection.shutdown()
        await _until(lambda: not connections, deadline)
        for connection in tuple(connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does it, but that a signal has been obeyed when the server has ended: it isn't raised again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in _SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self.should_exit:
            self.force_exit = True
            for one in _SIGNALS:
                signal.signal(one, signal.SIG_DFL)
        self.should_exit = True


async def _until(so: Callable[[], bool], deadline: float) -> None:
    """Wait for what neither uvicorn nor a signal tells of by itself."""
    loop = asyncio.get_running_loop()
    while not so() and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
