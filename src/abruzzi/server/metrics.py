"""What a server has done so far, in Prometheus' form."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Collection, Mapping
from importlib.metadata import version

import prometheus_client as prometheus
from prometheus_client.exposition import choose_encoder

from abruzzi.engines.base import Capabilities
from abruzzi.protocol.errors import AbruzziError, OutputError
from abruzzi.server.exchange import ClientLeft, Exchange
from abruzzi.server.refusals import ServerFault

# As nginx has it: the client left before there was a status.
_CLIENT_LEFT = 499
_REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counts exchanges, each once, when it is over. The registry is its own."""

    def __init__(self, engine: Capabilities, open_: Collection[Exchange]) -> None:
        self.violations: Tally[str] = Tally()
        """How often an output could not go on as it was, by kind."""
        self._registry = registry = prometheus.CollectorRegistry()
        self._engine = engine.model
        self._requests_of: dict[tuple[str, int, bool], tuple[prometheus.Counter, prometheus.Histogram]] = {}

        def counter(name: str, about: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(f"abruzzi_{name}", about, labels, registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> prometheus.Histogram:
            return prometheus.Histogram(f"abruzzi_{name}", about, labels, buckets=buckets, registry=registry)

        def gauge(name: str, about: str) -> prometheus.Gauge:
            return prometheus.Gauge(f"abruzzi_{name}", about, registry=registry)

        self._requests = counter("requests", "Requests that are over.", "path", "status", "streamed")
        self._seconds = histogram("request_seconds", "From a request to its answer's end.", _REQUEST_SECONDS, "path")
        self._first = histogram("time_to_first_token_seconds", "To a stream's first of the answer.", _FIRST_SECONDS)
        self._token = histogram("time_per_output_token_seconds", "Between a stream's tokens, its mean.", _TOKEN_SECONDS)
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._cached = counter("cached_prompt_tokens", "Of these, those that the engine had read before.")
        self._completion = counter("completion_tokens", "Tokens of answers.")
        self._errors = counter("errors", "Requests that failed, and streams that broke off.", "type")
        self._violations = counter("violations", "Outputs that could not go on as they were.", "engine", "kind")
        self._resumes = counter("resumes", "How often an engine was asked to go on from what could stand.")
        self._resampled = counter("resampled", "Of these, how often because nothing had come that could.")
        self._generated = counter("generated_characters", "Characters that engines wrote.")
        self._forced = counter("forced_characters", "Characters that were added to what engines wrote.")
        gauge("requests_at_work", "Requests that are being answered.").set_function(lambda: len(open_))
        gauge("open_streams", "Of these, those that stream.").set_function(
            lambda: sum(exchange.streamed for exchange in tuple(open_))
        )
        variant = {"version": version("abruzzi"), "model": engine.model, "variant": engine.variant.name}
        prometheus.Info("abruzzi", "What runs here.", registry=registry).info(variant)
        prometheus.ProcessCollector(registry=registry)

    def shown(self, accept: str) -> tuple[bytes, str]:
        """All of it, and its content type, in the form that a scraper accepts."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def done(self, exchange: Exchange) -> None:
        """An exchange is over."""
        now = time.perf_counter()
        key = (exchange.path, exchange.status or _CLIENT_LEFT, exchange.streamed)
        children = self._requests_of.get(key)
        if children is None:
            path, status, streamed = key
            requests = self._requests.labels(path, status, str(streamed).lower())
            children = self._requests_of[key] = (requests, self._seconds.labels(path))
        children[0].inc()
        children[1].observe(now - exchange.began)
        if exchange.error is not None:
            self._count_error(exchange.error)
        for report in exchange.reports:
            self._count_violations(report.violations)
            self._completion.inc(report.usage.completion)
            self._generated.inc(report.generated)
            if report.resumes or report.forced:
                self._resumes.inc(report.resumes)
                self._resampled.inc(report.resampled)
                self._forced.inc(report.forced)
        if exchange.reports:
            # Several answers to one request share its prompt.
            self._prompt.inc(max(report.usage.prompt for report in exchange.reports))
            self._cached.inc(max(report.usage.cached for report in exchange.reports))
        if exchange.first is not None:
            self._first.observe(exchange.first - exchange.began)
            tokens = sum(report.usage.completion for report in exchange.reports)
            if tokens > 1:
                self._token.observe((now - exchange.first) / (tokens - 1))

    def _count_error(self, error: BaseException) -> None:
        self._errors.labels(error_type(error)).inc()
        if isinstance(error, OutputError):
            self._count_violations(error.violations)

    def _count_violations(self, violations: Mapping[str, int]) -> None:
        self.violations.update(violations)
        for kind, count in violations.items():
            self._violations.labels(self._engine, kind).inc(count)


def error_type(error: BaseException) -> str:
    """A short, stable name for what went wrong; all mistakes of the server's own have the same."""
    if isinstance(error, ClientLeft):
        return "client_left"
    return type(error).__name__ if isinstance(error, AbruzziError) else ServerFault.__name__
