"""What a server has done so far, in Prometheus' form.

What is counted are plain numbers, which cost a request a few microseconds; they become metrics when somebody asks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import prometheus_client as prometheus
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from abruzzi.engines.base import Engine, called, name_of
from abruzzi.engines.refusal import Refused
from abruzzi.protocol.errors import AbruzziError, EngineError, OutputError
from abruzzi.server.exchange import ClientLeft, Exchange
from abruzzi.server.refusals import NoRoom, ServerFault, Stopping

# As nginx has it: the client left before there was a status.
_CLIENT_LEFT = 499
_REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1)


class _Times:
    """Seconds, by how many were how long."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def shown(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        buckets, count = [], 0
        for bound, more in zip((*map(float, self._bounds), "+Inf"), self._counts, strict=True):
            count += more
            buckets.append((str(bound), count))
        family.add_metric(labels, buckets, self._sum)


class Metrics:
    """Counts exchanges, each once, when it is over. The registry is its own."""

    def __init__(self, engine: Engine, open_: Collection[Exchange]) -> None:
        self.violations: dict[str, Counter[str]] = defaultdict(Counter)
        """How often an output could not go on as it was, by engine and kind."""
        self._engine, self._open = engine, open_
        self._registry = registry = prometheus.CollectorRegistry()
        self._requests: Counter[tuple[str, int, bool]] = Counter()
        self._seconds: dict[str, _Times] = defaultdict(lambda: _Times(_REQUEST_SECONDS))
        self._first, self._token = _Times(_FIRST_SECONDS), _Times(_TOKEN_SECONDS)
        self._prompt = self._cached = self._completion = 0
        self._generated = self._forced = self._resumes = self._resampled = 0
        self._errors: Counter[str] = Counter()
        self._failures = 0
        registry.register(_Collected(self._families))
        prometheus.ProcessCollector(registry=registry)

    def shown(self, accept: str) -> tuple[bytes, str]:
        """All of it, and its content type, in the form that a scraper accepts."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def done(self, exchange: Exchange) -> None:
        """An exchange is over."""
        now, first, usage = time.perf_counter(), exchange.first, exchange.usage
        self._requests[exchange.path, exchange.status or _CLIENT_LEFT, exchange.streamed] += 1
        self._seconds[exchange.path].add(now - exchange.began)
        if exchange.error is not None:
            self._count_error(exchange.error)
        for report in exchange.reports.values():
            self._generated += report.generated
            self._forced += report.forced
            self._resumes += report.resumes
            self._resampled += report.resampled
            if report.violations:
                self.violations[report.engine].update(report.violations)
        self._prompt += usage.prompt
        self._cached += usage.cached
        self._completion += usage.completion
        if first is not None:
            self._first.add(first - exchange.began)
            if usage.completion > 1:
                self._token.add((now - first) / (usage.completion - 1))

    def _count_error(self, error: BaseException) -> None:
        self._errors[error_type(error)] += 1
        if isinstance(error, OutputError) and error.violations:
            self.violations[error.engine or name_of(self._engine)].update(error.violations)
        if isinstance(error, EngineError) and not isinstance(error, Refused | NoRoom | Stopping):
            self._failures += 1

    def _families(self) -> Iterator[Metric]:
        yield from self._of_requests()
        yield from self._of_tokens()
        yield from self._of_engines()
        served = self._engine.capabilities
        told = {"version": version("abruzzi"), "model": served.model, "variant": served.variant.name}
        yield InfoMetricFamily("abruzzi", "What runs here.", told)

    def _of_requests(self) -> Iterator[Metric]:
        requests = [
            ((path, str(status), str(streamed).lower()), count)
            for (path, status, streamed), count in self._requests.items()
        ]
        seconds = [((path,), times) for path, times in self._seconds.items()]
        yield _counter("requests", "Requests that are over.", ("path", "status", "streamed"), requests)
        yield _histogram("request_seconds", "From a request to its answer's end.", ("path",), seconds)
        about = "Requests that failed, and streams that broke off."
        yield _counter("errors", about, ("type",), [((name,), count) for name, count in self._errors.items()])
        open_ = tuple(self._open)
        streams = [exchange for exchange in open_ if exchange.streamed]
        waiting = sum(exchange.first is None for exchange in streams)
        yield _gauge("requests_at_work", "Requests that are being answered.", len(open_))
        yield _gauge("open_streams", "Of these, those that stream.", len(streams))
        yield _gauge("requests_waiting", "Of these, those of which no token has come yet.", waiting)

    def _of_tokens(self) -> Iterator[Metric]:
        yield _histogram("time_to_first_token_seconds", "To a stream's first of the answer.", (), [((), self._first)])
        yield _histogram(
            "time_per_output_token_seconds", "Between a stream's tokens, its mean.", (), [((), self._token)]
        )
        for name, about, count in (
            ("prompt_tokens", "Tokens of prompts.", self._prompt),
            ("cached_prompt_tokens", "Of these, those that the engine had read before.", self._cached),
            ("completion_tokens", "Tokens of answers.", self._completion),
            ("resumes", "How often an engine was asked to go on from what could stand.", self._resumes),
            ("resampled", "Of these, how often because nothing had come that could.", self._resampled),
            ("generated_characters", "Characters that engines wrote.", self._generated),
            ("forced_characters", "Characters that were added to what engines wrote.", self._forced),
        ):
            yield CounterMetricFamily(f"abruzzi_{name}", about, count)

    def _of_engines(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("abruzzi_engine_up", "Whether it answers, as far as is known.", labels=("engine",))
        busy = GaugeMetricFamily("abruzzi_engine_requests", "Requests that it has now.", labels=("engine",))
        failed = CounterMetricFamily("abruzzi_engine_failures", "Requests that failed there.", labels=("engine",))
        for row in engines_of(self._engine):
            name = [called(row["url"], row["model"])]
            up.add_metric(name, row["status"] == "ok")
            # One that is alone has what the server has.
            busy.add_metric(name, row.get("outstanding", len(self._open)))
            failed.add_metric(name, row.get("failed", self._failures))
        yield from (up, busy, failed)
        about = "Outputs that could not go on as they were."
        violations = [((name, kind), count) for name, of in self.violations.items() for kind, count in of.items()]
        yield _counter("violations", about, ("engine", "kind"), violations)


class _Collected(Collector):
    """What a function makes each time that somebody asks."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()


def engines_of(engine: Engine) -> list[dict[str, Any]]:
    """The engines that this one is made of, and how each is: `url`, `model`, `status`; a pool knows more."""
    ask = getattr(engine, "health", None)
    alone = {"url": getattr(engine, "url", None), "model": engine.capabilities.model, "status": "ok"}
    return [alone] if ask is None else list(ask())


def _counter(name: str, about: str, labels: Sequence[str], counts: Iterable[tuple[Sequence[str], int]]) -> Metric:
    family = CounterMetricFamily(f"abruzzi_{name}", about, labels=labels)
    for values, count in counts:
        family.add_metric(values, count)
    return family


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"abruzzi_{name}", about, value)


def _histogram(name: str, about: str, labels: Sequence[str], times: Iterable[tuple[Sequence[str], _Times]]) -> Metric:
    family = HistogramMetricFamily(f"abruzzi_{name}", about, labels=labels)
    for values, one in times:
        one.shown(family, values)
    return family


def error_type(error: BaseException) -> str:
    """A short, stable name for what went wrong; all mistakes of the server's own have the same."""
    if isinstance(error, ClientLeft):
        return "client_left"
    return type(error).__name__ if isinstance(error, AbruzziError) else ServerFault.__name__
