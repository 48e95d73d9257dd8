"""An engine as a child process, with shells and Pythons in its place."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from abruzzi.engines.launch.child import Child
from tests.launch.launched import is_alive, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left of a process is seen in /proc")
SLEEPS = "import time; print('up', flush=True); time.sleep(600)"


def run(*command: str) -> tuple[Child, list[str]]:
    """A command that has come to its end, and what it wrote."""
    lines: list[str] = []
    with Child(command, show=lines.append, grace=1) as child:
        assert child.wait(20)
    return child, lines


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (("true",), 0, "ended with exit code 0"),
        (("sh", "-c", "exit 42"), 42, "ended with exit code 42"),
        (("sh", "-c", "kill -SEGV $$"), 139, "was killed by SIGSEGV"),
        (("sh", "-c", "kill -KILL $$"), 137, "was killed by SIGKILL: the kernel does that when memory runs out"),
        (("/nowhere/vllm",), 127, "ended with exit code 127"),
        (("/dev/null",), 126, "ended with exit code 126"),
    ],
)
def test_it_ends_as_the_engine_did(command: tuple[str, ...], code: int, told: str) -> None:
    child, _ = run(*command)
    assert child.exit_code == code and child.ending.startswith(told)


def test_what_can_not_be_started_says_so() -> None:
    child, lines = run("/nowhere/vllm", "serve")
    assert lines == child.last_lines == ["can't start /nowhere/vllm: No such file or directory"]


def test_lines_come_whole_and_in_order() -> None:
    script = r"printf 'one\r\ntw'; sleep 0.2; printf 'o\n\n\033[31mthree\033[0m\n' >&2; printf 'a\rb\rc\rlast'"
    _, lines = run("sh", "-c", script)
    assert lines == ["one", "two", "three", "a", "last"]  # of a bar, one in a second


def test_an_engine_writes_on_where_nobody_takes_its_log() -> None:
    """It would hang as soon as the pipe is full."""

    def broken(_: str) -> None:
        raise BrokenPipeError

    with Child(("sh", "-c", "seq 1 100000"), show=broken, grace=1) as child:
        assert child.wait(20) and child.exit_code == 0 and child.last_lines[-1] == "100000"


def test_the_last_lines_are_kept() -> None:
    child, lines = run("sh", "-c", "seq 1 1000")
    assert len(lines) == 1000 and child.last_lines == [str(number) for number in range(981, 1001)]


def test_a_line_without_an_end_is_shown_all_the_same() -> None:
    _, lines = run(sys.executable, "-c", "print('x' * 300_000, end='')")
    assert "".join(lines) == "x" * 300_000 and max(map(len, lines)) < 200_000


def test_the_engines_stdin_is_empty_and_its_environment_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert run("sh", "-c", "cat; echo $PYTHONHASHSEED")[1] == ["7"]


def test_what_an_engine_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    # The shell ends at once; what it started is in a session of its own.
    script = f'setsid {sys.executable} -c "{SLEEPS}" & echo $! > {tmp_path}/pid; sleep 0.3'
    child, _ = run("sh", "-c", script)
    assert child.exit_code == 0
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_an_engine_has_its_grace_and_no_more() -> None:
    heeds = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(5)))\n"
    for script, code in ((heeds, 5), ("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n", 137)):
        lines: list[str] = []
        with Child((sys.executable, "-c", script + SLEEPS), show=lines.append, grace=1) as child:
            until(lambda lines=lines: "up" in lines, "the script", 20)  # type: ignore[misc]
            began = time.monotonic()
        assert child.exit_code == code
        assert ("saved" in lines) == (code == 5) and (time.monotonic() - began < 1) == (code == 5)


def test_the_engine_dies_with_its_keeper() -> None:
    lines: list[str] = []
    script = f"import os; print(os.getpid(), os.getppid()); {SLEEPS}"
    with Child((sys.executable, "-c", script), show=lines.append, grace=1) as child:
        until(lambda: "up" in lines, "the script", 20)
        engine, keeper = map(int, lines[0].split())
        os.kill(keeper, signal.SIGKILL)
        assert child.wait(20)
        until(lambda: not is_alive(engine), "its end", 5)
