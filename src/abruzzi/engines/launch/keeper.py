"""The process between the launcher and the engine, which outlives both for as long as it takes to end all that the
engine has started.

An engine of many GPUs is a tree of processes, and one that loses its parent keeps its memory and its GPUs. The launcher
itself may be killed at any time: what it can't do then this does. It needs nothing but Python's own library, and is run
as a file.

    keeper.py GRACE COMMAND...

SIGTERM: the engine has GRACE seconds to end in order; a second one: none. The end of stdin: the launcher is gone. It
ends as the engine did, with its exit code or by its signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

_IS_LINUX = sys.platform == "linux"
_PROC = Path("/proc")
# prctl(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Seconds: for the engine where nobody waits for it any more; for what it left behind when it ended; until it is told
# that something can't be killed (it waits for a device).
_ORPHANED = 5.0
_LEFT_BEHIND = 2.0
_UNKILLABLE = 30.0
# A shell's exit codes for a command that isn't there, or can't be run.
_NOT_FOUND, _NOT_RUN = 127, 126


class Keeper:
    def __init__(self, command: list[str], grace: float) -> None:
        self._grace = grace
        self._asked = 0
        self._is_orphan = False
        self._woken, waker = os.pipe()
        for end in (self._woken, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        # Handlers, for what is ignored stays ignored in the engine.
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if _IS_LINUX:
            # What loses its parent becomes a child of this process, not of the machine's first.
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._engine = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_die_with_parent if _IS_LINUX else None
        )
        self._status: int | None = None

    def keep(self) -> int:
        """Wait for the engine's end, or for having to end it. Returns its exit code, or minus its signal's number."""
        self._wait(lambda: self._has_ended or self._asked > 0 or self._is_orphan)
        if not self._has_ended:
            self._send(signal.SIGTERM, only_engine=True)
            self._wait(lambda: self._has_ended or self._asked > 1, _ORPHANED if self._is_orphan else self._grace)
        if self._has_ended and self._is_any_left():
            self._send(signal.SIGTERM)
            self._wait(lambda: not self._is_any_left() or self._asked > 1, _LEFT_BEHIND)
        deadline = time.monotonic() + _UNKILLABLE
        while self._is_any_left() and time.monotonic() < deadline:
            self._send(signal.SIGKILL)
            self._wait(lambda: not self._is_any_left(), 0.1)
        self._reap()
        if left := self._is_any_left() and descendants():
            print(f"can't be killed: processes {', '.join(map(str, left))}", file=sys.stderr, flush=True)
        return -signal.SIGKILL if self._status is None else self._status

    @property
    def _has_ended(self) -> bool:
        return self._status is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1

    def _wait(self, until: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait for what a signal or the end of stdin tells of; for a process that isn't our child a look now and then
        does.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        self._reap()
        while not until():
            patience = None if deadline is None else min(0.1, deadline - time.monotonic())
            if patience is not None and patience <= 0:
                return
            watched = [self._woken] if self._is_orphan else [self._woken, 0]
            ready, _, _ = select.select(watched, [], [], patience)
            if 0 in ready:
                self._is_orphan = not os.read(0, 1)
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 1024)
            self._reap()

    def _reap(self) -> None:
        """Take note of the children that have ended: the engine, and what it left to us."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self._engine.pid:
                    self._status = self._engine.returncode = os.waitstatus_to_exitcode(status)

    def _is_any_left(self) -> bool:
        if not self._has_ended:
            return True
        if _IS_LINUX:
            return bool(descendants())
        try:
            os.killpg(self._engine.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS: there are only zombies
            return False
        return True

    def _send(self, number: int, *, only_engine: bool = False) -> None:
        """To the engine, which tells its own, or to all that is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if only_engine:
                os.kill(self._engine.pid, number)
            elif not _IS_LINUX:
                os.killpg(self._engine.pid, number)
        if _IS_LINUX and not only_engine:
            for pid in descendants():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)


def descendants(ancestor: int | None = None) -> list[int]:
    """The processes that descend from one, this one when left out, and are alive. Linux."""
    children: dict[int, list[int]] = {}
    alive = set()
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # Behind the name, which may hold anything: the state, and the parent.
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # it has ended since
            continue
        children.setdefault(int(parent), []).append(int(folder.name))
        if state not in "ZX":
            alive.add(int(folder.name))
    found, left = [], [os.getpid() if ancestor is None else ancestor]
    while left:
        below = children.get(left.pop(), [])
        left += below
        found += [pid for pid in below if pid in alive]
    return found


def _die_with_parent() -> None:
    """In the engine, before it is one: end when the keeper is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(grace: str, *command: str) -> int:
    try:
        keeper = Keeper(list(command), float(grace))
    except OSError as error:
        print(f"can't start {command[0]}: {error.strerror}", file=sys.stderr)
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUN
    code = keeper.keep()
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
