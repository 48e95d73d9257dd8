"""One of the server's paths that has a model answer: the same for every dialect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from abruzzi import chat
from abruzzi.chat import Report
from abruzzi.engines.base import Engine
from abruzzi.protocol.errors import AbruzziError
from abruzzi.protocol.events import Event, Finish
from abruzzi.server.asgi import EventStream, read_json, while_connected
from abruzzi.server.dialect import Call, Dialect
from abruzzi.server.exchange import ClientLeft, Exchange
from abruzzi.server.refusals import ServerFault, Stopping
from abruzzi.server.settings import Settings

_T = TypeVar("_T")
logger = logging.getLogger("abruzzi.server")


class Endpoint:
    """Answers in one dialect."""

    def __init__(self, dialect: Dialect, engine: Engine, settings: Settings) -> None:
        self._dialect = dialect
        self._engine = engine
        self._settings = settings

    async def __call__(self, exchange: Exchange) -> None:
        """Raises AbruzziError for what goes wrong before there is anything of an answer."""
        exchange.body = await read_json(exchange, self._settings.max_body)
        call = self._dialect.decode(exchange.body, self._engine.capabilities.model)
        if not self._settings.log_content:
            exchange.body = None  # it may be long, and its decoded form is enough
        exchange.call = call
        await while_connected(exchange, self._stream(call, exchange) if call.stream else self._answer(call, exchange))

    async def _answer(self, call: Call, exchange: Exchange) -> None:
        answers = await _all([chat.complete(self._engine, call.request) for _ in range(call.answers)])
        exchange.reports += [report for _, report in answers]
        exchange.finish_reasons += [message.finish_reason or "" for message, _ in answers]
        await exchange.answer_json(200, call.encoder.whole(answers))

    async def _stream(self, call: Call, exchange: Exchange) -> None:
        """The head goes out with the first of the answer: what fails before it still gets a status of its own."""
        exchange.streamed = True
        last = b""
        async with EventStream(exchange, call.encoder.begin()) as stream:
            try:
                async with contextlib.aclosing(_merged(self._engine, call)) as several:
                    async for index, items in several:
                        if exchange.first is None:
                            exchange.first = time.perf_counter()
                        if isinstance(items[-1], Report):
                            exchange.reports.append(items[-1])
                            exchange.finish_reasons += [item.reason for item in items if isinstance(item, Finish)]
                        frames = call.encoder.frames(items, index)
                        if exchange.reports and call.answers == 1:
                            last = frames  # the end follows at once: they go out together
                        else:
                            await stream.send(frames)
                end = last + call.encoder.end()
            except (Exception, asyncio.CancelledError) as error:
                if not stream.has_begun:
                    raise
                told = _told(error, exchange)
                exchange.error = told
                end = last + call.encoder.failed(told)
            await stream.end(end)


def _told(error: BaseException, exchange: Exchange) -> AbruzziError:
    """What a client is told that has part of its answer. Raises ClientLeft where there is none any more."""
    if isinstance(error, asyncio.CancelledError):
        # The server is told to stop and has waited long enough, unless it is the client.
        error = exchange.interrupted() or Stopping()
        if isinstance(error, ClientLeft):
            raise error
    if isinstance(error, AbruzziError):
        return error
    logger.error("%s: a mistake of the server's own", exchange.id, exc_info=error)
    return ServerFault(exchange.id)


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
