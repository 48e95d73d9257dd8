"""Connections to an engine, kept open between requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

# Below uvicorn's 5 s (vLLM, SGLang, TensorRT-LLM): a connection isn't taken again just when the engine gives it up.
_KEPT_SECONDS = 4.0


class Sessions:
    """A session for each event loop that asks for one. It ends with its loop, at the latest.

    Each is held by an asynchronous generator: event loops end those that are open when they are shut down, as
    `asyncio.run` does, and nothing else tells of a loop's end.
    """

    def __init__(self, *, connect_seconds: float, read_seconds: float, keeps: bool = True) -> None:
        """`keeps`: whether a connection is kept for the next request."""
        self._keeps = keeps
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds, sock_read=read_seconds)
        self._open: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[Any, None]]] = {}

    async def get(self) -> aiohttp.ClientSession:
        """The running loop's session."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            for one in list(self._open):
                if one.is_closed():  # without having been shut down
                    self._open.pop(one, None)
            keeper = self._keep(loop)
            self._open[loop] = await anext(keeper), keeper
        return self._open[loop][0]

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[aiohttp.ClientSession, None]:
        session = aiohttp.ClientSession(
            # A hundred connections, aiohttp's limit, would make the next stream wait for the end of one.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SECONDS)
            if self._keeps
            else aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_reuse()],
        )
        try:
            yield session
        finally:
            self._open.pop(loop, None)
            await session.close()
            await asyncio.sleep(0)  # the sockets are closed in the loop's next round

    async def aclose(self) -> None:
        """Close the running loop's session; those of other loops end with them."""
        if found := self._open.get(asyncio.get_running_loop()):
            await found[1].aclose()


class Attempt:
    """A request, given as its `trace_request_ctx`."""

    reuses = False
    """Whether it went out on a connection that had been used before."""


def _reuse() -> aiohttp.TraceConfig:
    async def note(_: aiohttp.ClientSession, context: Any, __: aiohttp.TraceConnectionReuseconnParams) -> None:
        context.trace_request_ctx.reuses = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(note)
    return trace
