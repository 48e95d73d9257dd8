"""OpenTelemetry's traces: a span a request, with the names that its conventions have for generative AI.

Needs the extra `abruzzi[otel]`. Conventions: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from abruzzi.engines.base import Capabilities
from abruzzi.protocol.errors import RequestError
from abruzzi.server.exchange import Exchange
from abruzzi.server.metrics import error_type

try:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    trace = None  # type: ignore[assignment]

logger = logging.getLogger("abruzzi.server")


class Telemetry:
    """Writes a span for each request that a model is asked with."""

    def __init__(self, provider: Any, engine: Capabilities, *, is_ours: bool = False) -> None:
        self._provider = provider
        self._is_ours = is_ours
        self._tracer = provider.get_tracer("abruzzi")
        self._parents = TraceContextTextMapPropagator()
        self._model = engine.model

    @classmethod
    def of_environment(cls, engine: Capabilities) -> Telemetry | None:
        """What the variables that start with OTEL_ ask for. None where they don't, or where the package isn't there.

        A provider that the process has set up already is used as it is.
        """
        if trace is None:
            return None
        if isinstance(provider := trace.get_tracer_provider(), TracerProvider):
            return cls(provider, engine)
        exporter = _exporter()
        if exporter is None:
            return None
        # Attributes that are passed go before those of the environment.
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        provider = TracerProvider(resource=Resource.create({} if named else {"service.name": "abruzzi"}))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider, engine, is_ours=True)

    def done(self, exchange: Exchange) -> None:
        """An exchange is over."""
        if exchange.call is None:
            return
        call, end = exchange.call, time.time_ns()
        began = end - int((time.perf_counter() - exchange.began) * 1e9)
        span = self._tracer.start_span(
            f"{_operation(exchange)} {call.model}",
            context=self._parent(exchange),
            # Its parent is the client's own span, in another process: this is how that was served.
            kind=trace.SpanKind.SERVER,
            attributes=self._asked(exchange) | _answered(exchange),
            start_time=began,
        )
        # A client's mistake is none of the server's.
        if exchange.error is not None and not isinstance(exchange.error, RequestError):
            # Without its words, which may hold what was asked or answered.
            span.set_status(trace.StatusCode.ERROR)
        span.end(end)

    def close(self) -> None:
        """Send what hasn't been sent yet. May take seconds."""
        if self._is_ours:
            self._provider.shutdown()

    def _parent(self, exchange: Exchange) -> Any:
        carrier = {
            name: value.decode("latin-1")
            for name in ("traceparent", "tracestate")
            if (value := exchange.headers.get(name.encode()))
        }
        return self._parents.extract(carrier)

    def _asked(self, exchange: Exchange) -> dict[str, Any]:
        assert exchange.call is not None
        call, params = exchange.call, exchange.call.request.params
        told = {
            "gen_ai.operation.name": _operation(exchange),
            "gen_ai.provider.name": "abruzzi",
            "gen_ai.request.model": call.model,
            "gen_ai.response.model": self._model,
            "gen_ai.output.type": "text" if call.request.answer is None else "json",
            "gen_ai.request.max_tokens": params.max_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.seed": params.seed,
            "gen_ai.request.stop_sequences": params.stop or None,
            "gen_ai.request.choice.count": call.answers if call.answers != 1 else None,
            "gen_ai.request.stream": call.stream or None,
            "http.request.method": "POST",
            "url.path": exchange.scope["path"],
            "abruzzi.request.id": exchange.id,
        }
        return {name: value for name, value in told.items() if value is not None}


def _operation(exchange: Exchange) -> str:
    """As the conventions call it."""
    return "text_completion" if exchange.path == "/v1/completions" else "chat"


def _answered(exchange: Exchange) -> dict[str, Any]:
    reports, usage = exchange.reports.values(), exchange.usage
    told: dict[str, Any] = {}
    if exchange.status:
        told["http.response.status_code"] = exchange.status
    if exchange.first is not None:
        told["gen_ai.response.time_to_first_chunk"] = exchange.first - exchange.began
    if exchange.error is not None:
        told["error.type"] = error_type(exchange.error)
    if reports:
        assert exchange.call is not None
        told |= {
            "gen_ai.response.id": exchange.call.encoder.id,
            "gen_ai.response.finish_reasons": exchange.finish_reasons,
            "gen_ai.usage.input_tokens": usage.prompt,
            "gen_ai.usage.output_tokens": usage.completion,
            "gen_ai.usage.cache_read.input_tokens": usage.cached,
            "abruzzi.guarantee": [report.guarantee for report in reports],
            "abruzzi.resumes": sum(report.resumes for report in reports),
            "abruzzi.engine": [report.engine for report in reports],
        }
    return told


def _exporter() -> Any:
    """Where the environment has spans go, or None."""
    asked = os.environ.get("OTEL_TRACES_EXPORTER")
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or asked == "none":
        return None
    if asked == "console":
        return ConsoleSpanExporter()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if asked is None and not any(os.environ.get(name) for name in endpoints):
        return None
    if asked not in (None, "otlp"):
        logger.warning("OTEL_TRACES_EXPORTER: expected otlp, console or none, got %s: no traces are written", asked)
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        logger.warning("no traces are written: install abruzzi[otel]")
        return None
    return OTLPSpanExporter()
