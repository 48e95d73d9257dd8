"""vLLM, where it is asked for: `nox -s real` installs it and names its command in ABRUZZI_VLLM."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.ports import free_port
from tests.real import tiny_k2
from tests.real.vllm_serve import Vllm, serve_command, serving


@pytest.fixture(scope="session")
def vllm_command() -> str:
    command = os.environ.get("ABRUZZI_VLLM")
    if not command:
        pytest.skip("ABRUZZI_VLLM names no command: `nox -s real` installs vLLM and runs this")
    return command


@pytest.fixture(scope="session", params=["guidance", "xgrammar"])
def vllm(request: pytest.FixtureRequest, vllm_command: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """vLLM with a K2 of random weights: one at a time, with the backend that the parameter begins with. One that ends
    in `ids` has a vocabulary as large as K2's, in which control tokens have K2's ids.
    """
    port, name = free_port(), str(request.param)
    backend, is_large = name.split()[0], name.endswith("ids")
    folder = tiny_k2.make(tmp_path_factory.mktemp("tiny-k2"), tiny_k2.K2_RANKS if is_large else tiny_k2.RANKS)
    log = tmp_path_factory.mktemp(f"vllm-{backend}") / "log"
    begun = time.monotonic()
    with serving(serve_command(vllm_command, folder, port, backend), port, backend, log):
        server = Vllm(port, backend, log, folder, is_large=is_large)
        # The first request for alternatives compiles what gives them, for 20 to 30 seconds.
        print(f"\nvLLM with {backend} is ready after {time.monotonic() - begun:.0f} s")
        server.complete("Hello", max_tokens=1, logprobs=1)
        yield server
