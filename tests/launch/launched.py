"""`abruzzi launch` as a user runs it, with stand-ins for the engines on PATH."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.server.asking import ask

STANDIN = Path(__file__).parent / "standin.py"
COMMAND = [sys.executable, "-m", "abruzzi", "launch"]
SECONDS = 60.0


def installed(folder: Path) -> str:
    """A PATH with the engines' commands in front; and `lib`, with SGLang's module."""
    own = folder / "bin"
    own.mkdir(exist_ok=True)
    for name in ("trtllm-serve", "vllm", "sglang", "llama-server"):
        file = own / name
        file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(STANDIN))} {name} "$@"\n')
        file.chmod(0o755)
    (folder / "lib" / "sglang").mkdir(parents=True, exist_ok=True)
    (folder / "lib" / "sglang" / "launch_server.py").write_text(
        f"import runpy, sys\nsys.argv.insert(1, 'sglang')\nrunpy.run_path({str(STANDIN)!r}, run_name='__main__')\n"
    )
    return f"{own}{os.pathsep}{os.environ['PATH']}"


def until(so: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has buried yet doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Launched:
    """A running `abruzzi launch`."""

    def __init__(self, process: subprocess.Popen[str], port: int, record: Path) -> None:
        self.process = process
        self.port = port
        self._record = record
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def engine(self) -> dict[str, Any]:
        """The stand-in's arguments and processes, as soon as it has started."""
        until(lambda: self._record.exists() and self._record.read_text().endswith("\n"), f"an engine\n{self.log}")
        told: dict[str, Any] = json.loads(self._record.read_text().splitlines()[-1])
        return told

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.log or self.process.poll() is not None, f"{text!r} in\n{self.log}")
        assert text in self.log, f"{text!r} isn't in\n{self.log}"

    def ready(self) -> Launched:
        self.wait_for("(Ctrl-C stops it)")

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return ask(self.port, "/health").status == 200
            return False

        until(answers, "an answer")
        return self

    def end(self, number: signal.Signals | None = None) -> int:
        """Its exit code, after a signal."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        self._reader.join(10)
        return code

    def nothing_left(self) -> None:
        """Nothing of the engine is alive, or won't be in a moment."""
        pids = self.engine["pids"]
        until(lambda: not any(map(is_alive, pids)), f"the end of {pids}", 20)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))


@contextlib.contextmanager
def launched(
    folder: Path, *words: str, port: int | None = None, says_port: bool = True, **does: Any
) -> Iterator[Launched]:
    """`words` are behind `abruzzi launch --port PORT`; `does`: what the stand-in does."""
    port = free_port() if port is None else port
    record = folder / "record"
    environment = os.environ | {
        "PATH": installed(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder / "lib"), os.environ.get("PYTHONPATH")))),
        "STANDIN": json.dumps(does),
        "STANDIN_RECORD": str(record),
    }
    command = [*COMMAND, *(("--port", str(port)) if says_port else ()), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        one = Launched(process, port, record)
        try:
            yield one
        finally:
            process.kill()
            if record.exists():
                one.nothing_left()


def told(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A launch that comes to an end by itself."""
    more = {"PATH": installed(folder), "STANDIN_RECORD": str(folder / "record")} | environment
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, env=os.environ | more)
