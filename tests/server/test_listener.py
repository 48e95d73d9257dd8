"""How a server listens, and how it stops: a process of its own, told by signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask, raw, read_all, streamed

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
# An answer takes as many hundredths of a second as the first argument says; the second is the grace.
SERVER = """
import signal, sys
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.server.app import create_app
from abruzzi.server.listener import Listener, listen
from abruzzi.server.settings import Settings
signal.signal(signal.SIGINT, signal.default_int_handler)
listening = listen("127.0.0.1", 0)
print(listening.getsockname()[1], flush=True)
engine = ScriptedEngine(["x" * int(sys.argv[1])], cut=list, delay=0.01)
Listener(create_app(engine, Settings(grace=float(sys.argv[2]), log="json"))).run(sockets=[listening])
print("closed", engine.closed)
"""


class Process:
    def __init__(self, length: int, grace: float) -> None:
        command = [sys.executable, "-c", SERVER, str(length), str(grace)]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.popen.stdout is not None
        self.port = int(self.popen.stdout.readline())
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                if ask(self.port, "/health").status == 200:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def signal(self, which: int = signal.SIGTERM) -> None:
        self.popen.send_signal(which)

    def end(self, timeout: float = 20) -> tuple[int, str, list[Any]]:
        """Its exit status, what it wrote, and its log."""
        out, err = self.popen.communicate(timeout=timeout)
        return self.popen.returncode, out, [json.loads(line) for line in err.splitlines()]


@contextlib.contextmanager
def process(length: int = 100, grace: float = 10) -> Iterator[Process]:
    started = Process(length, grace)
    try:
        yield started
    finally:
        started.popen.kill()
        started.popen.wait()
        for pipe in (started.popen.stdout, started.popen.stderr):
            assert pipe is not None
            pipe.close()


@posix
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_what_is_open_ends_as_if_nothing_were(which: int) -> None:
    with process(length=150) as server, ThreadPoolExecutor(2) as pool, raw(server.port, streamed()) as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"
        whole = pool.submit(ask, server.port)
        time.sleep(0.3)
        server.signal(which)
        rest = read_all(connection)
        assert rest.count(b'"content":"x"') == 150 and rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert whole.result().json["choices"][0]["message"]["content"] == "x" * 150
        code, out, log = server.end()
        assert (code, out) == (0, "closed 0\n")
        assert [line["status"] for line in log if line["path"] == CHAT] == [200, 200]


@posix
def test_nothing_new_is_taken() -> None:
    with (
        process(length=200) as server,
        raw(server.port, streamed()) as connection,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as openai,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as anthropic,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as balancer,
    ):
        for kept in (openai, anthropic, balancer):
            kept.request("GET", "/health")
            assert b'"ok"' in kept.getresponse().read()
        assert connection.recv(12) == b"HTTP/1.1 200"
        server.signal()
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        for kept, path, kind in ((openai, CHAT, "server_error"), (anthropic, MESSAGES, "overloaded_error")):
            kept.request("POST", path, json.dumps({**HELLO, "max_tokens": 9}))
            response = kept.getresponse()
            told = json.loads(response.read())
            assert (response.status, response.headers["retry-after"], response.headers["connection"]) == (
                503,
                "5",
                "close",
            )
            assert (told["error"]["type"], told["error"]["message"]) == (kind, "the server is stopping")
        balancer.request("GET", "/health")
        response = balancer.getresponse()
        assert (response.status, json.loads(response.read())["status"]) == (503, "stopping")
        assert b"[DONE]" in read_all(connection)
        assert server.end()[0] == 0


@posix
def test_what_outlasts_the_grace_is_told_and_cut() -> None:
    paths = ((CHAT, "data: [DONE]"), (MESSAGES, "event: error"), ("/v1/responses", "event: response.failed"))
    body = streamed(input="Hello!", max_tokens=99_999)
    with process(length=100_000, grace=0.5) as server, ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(ask, server.port, path, body) for path, _ in paths]
        whole = pool.submit(ask, server.port)
        time.sleep(0.5)
        server.signal()
        began = time.monotonic()
        # http.client raises where a chunked body isn't brought to its end.
        for stream, (_, end) in zip(streams, paths, strict=True):
            told = stream.result()
            assert told.status == 200 and end in told.body.decode() and b"the server is stopping" in told.body
        assert (whole.result().status, whole.result().json["error"]["message"]) == (503, "the server is stopping")
        code, out, log = server.end()
        assert (code, out) == (0, "closed 4\n") and time.monotonic() - began < 5
        errors = [line["error"] for line in log if line["method"] == "POST"]
        assert errors == ["Stopping"] * 4


@posix
def test_a_second_ctrl_c_doesnt_wait() -> None:
    with process(length=100_000, grace=60) as server, raw(server.port, streamed()) as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"
        server.signal(signal.SIGINT)
        time.sleep(0.4)
        assert server.popen.poll() is None
        server.signal(signal.SIGINT)
        began = time.monotonic()
        code, _, log = server.end()
        assert code == 1 and time.monotonic() - began < 2
        assert b"the server is stopping" in read_all(connection)
        assert log[-1]["error"] == "Stopping"


@posix
def test_a_client_that_doesnt_read_holds_nothing_up() -> None:
    with process(length=1_000_000, grace=0.5) as server:
        body = streamed(n=100)
        with raw(server.port, body) as connection:
            connection.recv(12)
            time.sleep(1)
            server.signal()
            assert server.end(15)[0] == 0


@posix
def test_without_requests_it_ends_at_once() -> None:
    with process(grace=60) as server, socket.create_connection(("127.0.0.1", server.port)):
        began = time.monotonic()
        server.signal()
        code, out, _ = server.end()
        assert (code, out) == (0, "closed 0\n") and time.monotonic() - began < 3


def test_small_pieces_arent_held_back_by_the_kernel(serve: Serve) -> None:
    served = serve(ScriptedEngine(["x" * 100], cut=list, delay=0.01))
    with raw(served.port, streamed()) as connection:
        connection.recv(12)
        (accepted,) = served.server.server_state.connections
        made = accepted.transport.get_extra_info("socket")
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_server_doesnt_tell_what_it_is_made_of(serve: Serve) -> None:
    assert "server" not in ask(serve(ScriptedEngine([""])), "/health").headers
