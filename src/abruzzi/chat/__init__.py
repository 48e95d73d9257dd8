"""The one place where template, grammar, engine, guard and parser meet: a request becomes a stream of events.

What leaves here is true of every engine: no call is malformed, undeclared or outside its schema. An engine that obeys
a grammar is given one; what any engine writes goes through the guard, which lets out only what a valid turn begins
with. Where it goes wrong the engine is stopped, what must follow is added, and the engine is asked to go on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from abruzzi.chat.report import Report
from abruzzi.chat.request import ChatRequest
from abruzzi.chat.turn import Turn
from abruzzi.engines.base import Engine
from abruzzi.protocol.errors import OutputError
from abruzzi.protocol.events import Event
from abruzzi.protocol.messages import Message

__all__ = ["ChatRequest", "Report", "batches", "complete", "stream"]


async def stream(engine: Engine, request: ChatRequest) -> AsyncGenerator[Event | Report, None]:
    """Answer the request: events as they come, then one `Report`.

    Raises RequestError before anything else for a request that makes no sense; OutputError when a call was required, or
    tried, and nothing valid could be had; EngineError when the engine failed.
    """
    async with contextlib.aclosing(batches(engine, request)) as several:
        async for items in several:
            for item in items:
                yield item


async def batches(engine: Engine, request: ChatRequest) -> AsyncGenerator[Sequence[Event | Report], None]:
    """The same, with what is there at once together."""
    # Schemas and grammars of many tools take a while, and others are being served meanwhile.
    turn = await asyncio.to_thread(Turn, engine, request) if request.is_large else Turn(engine, request)
    try:
        async with contextlib.aclosing(turn.events()) as several:
            async for events in several:
                if events:
                    yield events
    except OutputError as error:
        error.engine = turn.engine
        raise
    yield [turn.finish, turn.report()]


async def complete(engine: Engine, request: ChatRequest) -> tuple[Message, Report]:
    """The same, all at once."""
    events: list[Event] = []
    report: Report | None = None
    async with contextlib.aclosing(stream(engine, request)) as items:
        async for item in items:
            if isinstance(item, Report):
                report = item
            else:
                events.append(item)
    assert report is not None
    return replace(Message.from_events(events), problems=report.problems), report
