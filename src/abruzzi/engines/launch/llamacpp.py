"""llama-server's command line."""

from __future__ import annotations

from abruzzi.engines.launch.arguments import Arguments
from abruzzi.engines.launch.program import NO_TLS, Mended, Program
from abruzzi.protocol.errors import RequestError


def _model(arguments: Arguments) -> str | None:
    return arguments.value("-m", "--model") or arguments.value("-hf", "-hfr", "--hf-repo")


def _mend(arguments: Arguments, *, checks_files: bool, is_k2: bool) -> Mended:
    host = arguments.value("--host") or ""
    if host.endswith(".sock"):
        raise RequestError(f"--host {host} can't stay in the command of llama-server: it must listen on a port")
    if arguments.has("-sp", "--special"):
        return arguments, ()
    return arguments.plus("--special"), (
        "--special added: K2's markers are special tokens, which are hidden without it",
    )


LLAMA_SERVER = Program(
    name="llama-server",
    usage="llama-server -m MODEL.gguf ...",
    commands=(("llama-server",),),
    model=_model,
    key_options=("--api-key",),
    key_variable="LLAMA_API_KEY",
    mend=_mend,
    refused={
        "--ssl-key-file": NO_TLS,
        "--ssl-cert-file": NO_TLS,
        "--api-prefix": "abruzzi asks at /v1",
        "--api-key-file": "give the key with --api-key, or LLAMA_API_KEY",
    },
)
