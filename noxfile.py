"""`nox` runs style, types, layers and tests on fresh virtual environments, `nox -s real` what CI runs beside them;
`nox -s bench` prints the README's figures.
"""

from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]


@nox.session
def lint(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Looks for requests that bring the server to a 5xx; `nox -s fuzz -- --examples 2000` looks longer."""
    session.install(".", "anthropic")
    # schemathesis pins another jsonschema-rs than ours.
    apart = Path(session.create_tmp(), "schemathesis").resolve()
    session.run("python", "-m", "venv", str(apart))
    session.run(str(apart / "bin" / "python"), "-m", "pip", "install", "-q", "schemathesis", external=True)
    command = str(apart / "bin" / "schemathesis")
    session.run("python", "tests/fuzz/run.py", command, *session.posargs, success_codes=[0, 77])


@nox.session
def real(session: nox.Session) -> None:
    """Runs what needs a real vLLM (for CPU, 2.1 GB, installed once into Abruzzi's cache); takes about 15 minutes."""
    session.install("-e", ".[test]")
    vllm = session.run("python", "tests/real/vllm_env.py", silent=True, success_codes=[0, 77])
    if not str(vllm).rstrip().endswith("vllm"):
        session.skip(str(vllm).strip())
    session.run("pytest", "-s", "tests/real", "-k", "vllm", *session.posargs, env={"ABRUZZI_VLLM": str(vllm).strip()})


@nox.session
@nox.parametrize("pins", ["trtllm", "newest"])
def grammars(session: nox.Session, pins: str) -> None:
    """Compiles our grammars with what engines have for it: TensorRT-LLM's pins and the newest, and reads SGLang's own
    request models; takes about five minutes. torch's builds for CPU lie in PyTorch's own index: PIP_EXTRA_INDEX_URL.
    """
    old = pins == "trtllm"
    session.install("-e", ".[test]")
    # What xgrammar and torch ask for by themselves brings CUDA.
    session.install(
        "--no-deps", "torch==2.13.0+cpu", *(["xgrammar==0.1.32", "llguidance==0.7.29"] if old else ["xgrammar"])
    )
    session.install("apache-tvm-ffi", "jinja2", "networkx", "numpy", "sympy", "transformers==5.19.0", "triton")
    if old:
        session.run("pytest", "tests/engines/standins/test_models.py", "-k", "structural_tag", *session.posargs)
    else:
        session.install("--no-deps", "sglang==0.5.23")
        # What its request models import.
        session.install("aiohttp", "fastapi", "ipython", "orjson", "partial-json-parser", "pillow", "psutil")
        session.install("pybase64", "pyzmq", "requests")
        session.run("pytest", "tests/engines/standins", *session.posargs)
    session.run("pytest", "tests/real/test_xgrammar.py", "tests/real/test_k2_grammars.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    session.install(".")
    session.run("python", "bench/embedded.py", *session.posargs)
    session.run("python", "bench/parser.py")
    session.run("python", "bench/schemas.py")
    session.run("python", "bench/guard.py")
    session.run("python", "bench/hostile.py")
    session.run("python", "bench/server.py")
