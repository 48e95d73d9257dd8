"""The HTTP server as an ASGI application: its paths, in front of one engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from abruzzi.engines.asking import counter_of
from abruzzi.engines.base import Engine
from abruzzi.protocol.errors import AbruzziError, RequestError
from abruzzi.server import page
from abruzzi.server.access import Access
from abruzzi.server.chat_completions import ChatCompletions
from abruzzi.server.completions import Completions
from abruzzi.server.dialect import Dialect
from abruzzi.server.endpoint import Endpoint
from abruzzi.server.exchange import ClientLeft, Exchange, Receive, Scope, Send
from abruzzi.server.intake import Intake
from abruzzi.server.limits import Buckets, address
from abruzzi.server.logs import RequestLog
from abruzzi.server.message_count import CountTokens
from abruzzi.server.messages import Messages
from abruzzi.server.metrics import Metrics, engines_of
from abruzzi.server.numbered import Numbered
from abruzzi.server.paths import Path, Paths
from abruzzi.server.refusals import NoSuchModel, NoSuchPath, Refusal, ServerFault, Stopping, WrongMethod
from abruzzi.server.response_count import CountResponseTokens
from abruzzi.server.responses import Responses
from abruzzi.server.settings import Settings
from abruzzi.server.telemetry import Telemetry

logger = logging.getLogger("abruzzi.server")
# The forms of errors where no path tells which.
_OPENAI = ChatCompletions()
_ANTHROPIC = Messages()
_NO_COMPACTION = "a conversation isn't shortened by the server; send the items that are to stay"
_NO_BACKGROUND = "there are no responses in the background; close the connection of one to stop it"


class App:
    """The application. It closes the engine when it ends.

    A request goes from here to its path's handler and from there to the socket: no layer lies in between, so that
    what is written of a stream goes through none.
    """

    def __init__(self, engine: Engine, settings: Settings, telemetry: Telemetry | None = None) -> None:
        self.settings = settings
        self.intake = Intake(settings)
        self.is_stopping = False
        self._engine = engine
        self._access = Access(settings)
        self._numbered = Numbered(engine)
        self._buckets = Buckets(settings.rate) if settings.rate else None
        self._metrics = Metrics(engine, self.intake.open)
        self._paths = Paths([*_work(engine, settings, self.intake), *self._views()])
        # Each hears of every exchange when it is over.
        self._listeners: list[Callable[[Exchange], object]] = [self._metrics.done]
        if settings.log:
            self._listeners.append(RequestLog(settings.log, with_content=settings.log_content).done)
        telemetry = telemetry or Telemetry.of_environment(engine.capabilities)
        if telemetry is not None:
            self._listeners.append(telemetry.done)
        self._telemetry = telemetry
        self._looking: asyncio.Future[bool] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def refuse(self, scope: Scope, receive: Receive, send: Send, *, error: Refusal) -> None:
        """Answer a request that can't be read with an error."""
        await self._serve(scope, receive, send, error)

    def stop(self) -> None:
        """From now on every request is refused."""
        self.is_stopping = True

    def cut(self) -> None:
        """End the requests that are under way, each with an error in its dialect's form."""
        for exchange in (*self.intake.open, *self.intake.reading):
            exchange.end(Stopping())

    def _views(self) -> list[Path]:
        """What is to be seen of the server."""
        return [
            Path("/v1/models", {"GET": self._models}),
            Path("/v1/models/{model}", {"GET": self._one_model}, has_slashes=True),
            Path("/health", {"GET": self._health}),
            Path("/metrics", {"GET": self._show_metrics}),
            Path("/", {"GET": self._page}),
        ]

    async def _serve(self, scope: Scope, receive: Receive, send: Send, fault: Refusal | None = None) -> None:
        headers = dict(scope["headers"])
        path = self._paths.find(scope["path"])
        # Anthropic's clients always send that header.
        dialect = (path and path.dialect) or (_ANTHROPIC if b"anthropic-version" in headers else _OPENAI)
        exchange = Exchange(scope, receive, send, dialect, headers, path.name if path else "other")
        try:
            if fault is not None:
                raise fault
            await self._admit(exchange, path)
        except ClientLeft as error:
            exchange.error = error
        except AbruzziError as error:
            await exchange.refuse(error)
        except asyncio.CancelledError:
            reason = exchange.interrupted() or Stopping()
            exchange.error = reason
            if isinstance(reason, AbruzziError) and not exchange.status:
                await exchange.refuse(reason)
        except Exception as error:
            exchange.error = error
            logger.exception("%s: a mistake of the server's own", exchange.id)
            if not exchange.status:
                await exchange.refuse(ServerFault(exchange.id))
        finally:
            self.intake.leave(exchange)
            self._done(exchange)
            exchange.forget()

    async def _admit(self, exchange: Exchange, path: Path | None) -> None:
        """From the door to the path's handler."""
        headers, method = exchange.headers, exchange.scope["method"]
        if self.settings.allow_origins:
            exchange.response_headers += self._access.cors(headers.get(b"origin"))
            if path is not None and method == "OPTIONS" and b"access-control-request-method" in headers:
                preflight = self._access.preflight(headers, path.allowed)
                if preflight is not None:
                    return await exchange.answer(200, b"", b"text/plain", preflight)
        key = self._access.admit(headers, exchange.path)
        exchange.key = key
        exchange.is_trusted = key is not None or self.settings.is_loopback
        if not exchange.is_trusted:
            exchange.outward = self._numbered.error
        if path is None or path.absent:
            reason = path.absent if path else self._paths.why_not(exchange.scope["path"])
            raise NoSuchPath(f"no {exchange.scope['path'][:200]} here: {reason}")
        handler = path.handler(method)
        if handler is None:
            raise WrongMethod(f"{path.name} takes {path.allowed}, not {method}", path.allowed)
        if self.is_stopping and path.name != "/health":
            raise Stopping
        if path.is_work and self._buckets is not None:
            self._buckets.take(key or address(exchange.scope["client"]))
        await handler(exchange)

    def _done(self, exchange: Exchange) -> None:
        error = exchange.error
        if isinstance(error, AbruzziError) and not isinstance(error, RequestError | Stopping | ServerFault):
            broken = "a stream broke off: " if exchange.status == 200 else ""
            # The words of engines and models may hold what was asked or answered.
            shown = error if self.settings.log_content else type(error).__name__
            logger.warning("%s: %s%s", exchange.id, broken, shown)
        for listener in self._listeners:
            listener(exchange)

    async def _models(self, exchange: Exchange) -> None:
        model = self._told_model()
        ends = {"has_more": False, "first_id": model["id"], "last_id": model["id"]}
        await exchange.answer_json(200, {"object": "list", "data": [model], **ends})

    async def _one_model(self, exchange: Exchange) -> None:
        asked, model = exchange.scope["path"].removeprefix("/v1/models/"), self._told_model()
        if asked != model["id"]:
            raise NoSuchModel(f"no model {asked[:200]!r} here: expected {model['id']!r}")
        await exchange.answer_json(200, model)

    def _told_model(self) -> dict[str, Any]:
        """As OpenAI tells of a model and as Anthropic does, at once: neither's clients mind the other's members."""
        model = self._engine.capabilities.model
        openai = {"id": model, "object": "model", "created": 0, "owned_by": "abruzzi"}
        return {**openai, "type": "model", "display_name": model, "created_at": "1970-01-01T00:00:00Z"}

    async def _health(self, exchange: Exchange) -> None:
        """503 where it can't answer: a load balancer had better ask another."""
        status, engines = await self._state()
        told: dict[str, Any] = {"status": status}
        if exchange.is_trusted:
            model = self._engine.capabilities.model
            told |= {"model": model, "engines": engines, "violations": self._metrics.violations}
        headers = Stopping.headers if self.is_stopping else ()
        await exchange.answer_json(200 if status in ("ok", "degraded") else 503, told, headers)

    async def _state(self) -> tuple[str, list[dict[str, Any]]]:
        """`ok` where all engines are, `degraded` where one is, or can be reached again; else `sick`. And their rows.

        While a load balancer sends no requests any more, none finds out that an engine is back: so it is looked for.
        """
        engines = engines_of(self._engine)
        if self.is_stopping:
            return "stopping", engines
        can_answer = any(row["status"] == "ok" for row in engines)
        if not can_answer:
            can_answer = await self._look()
            engines = engines_of(self._engine)
        is_well = all(row["status"] == "ok" for row in engines)
        return "ok" if is_well else "degraded" if can_answer else "sick", engines

    async def _look(self) -> bool:
        """Whether an engine can be reached again. Of many who ask at once, one looks."""
        look = getattr(self._engine, "look", None)
        if look is None:
            return False
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(look())
        return bool(await asyncio.shield(self._looking))

    async def _show_metrics(self, exchange: Exchange) -> None:
        text, kind = self._metrics.shown(exchange.headers.get(b"accept", b"").decode("latin-1"))
        await exchange.answer(200, text if exchange.is_trusted else self._numbered.metrics(text), kind.encode())

    async def _page(self, exchange: Exchange) -> None:
        about = page.About(self._engine.capabilities, self._paths.all, bool(self.settings.api_keys))
        body, kind, headers = page.shown(about, exchange)
        await exchange.answer(200, body, kind, headers)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._engine.aclose()
        finally:
            if self._telemetry is not None:
                await asyncio.to_thread(self._telemetry.close)
            await send({"type": "lifespan.shutdown.complete"})


def _work(engine: Engine, settings: Settings, intake: Intake) -> list[Path]:
    """The paths that have a model answer, and what belongs to their dialects."""
    capabilities = engine.capabilities
    responses, messages = Responses(capabilities.variant), Messages(capabilities.variant)

    def work(name: str, dialect: Dialect) -> Path:
        return Path(name, {"POST": Endpoint(dialect, engine, settings, intake)}, dialect, is_work=True)

    count_input = CountResponseTokens(responses, capabilities, intake)
    stored, items = {"GET": responses.stored, "DELETE": responses.stored}, {"GET": responses.input_items}
    return [
        work("/v1/chat/completions", ChatCompletions(capabilities.variant)),
        work("/v1/completions", Completions(counter_of(capabilities))),
        work("/v1/responses", responses),
        Path("/v1/responses/input_tokens", {"POST": count_input}, responses),
        Path("/v1/responses/compact", {}, responses, absent=_NO_COMPACTION),
        Path("/v1/responses/{id}", stored, responses),
        Path("/v1/responses/{id}/input_items", items, responses),
        Path("/v1/responses/{id}/cancel", {}, responses, absent=_NO_BACKGROUND),
        work("/v1/messages", messages),
        Path("/v1/messages/count_tokens", {"POST": CountTokens(capabilities, intake)}, messages),
    ]


def create_app(engine: Engine, settings: Settings | None = None, telemetry: Telemetry | None = None) -> App:
    """The application, in front of an engine, which it closes when it ends."""
    return App(engine, settings or Settings(), telemetry)
