"""The official JavaScript clients, each with a tool round trip on a real socket, streamed and not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import Served, section

Serve = Callable[..., Served]
HERE = Path(__file__).parent / "npm"
CALL = section(("functions.get_weather:0", '{"location": "Rome"}'))


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients, out of the npm registry."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm aren't here")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "round_trip.mjs"):
        shutil.copy(HERE / name, folder / name)
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm reaches no registry")
    if done.returncode:
        pytest.skip(f"npm can't install the clients: {done.stderr[-500:]}")
    return folder


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("client", ["openai", "responses", "anthropic", "ai-sdk"])
def test_a_tool_round_trip(serve: Serve, installed: Path, client: str, stream: str) -> None:
    engine = ScriptedEngine([CALL, "It is cloudy in Rome."], cut=list)
    url = serve(engine).base_url
    done = subprocess.run(
        ["node", "round_trip.mjs", client, url, stream],
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = {"name": "get_weather", "arguments": {"location": "Rome"}, "answer": "It is cloudy in Rome."}
    assert json.loads(done.stdout) == expected
    assert "Cloudy" in str(engine.prompts[1])
