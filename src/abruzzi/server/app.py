"""The HTTP server: OpenAI's chat API in front of one engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from abruzzi import chat
from abruzzi.chat import Report
from abruzzi.engines.base import Engine
from abruzzi.protocol.errors import AbruzziError, EngineUnavailable, OutputError, RequestError
from abruzzi.server import chat_completions as dialect
from abruzzi.server.sse import ClientLeft, end_events, read_body, send_event, send_json, start_events, while_connected

logger = logging.getLogger("abruzzi.server")
# How long a client had better wait before it tries an engine again that is down.
_RETRY_AFTER = [(b"retry-after", b"5")]


def create_app(engine: Engine) -> Starlette:
    """The application; it closes the engine when it ends."""
    model = engine.capabilities.model
    violations: Counter[str] = Counter()

    async def models(_: Request) -> JSONResponse:
        return JSONResponse(
            {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "abruzzi"}]}
        )

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "model": model, "violations": {model: violations}})

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await engine.aclose()

    routes = [
        Route("/v1/chat/completions", ChatCompletions(engine, violations), methods=["POST"]),
        Route("/v1/models", models),
        Route("/health", health),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


class ChatCompletions:
    """`POST /v1/chat/completions` as a plain ASGI application.

    Adds to `violations`, by kind, how often the engine's output could not go on as it was.
    """

    def __init__(self, engine: Engine, violations: Counter[str]) -> None:
        self._engine = engine
        self._violations = violations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            call = dialect.decode(await read_body(receive))
            await while_connected(receive, self._answer(call, sending))
        except ClientLeft:
            return
        except asyncio.CancelledError:
            # The server is told to stop and has waited long enough: an open stream ends, any other request is told why.
            if not begun:
                await self._refuse(send, EngineUnavailable("the server is stopping"))
        except AbruzziError as error:
            self._count(error)
            await self._refuse(send, error)

    def _count(self, error: AbruzziError) -> None:
        if isinstance(error, OutputError):
            self._violations.update(error.violations)

    async def _answer(self, call: dialect.Call, send: Send) -> None:
        encoder = dialect.Encoder(self._engine.capabilities.model, bare=call.bare)
        if call.stream:
            await self._stream(call, encoder, send)
        else:
            message, report = await chat.complete(self._engine, call.request)
            self._violations.update(report.violations)
            await send_json(send, 200, encoder.completion(message, report))

    async def _stream(self, call: dialect.Call, encoder: dialect.Encoder, send: Send) -> None:
        """The head goes out with the first event: what fails before it still gets a status of its own."""
        started = False
        try:
            async with contextlib.aclosing(chat.stream(self._engine, call.request)) as items:
                async for item in items:
                    if not started:
                        await start_events(send)
                        await send_event(send, encoder.opening())
                        started = True
                    if isinstance(item, Report):
                        self._violations.update(item.violations)
                        if call.include_usage:
                            await send_event(send, encoder.usage(item))
                    elif chunk := encoder.chunk(item):
                        await send_event(send, chunk)
        except AbruzziError as error:
            if not started:
                raise
            self._count(error)
            logger.warning("a stream broke off: %s", error)
            await send_event(send, dialect.error_body(error))
        await end_events(send)

    async def _refuse(self, send: Send, error: AbruzziError) -> None:
        if not isinstance(error, RequestError):
            logger.warning("%s", error)
        await send_json(send, error.status, dialect.error_body(error), _RETRY_AFTER if error.status == 503 else None)
