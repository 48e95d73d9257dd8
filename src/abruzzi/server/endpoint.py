"""One of the server's paths that has a model answer, as a plain ASGI application: the same for every dialect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.types import Message, Receive, Scope, Send

from abruzzi import chat
from abruzzi.chat import Report
from abruzzi.engines.base import Engine
from abruzzi.protocol.errors import AbruzziError, EngineUnavailable
from abruzzi.protocol.events import Event
from abruzzi.server.asgi import ClientLeft, EventStream, read_json, send_json, while_connected
from abruzzi.server.dialect import Call, Dialect
from abruzzi.server.settings import Settings

_T = TypeVar("_T")
# How long a client had better wait before it tries an engine again that is down.
_RETRY_AFTER = [(b"retry-after", b"5")]


@dataclass(slots=True)
class Exchange:
    """A request and what became of it, for whoever counts or logs."""

    path: str
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    """Of the response; 0 where the client left before there was one."""
    streamed: bool = False
    first: float | None = None
    """When the first of the answer went out."""
    reports: list[Report] = field(default_factory=list)
    """One for each answer that became whole."""
    error: AbruzziError | None = None


class Endpoint:
    """Answers in one dialect. `done` hears of every exchange when it is over."""

    def __init__(
        self, dialect: Dialect, engine: Engine, settings: Settings, done: Callable[[Exchange], object]
    ) -> None:
        self._dialect = dialect
        self._engine = engine
        self._settings = settings
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope["path"])

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            await send(message)

        try:
            body = await read_json(scope, receive, self._settings.max_body)
            call = self._dialect.decode(body, self._engine.capabilities.model)
            await while_connected(receive, self._answer(call, sending, exchange))
        except ClientLeft:
            pass
        except asyncio.CancelledError:
            # The server is told to stop and has waited long enough: an open stream ends, any other request is told why.
            if not exchange.status:
                await self._refuse(sending, EngineUnavailable("the server is stopping"), exchange)
        except AbruzziError as error:
            await self._refuse(sending, error, exchange)
        finally:
            self._done(exchange)

    async def _answer(self, call: Call, send: Send, exchange: Exchange) -> None:
        if call.stream:
            await self._stream(call, send, exchange)
            return
        several = [chat.complete(self._engine, call.request) for _ in range(call.answers)]
        answers = await _all(several)
        exchange.reports += [report for _, report in answers]
        await send_json(send, 200, call.encoder.whole(answers))

    async def _stream(self, call: Call, send: Send, exchange: Exchange) -> None:
        """The head goes out with the first of the answer: what fails before it still gets a status of its own."""
        exchange.streamed = True
        encoder = call.encoder
        async with EventStream(send, encoder.begin()) as stream:
            try:
                async with contextlib.aclosing(_merged(self._engine, call)) as several:
                    async for index, items in several:
                        if exchange.first is None:
                            exchange.first = time.perf_counter()
                        if isinstance(items[-1], Report):
                            exchange.reports.append(items[-1])
                        await stream.send(encoder.frames(items, index))
                end = encoder.end()
            except AbruzziError as error:
                if not stream.has_begun:
                    raise
                exchange.error = error
                end = encoder.failed(error)
            await stream.end(end)

    async def _refuse(self, send: Send, error: AbruzziError, exchange: Exchange) -> None:
        exchange.error = error
        await send_json(
            send, error.status, self._dialect.error(error), _RETRY_AFTER if error.status in (429, 503) else None
        )


async def _all(several: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All of them at once; the first that fails ends the others."""
    if len(several) == 1:
        return [await several[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in several]
    except* AbruzziError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _merged(engine: Engine, call: Call) -> AsyncGenerator[tuple[int, Sequence[Event | Report]], None]:
    """What comes of all answers, as it comes, with each one's index."""
    if call.answers == 1:
        async with contextlib.aclosing(chat.batches(engine, call.request)) as several:
            async for items in several:
                yield 0, items
        return
    # Bounded: a slow client slows its engine.
    come: asyncio.Queue[tuple[int, Sequence[Event | Report]] | AbruzziError] = asyncio.Queue(call.answers)

    async def answer(index: int) -> None:
        try:
            async with contextlib.aclosing(chat.batches(engine, call.request)) as several:
                async for items in several:
                    await come.put((index, items))
        except AbruzziError as error:
            await come.put(error)

    tasks = [asyncio.create_task(answer(index)) for index in range(call.answers)]
    whole = 0
    try:
        while whole < call.answers:
            item = await come.get()
            if isinstance(item, AbruzziError):
                raise item
            whole += isinstance(item[1][-1], Report)
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
