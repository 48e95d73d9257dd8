"""The HTTP server: its paths, in front of one engine."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from abruzzi.engines.base import Engine
from abruzzi.protocol.errors import OutputError, RequestError
from abruzzi.server.chat_completions import ChatCompletions
from abruzzi.server.dialect import Dialect
from abruzzi.server.endpoint import Endpoint, Exchange
from abruzzi.server.settings import Settings

logger = logging.getLogger("abruzzi.server")
# The paths that have a model answer.
DIALECTS: dict[str, Dialect] = {"/v1/chat/completions": ChatCompletions()}


def create_app(engine: Engine, settings: Settings | None = None) -> Starlette:
    """The application; it closes the engine when it ends."""
    model = engine.capabilities.model
    violations: Counter[str] = Counter()

    def done(exchange: Exchange) -> None:
        for report in exchange.reports:
            violations.update(report.violations)
        if isinstance(exchange.error, OutputError):
            violations.update(exchange.error.violations)
        if exchange.error is not None and not isinstance(exchange.error, RequestError):
            logger.warning("%s%s", "a stream broke off: " if exchange.status == 200 else "", exchange.error)

    def endpoint(dialect: Dialect) -> Endpoint:
        return Endpoint(dialect, engine, settings or Settings(), done)

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
        *(Route(path, endpoint(dialect), methods=["POST"]) for path, dialect in DIALECTS.items()),
        Route("/v1/models", models),
        Route("/health", health),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_such_path})


async def _no_such_path(request: Request, error: Exception) -> Response:
    """404 and 405 in the form of the dialect that the client speaks."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    told = NoSuchPath(f"no {path} here" if error.status_code == 404 else f"{path} doesn't take {method}")
    dialect = DIALECTS.get(path, DIALECTS["/v1/chat/completions"])
    return JSONResponse(dialect.error(told), error.status_code, error.headers)


class NoSuchPath(RequestError):
    """There is no such path, or it takes another method."""

    status = 404
