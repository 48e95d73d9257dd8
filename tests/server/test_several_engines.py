"""Several engines behind a server: what clients are told when they fail, and what is counted of each."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from abruzzi import connect
from abruzzi.engines.completions import CompletionsEngine
from abruzzi.engines.pool import Pool
from abruzzi.engines.ways import Ways
from abruzzi.protocol.variants import K2
from tests.conftest import Completions, events
from tests.engines.wire import chunk
from tests.server.asking import CHAT, HELLO, Serve, ask, streamed
from tests.server.test_app import ASK, REST, TOOLS, WRONG
from tests.server.test_metrics import metrics


def busy(self: Completions) -> None:
    self.rfile.read(int(self.headers["Content-Length"]))
    self.send_response(429)
    self.send_header("Retry-After", "20")
    self.send_header("Content-Length", "0")
    self.end_headers()


Start = Callable[..., str]


@pytest.fixture
def engine() -> Iterator[Start]:
    """Starts engines, each until the test is over, and tells their `host:port`."""
    with contextlib.ExitStack() as stack:

        def start(**more: Any) -> str:
            handler = type("Handler", (Completions,), {"asked": [], **more})
            http = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=http.serve_forever, daemon=True).start()
            stack.callback(http.shutdown)
            return f"127.0.0.1:{http.server_port}"

        yield start


def pool_of(*names: str) -> Pool:
    pool = connect([f"http://{name}" for name in names], model="kimi-k2")
    assert isinstance(pool, Pool)
    return pool


HI = events(chunk("Hello.", "stop"))


def test_a_client_is_told_when_a_busy_engine_wants_to_be_asked_again(serve: Serve, engine: Start) -> None:
    alone = connect(f"http://{engine(do_POST=busy)}", model="kimi-k2")
    both = pool_of(engine(do_POST=busy), engine(do_POST=busy))
    for body in (HELLO, streamed()):
        told = ask(serve(alone), CHAT, body)
        assert (told.status, told.headers["retry-after"]) == (503, "20")
    served = serve(both)
    for _ in range(3):
        told = ask(served)
        assert told.status == 503 and 18 <= int(told.headers["retry-after"]) <= 25
    assert [one["failed"] for one in both.health()] == [1, 1]  # nobody asked them again


def test_engines_that_are_down_are_to_be_tried_again_soon(serve: Serve, engine: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        name = f"127.0.0.1:{closed.getsockname()[1]}"
    told = ask(serve(connect(f"http://{name}", model="kimi-k2")))
    assert (told.status, told.headers["retry-after"]) == (503, "5")


def test_violations_are_counted_by_the_engine_that_wrote_them(serve: Serve, engine: Start) -> None:
    wrong = engine(bodies=[events(chunk(text, "stop")) for text in (WRONG, REST)])
    well = engine(body=HI)
    served = serve(pool_of(wrong, well))
    assert ask(served, CHAT, {"messages": ASK, "tools": TOOLS}).status == 200
    told = metrics(served)
    assert {key[1:]: value for key, value in told.items() if key[0] == "abruzzi_violations_total"} == {
        (wrong, "schema"): 1
    }
    assert ask(served, "/health").json["violations"] == {wrong: {"schema": 1}}


def test_a_failed_output_is_counted_by_its_engine_too(serve: Serve, engine: Start) -> None:
    names = [engine(body=events(chunk("<|tool_calls_section_begin|>x", "stop"))) for _ in range(2)]
    served = serve(pool_of(*names))
    assert ask(served, CHAT, {"messages": ASK, "tools": TOOLS}).status == 502
    counted = {key[1] for key in metrics(served) if key[0] == "abruzzi_violations_total"}
    assert counted and counted <= set(names)


def test_each_engine_tells_whether_it_is_up_and_what_it_has_to_do(serve: Serve, engine: Start) -> None:
    let = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        down = f"127.0.0.1:{closed.getsockname()[1]}"

    def held_back(self: Completions) -> None:
        let.wait(10)
        Completions.do_POST(self)

    held = engine(do_POST=held_back, body=HI)
    served = serve(pool_of(down, held))
    asking = [threading.Thread(target=ask, args=(served, CHAT, body)) for body in (streamed(), HELLO, HELLO)]
    for one in asking:
        one.start()
    try:
        while metrics(served)["abruzzi_engine_requests", held] < 3:
            pass
        told = metrics(served)
        assert (told["abruzzi_engine_up", down], told["abruzzi_engine_up", held]) == (0, 1)
        assert told["abruzzi_engine_failures_total", down] >= 1 and told["abruzzi_engine_failures_total", held] == 0
        assert told["abruzzi_requests_waiting",] == told["abruzzi_open_streams",] == 1
        assert told["abruzzi_requests_at_work",] == 3
    finally:
        let.set()
        for one in asking:
            one.join()
    told = metrics(served)
    assert told["abruzzi_engine_requests", held] == told["abruzzi_requests_waiting",] == 0


def test_no_key_is_shown_and_each_engine_gets_it(serve: Serve, engine: Start) -> None:
    keys: list[str | None] = []

    def keyed(self: Completions) -> None:
        keys.append(self.headers["Authorization"])
        (Completions.do_POST if self.command == "POST" else Completions.do_GET)(self)

    names = [engine(do_POST=keyed, do_GET=keyed, body=HI) for _ in range(2)]
    served = serve(connect([f"http://{name}" for name in names], api_key="sk-secret"))
    for number in range(4):
        assert ask(served, CHAT, {"messages": [{"role": "user", "content": str(number)}]}).status == 200
    assert set(keys) == {"Bearer sk-secret"} and len(keys) > 5
    for path in ("/health", "/metrics", "/"):
        assert b"sk-secret" not in ask(served, path).body


@pytest.mark.parametrize("count", [1, 2])
def test_health_finds_out_that_an_engine_is_back_without_a_request(serve: Serve, count: int) -> None:
    """A load balancer sends none to who isn't well."""
    with socket.socket() as other, socket.socket() as taken:
        for one in (other, taken):
            one.bind(("127.0.0.1", 0))  # and doesn't listen
        names = [f"127.0.0.1:{one.getsockname()[1]}" for one in (taken, other)][:count]
        engines = [CompletionsEngine(f"http://{name}/v1", model="kimi-k2", variant=K2, ways=Ways()) for name in names]
        served = serve(engines[0] if count == 1 else Pool(engines))
        assert ask(served, "/health").status == 200  # nothing is known yet
        assert ask(served).status == 503
        for _ in range(2):
            told = ask(served, "/health")
            assert (told.status, told.json["status"]) == (503, "sick")
        taken.listen()
        told = ask(served, "/health")
        assert (told.status, told.json["status"]) == (200, "ok" if count == 1 else "degraded")
