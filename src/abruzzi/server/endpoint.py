"""One of the server's paths that has a model answer: the same for every dialect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from abruzzi import chat
from abruzzi.chat import ChatRequest, Report
from abruzzi.engines.base import Engine
from abruzzi.protocol.errors import AbruzziError, RequestError
from abruzzi.protocol.events import Finish
from abruzzi.server.asgi import EventStream, while_connected
from abruzzi.server.dialect import Call, Dialect
from abruzzi.server.exchange import ClientLeft, Exchange
from abruzzi.server.intake import Intake
from abruzzi.server.refusals import ServerFault, Stopping
from abruzzi.server.settings import Settings

_T = TypeVar("_T")
logger = logging.getLogger("abruzzi.server")


class Endpoint:
    """Answers in one dialect."""

    def __init__(self, dialect: Dialect, engine: Engine, settings: Settings, intake: Intake) -> None:
        self._dialect = dialect
        self._engine = engine
        self._settings = settings
        self._intake = intake

    async def __call__(self, exchange: Exchange) -> None:
        """Raises AbruzziError for what goes wrong before there is anything of an answer."""
        exchange.body = body = await self._intake.read(exchange)
        asked = body, self._engine.capabilities.model, exchange.key
        decode = self._dialect.decode
        call = await asyncio.to_thread(decode, *asked) if exchange.is_long else decode(*asked)
        if not self._settings.log_content:
            exchange.body = None  # it may be long, and its decoded form is enough
        del body, asked
        exchange.call = call
        try:
            await while_connected(exchange, (self._stream if call.stream else self._answer)(call, exchange))
        except RequestError as error:
            place = call.places.get(error.param or "")
            if place is None:
                raise
            raise RequestError(error.reason, place) from None

    async def _answer(self, call: Call, exchange: Exchange) -> None:
        answers = await _all([chat.complete(self._engine, request) for request in call.all])
        exchange.reports |= {index: report for index, (_, report) in enumerate(answers)}
        exchange.finish_reasons += [message.finish_reason or "" for message, _ in answers]
        await exchange.answer_json(200, call.encoder.whole(answers))

    async def _stream(self, call: Call, exchange: Exchange) -> None:
        """The head goes out with the first of the answer: what fails before it still gets a status of its own."""
        exchange.streamed = True
        async with EventStream(exchange, call.encoder.begin()) as stream:
            try:
                several = enumerate(call.all)
                last = await _all([self._write(call, exchange, stream, *one) for one in several])
                end = b"".join(last) + call.encoder.end()
            except (Exception, asyncio.CancelledError) as error:
                if not stream.has_begun:
                    raise
                exchange.error = told = _told(error, exchange)
                end = call.encoder.failed(exchange.outward(told))
            await stream.end(end)

    async def _write(
        self, call: Call, exchange: Exchange, stream: EventStream, index: int, request: ChatRequest
    ) -> bytes:
        """One of the answers, as it comes; of a single one the last part is returned, which goes out with the stream's
        end. A slow client slows its engine.
        """
        async with contextlib.aclosing(chat.batches(self._engine, request)) as several:
            async for items in several:
                if exchange.first is None:
                    exchange.first = time.perf_counter()
                frames = call.encoder.frames(items, index)
                if isinstance(items[-1], Report):
                    exchange.reports[index] = items[-1]
                    exchange.finish_reasons += [item.reason for item in items if isinstance(item, Finish)]
                    if len(call.all) == 1:
                        return frames
                await stream.send(frames)
        return b""


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
