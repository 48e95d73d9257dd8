"""A span a request, as OpenTelemetry's conventions for generative AI have it."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from abruzzi import EngineError
from abruzzi.engines.base import Engine
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.server import telemetry
from abruzzi.server.telemetry import Telemetry
from tests.conftest import Served
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask, streamed
from tests.server.test_app import Failing

COMPLETIONS = "/v1/completions"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced(serve: Serve, engine: Engine, **settings: Any) -> tuple[Served, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return serve(engine, telemetry=Telemetry(provider, engine.capabilities), **settings), exporter


def span_of(served: Served, exporter: InMemorySpanExporter) -> Any:
    served.stop()
    (span,) = exporter.get_finished_spans()
    return span


def test_a_request_is_a_span_under_the_clients(serve: Serve) -> None:
    engine = ScriptedEngine(["Hello."])
    served, exporter = traced(serve, engine)
    body = {**HELLO, "model": "kimi", "max_tokens": 50, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["@"]}
    answer = ask(served, CHAT, body, headers={"traceparent": PARENT, "X-Request-Id": "abc"})
    span = span_of(served, exporter)
    assert (span.name, span.kind) == ("chat kimi", SpanKind.SERVER)
    assert f"{span.context.trace_id:032x}" == PARENT[3:35] and f"{span.parent.span_id:016x}" == PARENT[36:52]
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "abruzzi",
        "gen_ai.request.model": "kimi",
        "gen_ai.response.model": "scripted",
        "gen_ai.output.type": "text",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("@",),
        "gen_ai.response.id": answer.json["id"],
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": len(str(engine.prompts[0])),
        "gen_ai.usage.output_tokens": len("Hello."),
        "gen_ai.usage.cache_read.input_tokens": 0,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": CHAT,
        "abruzzi.request.id": "abc",
        "abruzzi.guarantee": ("validated",),
        "abruzzi.resumes": 0,
        "abruzzi.engine": ("scripted",),
    }
    assert span.status.status_code == StatusCode.UNSET and 0 < span.end_time - span.start_time < 5e9


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "operation", "output"),
    [
        (COMPLETIONS, {"prompt": "Hi"}, "text_completion", "text"),
        (CHAT, {**HELLO, "response_format": {"type": "json_object"}}, "chat", "json"),
        ("/v1/responses", {"input": "Hi"}, "chat", "text"),
        (MESSAGES, {**HELLO, "max_tokens": 9}, "chat", "text"),
    ],
)
def test_operation_kind_and_id_of_an_answer_are_told(
    serve: Serve, path: str, body: Any, operation: str, output: str, stream: bool
) -> None:
    served, exporter = traced(serve, ScriptedEngine(["{}"]))
    told = ask(served, path, {**body, "model": "kimi", "stream": stream}).body.decode()
    span = span_of(served, exporter)
    assert span.name == f"{operation} kimi" and span.attributes["gen_ai.operation.name"] == operation
    assert span.attributes["gen_ai.output.type"] == output and span.attributes["gen_ai.response.id"] in told


def test_a_stream_tells_when_it_began(serve: Serve) -> None:
    served, exporter = traced(serve, ScriptedEngine(["Hello."], cut=list, delay=0.05))
    ask(served, MESSAGES, streamed(max_tokens=9))
    span = span_of(served, exporter)
    assert span.attributes["gen_ai.request.stream"] and span.parent is None
    # An event loop counts from when its round began, in milliseconds: it may wake a little early.
    assert 0.045 <= span.attributes["gen_ai.response.time_to_first_chunk"] < (span.end_time - span.start_time) / 1e9


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_fails_at_is_an_error(serve: Serve, stream: bool) -> None:
    served, exporter = traced(serve, Failing(EngineError("the engine died"), "Hello"))
    ask(served, CHAT, {**HELLO, "stream": stream})
    span = span_of(served, exporter)
    assert (span.attributes["error.type"], span.status.status_code) == ("EngineError", StatusCode.ERROR)
    assert "Hello" not in str(span.attributes)


def test_what_asks_no_model_is_no_span(serve: Serve) -> None:
    served, exporter = traced(serve, ScriptedEngine([""]))
    for path, body in (("/health", None), ("/nothing", None), (CHAT, {"messages": 1})):
        ask(served, path, body)
    served.stop()
    assert not exporter.get_finished_spans()


NAMES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
    "OTEL_SERVICE_NAME",
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def service(made: Telemetry | None) -> object:
    assert made is not None
    made.close()
    return made._provider.resource.attributes["service.name"]


def test_the_environment_switches_it_on(environment: pytest.MonkeyPatch) -> None:
    capabilities = ScriptedEngine([""]).capabilities
    assert Telemetry.of_environment(capabilities) is None
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert service(Telemetry.of_environment(capabilities)) == "abruzzi"
    environment.setenv("OTEL_SERVICE_NAME", "mine")
    assert service(Telemetry.of_environment(capabilities)) == "mine"
    for name, value in (("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")):
        with environment.context() as context:
            context.setenv(name, value)
            assert Telemetry.of_environment(capabilities) is None


class Collector(BaseHTTPRequestHandler):
    got: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_spans_reach_a_collector_before_the_server_has_ended(serve: Serve, environment: pytest.MonkeyPatch) -> None:
    handler = type("Handler", (Collector,), {"got": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as collector:
        threading.Thread(target=collector.serve_forever, args=(0.01,), daemon=True).start()
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        served = serve(ScriptedEngine(["My secret."]))
        ask(served, CHAT, {**HELLO, "model": "kimi"})
        served.stop()
        collector.shutdown()
    ((path, body),) = handler.got
    assert path == "/v1/traces" and b"chat kimi" in gunzipped(body) and b"secret" not in gunzipped(body)


def gunzipped(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


def test_without_the_package_nothing_happens(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    environment.setattr(telemetry, "trace", None)
    assert Telemetry.of_environment(ScriptedEngine([""]).capabilities) is None


def test_nor_does_the_module_need_it() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from abruzzi.server.app import create_app\n"
        "from abruzzi.engines.scripted import ScriptedEngine\n"
        "create_app(ScriptedEngine(['']))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
