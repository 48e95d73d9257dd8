"""The HTTP client against servers that answer byte by byte, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from abruzzi.engines.http import BrokenOff, Client, Silence, Unreachable, plain

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
ANNOUNCED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"


class Served:
    """A server, and the requests and connections that it has seen."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
                    self.heads.append(head)
                    self.bodies.append(await reader.readexactly(int(length[16:])))
                    await self.answer(writer)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def served(said: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]], **options: Any) -> Any:
    async def same(writer: asyncio.StreamWriter) -> None:
        assert isinstance(said, bytes)
        writer.write(said)

    one = Served(same if isinstance(said, bytes) else said)
    tls = options.pop("tls", None)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    settings = {"connect_seconds": 2.0, "silence_seconds": 2.0, **options}
    client = Client(f"http{'s' if tls else ''}://localhost:{port}/v1", **settings)
    try:
        yield client, one
    finally:
        await client.aclose()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)


async def whole(client: Client, body: bytes = b"{}") -> tuple[int, bytes]:
    response = await client.ask("POST", "/x", body)
    try:
        return response.status, await response.rest(1 << 20)
    finally:
        response.close()


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def test_a_request_says_what_it_has_to() -> None:
    async def work() -> None:
        async with served(OK + b"content-length: 2\r\n\r\nhi", headers=(("authorization", "Bearer k"),)) as (
            client,
            one,
        ):
            assert await whole(client, b'{"a": 1}') == (200, b"hi")
            assert one.bodies == [b'{"a": 1}']
            lines = one.heads[0].split(b"\r\n")
            assert lines[0] == b"POST /v1/x HTTP/1.1" and lines[1].startswith(b"host: localhost:")
            assert {b"content-type: application/json", b"authorization: Bearer k"} <= set(lines)

    run(work())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n3;x=y\r\n ho\r\n0\r\nx-sum: 1\r\n\r\n", b"hi ho"),
        (OK + b"Content-Length: 0\r\n\r\n", b""),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
            + OK
            + b"content-length: 1\r\n\r\na",
            b"a",
        ),
    ],
    ids=["chunks", "empty", "announced"],
)
@pytest.mark.parametrize("size", [1, 3, 999])
def test_answers_of_all_forms_are_read_and_their_connection_is_kept(said: bytes, expected: bytes, size: int) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(said), size):
            writer.write(said[at : at + size])
            await asyncio.sleep(0)

    async def work() -> None:
        async with served(answer) as (client, one):
            for _ in range(3):
                assert await whole(client) == (200, expected)
            assert one.connections == 1

    run(work())


def test_a_connection_that_is_used_again_lasts_as_long_as_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.engines.http_response._KEPT_SECONDS", 0.1)

    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 4\r\n\r\nhe")
        await asyncio.sleep(0.3)  # longer than a connection is kept that nobody uses
        writer.write(b"ll")

    async def work() -> None:
        async with served(slow) as (client, one):
            for _ in range(3):
                assert await whole(client) == (200, b"hell")
            assert one.connections == 1

    run(work())


@pytest.mark.parametrize("more", [b"connection: close\r\ncontent-length: 2\r\n\r\n", b"\r\n"])
def test_an_answer_may_end_with_its_connection(more: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + more + b"hi")
        await writer.drain()
        writer.close()

    async def work() -> None:
        async with served(answer) as (client, one):
            assert [await whole(client) for _ in range(2)] == [(200, b"hi")] * 2
            assert one.connections == 2

    run(work())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
        (OK + b"x: " + b"y" * 70_000, "head of the answer is longer than 65,536"),
        (OK + b"content-length: 1\r\n\r\na" + OK + b"content-length: 1\r\n\r\nb", None),
    ],
)
def test_what_makes_no_sense_is_not_taken_and_its_connection_not_kept(said: bytes, words: str | None) -> None:
    async def work() -> None:
        async with served(said) as (client, one):
            if words is None:
                assert await whole(client) == (200, b"a")
            else:
                with pytest.raises(BrokenOff, match=words):
                    await whole(client)
            await asyncio.sleep(0.01)
            with contextlib.suppress(BrokenOff):
                await whole(client)
            assert one.connections == 2

    run(work())


def test_a_body_that_is_too_long_is_not_read_to_its_end() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\n")
        while True:
            writer.write(b"a" * 65_536)
            await writer.drain()

    async def work() -> None:
        async with served(answer) as (client, _):
            with pytest.raises(BrokenOff, match="longer than 1,048,576 bytes"):
                await whole(client)

    run(work())


def test_a_server_waits_for_a_slow_reader() -> None:
    written = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(OK + b"content-length: 100000000\r\n\r\n")
        while written < 100_000_000:
            writer.write(b"a" * 100_000)
            written += 100_000
            await writer.drain()

    async def work() -> None:
        async with served(answer, silence_seconds=0.2) as (client, _):
            response = await client.ask("POST", "/x", b"{}")
            await asyncio.sleep(0.5)  # longer than a silence may be: it isn't the server's
            assert written < 30_000_000
            read = 0
            while part := await response.read():
                read += len(part)
            assert read == written == 100_000_000
            response.close()

    run(work())


def test_the_end_of_an_answer_that_is_not_wanted_is_waited_for_a_while() -> None:
    pause = 0.05

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await writer.drain()
        await asyncio.sleep(pause)
        writer.write(b"3\r\n ho\r\n0\r\n\r\n")

    async def ask(client: Client) -> None:
        response = await client.ask("POST", "/x", b"{}")
        assert (await response.read()).startswith(b"hi")
        response.close(lingers=True)

    async def work() -> None:
        nonlocal pause
        async with served(answer) as (client, one):
            await ask(client)
            await asyncio.sleep(0.15)
            await ask(client)
            assert one.connections == 1
            await asyncio.sleep(0.15)
            pause = 5.0
            await ask(client)
            await asyncio.sleep(0.3)
            pause = 0.0
            await ask(client)
            assert one.connections == 2

    run(work())


def test_a_silent_server_is_left() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async def work() -> None:
        async with served(answer, silence_seconds=0.1) as (client, _):
            with pytest.raises(Silence, match=r"said nothing for 0\.1 s"):
                await whole(client)

    run(work())


def test_a_server_that_is_not_there_is_told() -> None:
    async def work() -> None:
        for url, words in (("http://127.0.0.1:9", "refused"), ("http://no.such.host.invalid", "known|resol|name")):
            client = Client(url, connect_seconds=5.0, silence_seconds=1.0)
            with pytest.raises(Unreachable, match=f"(?i){words}"):
                await client.ask("POST", "/x", b"{}")
            await client.aclose()

    run(work())


def certificate(folder: Path) -> ssl.SSLContext:
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
    except OSError:
        pytest.skip("openssl, which makes the certificate, isn't here")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_https_is_spoken_to_who_can_show_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = certificate(tmp_path)
    said = OK + b"content-length: 2\r\n\r\nhi"

    async def work(trusted: bool) -> None:
        async with served(said, tls=tls) as (client, one):
            if not trusted:
                with pytest.raises(Unreachable, match=r"(?i)certificate"):
                    await whole(client)
                return
            assert [await whole(client) for _ in range(2)] == [(200, b"hi")] * 2 and one.connections == 1

    run(work(trusted=False))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    run(work(trusted=True))


def test_each_event_loop_has_its_own_connections() -> None:
    async def work() -> None:
        async with served(OK + b"content-length: 2\r\n\r\nhi") as (client, one):
            assert await whole(client) == (200, b"hi")
            found = await asyncio.to_thread(asyncio.run, whole(client))
            assert found == (200, b"hi") and one.connections == 2
            assert await whole(client) == (200, b"hi") and one.connections == 2

    run(work())


def test_who_leaves_while_a_connection_is_made_leaves_nothing_behind() -> None:
    """On uvloop, as the server runs: it tells nobody of the end of a connection that nobody waits for any more."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(OK + b"content-length: 2\r\n\r\nhi")

    async def work() -> int:
        async with served(answer) as (client, _):
            for turn in range(200):
                asking = asyncio.create_task(whole(client))
                await asyncio.sleep(turn % 20 * 0.000_1)
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking
            assert await whole(client) == (200, b"hi")
            await asyncio.sleep(0.05)
            (pool,) = (found for found, _ in client._pools.values())
            return len(pool.open)

    assert uvloop.run(asyncio.wait_for(work(), 20)) == 1


def test_an_answer_before_the_whole_request_is_read_ends_the_connection() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")  # and reads no more of it
            await asyncio.sleep(1)
        finally:
            writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 2.0, 2.0)
        for _ in range(2):
            assert await asyncio.wait_for(whole(client, b"x" * (20 << 20)), 0.9) == (413, b"no")
        assert connections == 2
        await client.aclose()
        server.close()

    run(work())


def test_another_protocol_is_no_answer() -> None:
    said = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    faults: list[Any] = []

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with served(said) as (client, _):
            with pytest.raises(BrokenOff, match="another protocol"):
                await whole(client)

    run(work())
    assert not faults


def test_a_silent_server_is_no_end_of_an_answer_without_a_length() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\nhel")
        await asyncio.sleep(1)

    async def work() -> None:
        async with served(answer, silence_seconds=0.1) as (client, _):
            with pytest.raises(Silence):
                await whole(client)

    run(work())


def test_a_server_that_was_held_up_has_its_time_to_go_on() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 600000\r\n\r\n" + b"a" * 300_000)
        await asyncio.sleep(2.2)  # beyond what the client looks after
        writer.write(b"a" * 300_000)

    async def work() -> None:
        async with served(answer, silence_seconds=1.0) as (client, _):
            response = await client.ask("POST", "/x", b"{}")
            await asyncio.sleep(1.6)
            assert len(await response.rest(1 << 20)) == 600_000
            response.close()

    run(work())


@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 200"])
def test_only_what_was_given_up_without_a_word_is_sent_again(last: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        if len(one.bodies) == 2:
            writer.write(last)
            writer.close()
        else:
            writer.write(OK + b"content-length: 2\r\n\r\nhi")

    one: Served

    async def work() -> None:
        nonlocal one
        async with served(answer) as (client, one):
            assert await whole(client) == (200, b"hi")
            if last:
                with pytest.raises(BrokenOff):
                    await whole(client)
            else:
                assert await whole(client) == (200, b"hi")
            assert len(one.bodies) == (2 if last else 3)

    run(work())


def test_a_connection_that_is_about_to_end_is_not_used() -> None:
    async def work() -> None:
        async with served(OK + b"content-length: 2\r\n\r\nhi") as (client, one):
            assert await whole(client) == (200, b"hi")
            ((pool, _),) = client._pools.values()
            pool.idle[0].data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            assert await whole(client) == (200, b"hi") and len(one.bodies) == one.connections == 2

    run(work())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b", "came as gzip"),
        (b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"x: y\r\n" * 100_000, "between parts"),
        (b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 100_000, "between parts"),
    ],
    ids=["gzip", "trailers", "extension"],
)
def test_what_nobody_asked_for_is_not_read_to_its_end(said: bytes, words: str) -> None:
    async def work() -> None:
        async with served(OK + said) as (client, _):
            with pytest.raises(BrokenOff, match=words):
                await whole(client)

    run(work())


def test_fields_behind_the_body_are_none_of_the_head() -> None:
    said = OK + b"content-type: a/b\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-type: c/d\r\n\r\n"

    async def work() -> None:
        async with served(said) as (client, _):
            response = await client.ask("POST", "/x", b"{}")
            assert await response.rest(9) == b"" and response.headers[b"content-type"] == b"a/b"
            response.close()

    run(work())


def test_a_server_that_is_slow_to_accept_is_asked_for_a_connection_again() -> None:
    async def work() -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(0)
            address = listening.getsockname()
            waiting = [socket.socket() for _ in range(3)]  # more than its queue holds
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(address)
            client = Client(f"http://127.0.0.1:{address[1]}", connect_seconds=0.3, silence_seconds=2.0)
            with pytest.raises(Unreachable, match=r"no connection within 0\.3 s"):
                await client.reach()
            with pytest.raises(Unreachable, match=r"no connection within 0\.9 s"):
                await client.ask("POST", "/x", b"{}")
            asking = asyncio.create_task(whole(client))
            await asyncio.sleep(0.4)
            for one in waiting:
                one.close()
            server = await asyncio.start_server(Served(answer).serve, sock=listening)
            assert await asking == (200, b"hi")
            await client.aclose()
            server.close()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 2\r\n\r\nhi")

    run(work())


def test_why_there_is_no_connection_is_told_in_plain_words() -> None:
    several = "Multiple exceptions: [Errno 111] Connect call failed ('::1', 9), [Errno 111] Connect call failed (...)"
    assert plain(OSError(several)) == plain(ConnectionRefusedError(111, "uv")) == "Connection refused"
    assert plain(TimeoutError("timed out")) == "timed out" and plain(OSError()) == "OSError"
