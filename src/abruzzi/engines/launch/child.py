"""An engine as a child process: its log, its end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from abruzzi.engines.launch import keeper
from abruzzi.engines.launch.owner import descends
from abruzzi.protocol.errors import EngineUnavailable

# Of its log, the lines that are kept; and the bytes after which a line is shown though it has no end.
_KEPT_LINES = 20
_LONG_LINE = 64 << 10
# A progress bar writes over its line, ten times a second: it is shown once in so many seconds.
_PROGRESS_SECONDS = 1.0
# What follows a carriage return tells what it was.
_LINE_END = re.compile(rb"\r*\n|\r(?=[^\r\n])")
# Colours, as ECMA-48 has them.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Seconds for the last of the log when nobody is left to write any.
_LOG_ENDS = 2.0


class Child:
    """An engine that runs in a `with` block. Nothing of it outlives that, nor this process, however that ends."""

    def __init__(self, command: Sequence[str], *, show: Callable[[str], object], grace: float) -> None:
        """`show` is given each line of the log, in a thread of its own, until it fails. `grace`: seconds to end in when
        it is told to.

        Raises EngineUnavailable where processes can't be kept as they must be.
        """
        if sys.platform == "win32":
            raise EngineUnavailable("abruzzi launch needs Linux or macOS: start the engine, and abruzzi serve --engine")
        self._command = (str(grace), *command)
        self._show: Callable[[str], object] | None = show
        self._kept: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader = threading.Thread(target=self._read, name="engine-log", daemon=True)

    def __enter__(self) -> Child:
        # Isolated, so that what the environment says to Python is said to the engine alone.
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(keeper.__file__)), *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for us: when the engine ends is ours to say.
            start_new_session=True,
        )
        try:
            self._reader.start()
        except BaseException:  # a Ctrl-C just now
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def has_ended(self) -> bool:
        return self._keeper.poll() is not None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end. Whether it has ended."""
        try:
            self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if self._reader.is_alive():
            self._reader.join(_LOG_ENDS)
        return True

    def listens_at(self, port: int) -> bool | None:
        """Whether it is the engine that listens on this port of loopback; None where that can't be seen."""
        return descends(port, self._keeper.pid)

    @property
    def exit_code(self) -> int:
        """Of an engine that has ended, as a shell has it: 128 and the signal's number where one killed it."""
        code = self._keeper.returncode
        return code if code >= 0 else 128 - code

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        code = self._keeper.returncode
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        why = ": the kernel does that when memory runs out (see dmesg)" if -code == signal.SIGKILL else ""
        return f"was killed by {name}{why}"

    @property
    def last_lines(self) -> list[str]:
        """The last of its log."""
        return list(self._kept)

    def stop(self) -> None:
        """Have it end, and wait for that. Who is interrupted meanwhile has it killed at once."""
        with contextlib.suppress(ProcessLookupError):
            if not self.has_ended:
                self._keeper.send_signal(signal.SIGTERM)
        try:
            self.wait()
        except KeyboardInterrupt:
            self._keeper.send_signal(signal.SIGTERM)
            self.wait()
            raise
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()

    def _read(self) -> None:
        assert self._keeper.stdout is not None
        descriptor, rest, shown_at = self._keeper.stdout.fileno(), b"", 0.0
        while part := os.read(descriptor, 1 << 16):
            rest += part
            at = 0
            while found := _LINE_END.search(rest, at):
                line, at = rest[at : found.start()], found.end()
                if found[0] == b"\r":
                    if time.monotonic() - shown_at < _PROGRESS_SECONDS:
                        continue
                    shown_at = time.monotonic()
                self._note(line)
            rest = rest[at:]
            if len(rest) > _LONG_LINE:
                self._note(rest)
                rest = b""
        self._note(rest)
        self._keeper.stdout.close()

    def _note(self, line: bytes) -> None:
        text = _COLOUR.sub("", line.decode(errors="replace")).rstrip()
        if text:
            self._kept.append(text)
            self._try_to_show(text)

    def _try_to_show(self, text: str) -> None:
        """Where nobody takes the log any more it is read all the same: an engine that can't write any hangs."""
        if self._show is not None:
            try:
                self._show(text)
            except Exception:
                self._show = None
