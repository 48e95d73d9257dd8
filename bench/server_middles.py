"""What `bench/server.py` starts: the engine, and what may stand between it and its client."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass
class Middle:
    """What stands between the client and the engine."""

    name: str
    port: int
    pids: Callable[[], Sequence[int]] = field(repr=False)
    kind: str = "text"

    def cpu(self) -> float:
        """Microseconds of CPU time that its processes have spent, the kernel's for them with it."""
        spent = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                threads = Path(f"/proc/{pid}/task").iterdir()
                spent += sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
        return spent / 1000

    def peak_memory(self) -> float:
        """MB that were resident at most, each process by itself."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
        return total / 1000


def tree(pid: int) -> Sequence[int]:
    """The process and its children."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def process(name: str, *command: str, port: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Raises RuntimeError with what it said where it ends before it listens, or doesn't listen in two minutes."""
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, **options)
        try:
            deadline = time.monotonic() + 120
            while not _is_ready(port):
                if started.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{name} doesn't listen: {log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield started
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def _is_ready(port: int) -> bool:
    """Whether somebody answers who isn't loading."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code != 503
    except OSError:
        return False


@dataclass
class Engine:
    port: int
    middle: Middle
    """As one that nothing stands in front of."""

    def stats(self) -> dict[str, float]:
        """See server_engine.py."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=30) as response:
            return dict(json.load(response))


@contextlib.contextmanager
def engine(*order: str) -> Iterator[Engine]:
    port = free_port()
    command = (sys.executable, str(HERE / "server_engine.py"), str(port), *order)
    with process("engine", *command, port=port) as started:
        yield Engine(port, Middle("straight", port, lambda: tree(started.pid)))


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
                access_log off; client_max_body_size 64m; client_body_buffer_size 64m; {paths}
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
