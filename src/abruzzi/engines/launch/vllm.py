"""vLLM's command line (0.32)."""

from __future__ import annotations

from abruzzi.engines.launch.arguments import Arguments
from abruzzi.engines.launch.program import NO_ANSWERS, NO_TEXT, NO_TLS, Program, last_kimi


def _model(arguments: Arguments) -> str | None:
    """Its first word, as in the documentation, or `--model`; or its last, where that names a Kimi: another could be an
    option's value.
    """
    first = arguments.words[0] if arguments.words and not arguments.words[0].startswith("-") else None
    return first or arguments.value("--model") or last_kimi(arguments)


def _worker(arguments: Arguments) -> str | None:
    if arguments.has("--headless"):
        return "--headless"
    rank = arguments.value("--node-rank", "-r")
    return f"--node-rank {rank}" if rank not in (None, "0") else None


VLLM = Program(
    name="vllm",
    usage="vllm serve MODEL ...",
    commands=(("vllm", "serve"),),
    modules=("vllm.entrypoints.openai.api_server",),
    model=_model,
    trust="--trust-remote-code",
    key_options=("--api-key",),
    key_variable="VLLM_API_KEY",
    refused={
        "--uds": "it must listen on a port: abruzzi has no other way to it",
        "--grpc": "it must speak HTTP",
        "--skip-tokenizer-init": NO_TEXT,
        "--runner pooling": NO_ANSWERS,
        "--ssl-keyfile": NO_TLS,
        "--ssl-certfile": NO_TLS,
    },
    worker=_worker,
)
