"""What it costs to have the server between a client and its engine, beside nginx and LiteLLM's proxy.

    python bench/server.py [--streams 1 64 512] [--chunks 300] [--requests 400] [--seconds 10] [--only NAME ...]
                           [--litellm COMMAND] [--json FILE]

All stand in front of the same engine (`server_engine.py`), which costs next to nothing, and are asked by the same
client, on one machine, one after another. Needs `nginx` in the PATH (Debian: nginx-light) and LiteLLM's proxy
(`pip install "litellm[proxy]"` in an environment of its own; `--litellm` is its command); what isn't there is left out.

    straight     no middle
    nginx        proxy_pass, one worker, no buffering
    litellm      its proxy, one worker, as installed
    abruzzi      no tools: chat API in front, raw completions behind
    with guard   with a tool: every chunk is part of a call's arguments, and goes through the guard

    CPU/request  CPU time of the middle a request: a stream of one chunk, 8 at a time
    CPU/chunk    CPU time of the middle a chunk, the requests' taken off
    first        added time to the first chunk beside so many streams, median and 99th percentile
    memory       resident, at most
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
TOOL = {
    "type": "function",
    "function": {
        "name": "write_file",
        "description": "Write a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
            "required": ["path", "content"],
        },
    },
}
progress = Console(stderr=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# The client


class Stream(asyncio.Protocol):
    """One request, and what comes of it."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.began = time.perf_counter()
        self.first: float | None = None
        self.chunks = 0
        self.tail = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.tail == b"" and not data.startswith(b"HTTP/1.1 200"):
            self._fail(data)
        # Of chat's chunks, those that say something.
        count = data.count(b'"content":"') + data.count(b'"content": "') + data.count(b'"arguments":"')
        if count and self.first is None:
            self.first = time.perf_counter() - self.began
        self.chunks += count
        self.tail = (self.tail + data)[-200:]
        if b"[DONE]" in self.tail and self.tail.endswith(b"0\r\n\r\n"):
            self.transport.close()
            if not self.over.done():
                self.over.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self._fail(self.tail)

    def _fail(self, data: bytes) -> None:
        if not self.over.done():
            self.over.set_exception(RuntimeError(data.decode(errors="replace")[:500]))


@dataclass
class Middle:
    """What stands between the client and the engine."""

    name: str
    port: int
    pids: Callable[[], Sequence[int]] = field(repr=False)
    kind: str = "text"

    def request(self, chunks: int, pace: int) -> bytes:
        body: dict[str, Any] = {
            "model": "kimi-k2",
            "messages": [{"role": "user", "content": f"CHUNKS={chunks} PACE={pace} KIND={self.kind}"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.kind == "call":
            body |= {"tools": [TOOL]}
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\ncontent-type: application/json\r\n"
        )
        return f"{head}authorization: Bearer sk-none\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data

    async def ask(self, chunks: int, pace: int) -> Stream:
        made: list[Stream] = []

        def make() -> Stream:
            made.append(Stream(self.request(chunks, pace)))
            return made[0]

        await asyncio.get_running_loop().create_connection(make, "127.0.0.1", self.port)
        await made[0].over
        return made[0]

    def cpu(self) -> float:
        """Microseconds of CPU time that its processes have spent."""
        spent = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                threads = Path(f"/proc/{pid}/task").iterdir()
                spent += sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
        return spent / 1000

    def memory(self) -> float:
        """MB that are resident."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
        return total / 1000


def tree(pid: int) -> Sequence[int]:
    """The process and its children."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


# What is measured


@dataclass
class Row:
    name: str
    request_us: float = 0.0
    chunk_us: Mapping[int, float] = field(default_factory=dict)
    first_ms: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    memory_mb: float = 0.0


async def several(middle: Middle, count: int, at_once: int, chunks: int, pace: int) -> list[Stream]:
    gate = asyncio.Semaphore(at_once)

    async def one() -> Stream:
        async with gate:
            return await middle.ask(chunks, pace)

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def measure(middle: Middle, options: argparse.Namespace) -> Row:
    row = Row(middle.name)
    await several(middle, 30, 8, 3, 0)
    before = middle.cpu()
    await several(middle, options.requests, 8, 1 if middle.kind == "text" else 8, 0)
    row.request_us = (middle.cpu() - before) / options.requests
    chunk_us, first_ms = {}, {}
    for streams in options.streams:
        # As fast as one engine of 64 streams might be, and no faster than all of them can follow here.
        pace = max(2, round(streams * options.chunks / options.rate / options.chunks * 1000))
        count = max(options.chunks, round(options.seconds * 1000 / pace))
        before = middle.cpu()
        tasks = []
        for _ in range(streams):
            tasks.append(asyncio.create_task(middle.ask(count, pace)))
            await asyncio.sleep(0.5 / streams)
        probes: list[float] = []
        while not tasks[0].done() and len(probes) < options.probes:
            probe = await middle.ask(9 if middle.kind == "call" else 2, 0)
            probes.append((probe.first or 0.0) * 1000)
            await asyncio.sleep(0.005)
            row.memory_mb = max(row.memory_mb, middle.memory())
        done = await asyncio.gather(*tasks)
        spent = (middle.cpu() - before) - (streams + len(probes)) * row.request_us
        assert all(stream.first is not None for stream in done), f"{middle.name}: streams without a chunk"
        # By the engine's chunks: what a middle writes together came together.
        chunk_us[streams] = spent / (streams * count)
        ordered = sorted(probes)
        first_ms[streams] = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
    row.chunk_us, row.first_ms = chunk_us, first_ms
    return row


# What is started


@contextlib.contextmanager
def process(name: str, *command: str, port: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, **options)
        try:
            for _ in range(1200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
                    break
                if started.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"{name} ended: {log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield started
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()


@contextlib.contextmanager
def nginx(engine: int) -> Iterator[Middle]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        paths = "\n".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        Path(folder, "nginx.conf").write_text(f"""
            daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
            events {{ worker_connections 8192; }}
            http {{
                access_log off; {paths}
                upstream engine {{ server 127.0.0.1:{engine}; keepalive 600; }}
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
                        proxy_buffering off; proxy_read_timeout 600s;
                    }}
                }}
            }}""")
        with process("nginx", "nginx", "-c", f"{folder}/nginx.conf", "-p", folder, port=port) as started:
            yield Middle("nginx", port, lambda: tree(started.pid))


@contextlib.contextmanager
def litellm(engine: int, command: str) -> Iterator[Middle]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        served = {"model": "openai/kimi-k2", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}
        config = {
            "model_list": [{"model_name": "kimi-k2", "litellm_params": served}],
            "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
        }
        Path(folder, "config.yaml").write_text(json.dumps(config))
        arguments = ("--config", f"{folder}/config.yaml", "--port", str(port), "--host", "127.0.0.1")
        with process("litellm", command, *arguments, port=port, cwd=folder) as started:
            time.sleep(5)
            yield Middle("litellm", port, lambda: tree(started.pid))


@contextlib.contextmanager
def abruzzi(engine: int, kind: str) -> Iterator[Middle]:
    port = free_port()
    url = f"http://127.0.0.1:{engine}/v1"
    command = (sys.executable, "-m", "abruzzi", "serve", "--port", str(port), "--engine", url, "--variant", "k2")
    with process("abruzzi", *command, port=port) as started:
        yield Middle("abruzzi" if kind == "text" else "with guard", port, lambda: tree(started.pid), kind)


def main() -> int:
    parser = argparse.ArgumentParser(description="What the server costs between a client and its engine.")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--chunks", type=int, default=300, help="of a stream, at least")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=10.0, help="that the streams of one measurement take")
    parser.add_argument("--rate", type=int, default=6000, help="chunks a second of all streams, at most")
    parser.add_argument("--probes", type=int, default=200, help="requests whose first chunk is timed")
    parser.add_argument("--only", nargs="+", choices=("nginx", "litellm", "abruzzi", "with guard"))
    parser.add_argument("--litellm", default=shutil.which("litellm"), help="LiteLLM's command")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    options = parser.parse_args()
    rows: list[Row] = []
    engine = free_port()
    with process("engine", sys.executable, str(HERE / "server_engine.py"), str(engine), port=engine):
        middles: dict[str, contextlib.AbstractContextManager[Middle]] = {
            "straight": contextlib.nullcontext(Middle("straight", engine, lambda: ())),
            "abruzzi": abruzzi(engine, "text"),
            "with guard": abruzzi(engine, "call"),
        }
        if shutil.which("nginx"):
            middles["nginx"] = nginx(engine)
        if options.litellm:
            middles["litellm"] = litellm(engine, options.litellm)
        for name in ("straight", "nginx", "litellm", "abruzzi", "with guard"):
            if name not in middles or (options.only and name != "straight" and name not in options.only):
                continue
            progress.print(f"{name} ...")
            with middles[name] as middle:
                rows.append(uvloop.run(measure(middle, options)))
    show(rows, options.streams)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


def show(rows: Sequence[Row], streams: Sequence[int]) -> None:
    table = Table(title="us of CPU; ms added to the first chunk (median, p99); in brackets: times nginx")
    for column in ("", "CPU/request", *(f"CPU/chunk, {n}" for n in streams), *(f"first, {n}" for n in streams), "MB"):
        table.add_column(column, justify="right" if column else "left")
    base = next((row for row in rows if row.name == "nginx"), None)
    straight = rows[0]
    for row in rows[1:]:
        cells = [_against(row.request_us, base.request_us if base else None)]
        cells += [_against(row.chunk_us[n], base.chunk_us[n] if base else None) for n in streams]
        for n in streams:
            added = [mine - without for mine, without in zip(row.first_ms[n], straight.first_ms[n], strict=True)]
            cells.append(f"{added[0]:.2f}, {added[1]:.1f}")
        table.add_row(row.name, *cells, f"{row.memory_mb:.0f}")
    Console(width=160).print(table)


def _against(value: float, base: float | None) -> str:
    return f"{value:.1f}" if not base else f"{value:.1f} ({value / base:.1f})"


if __name__ == "__main__":
    sys.exit(main())
