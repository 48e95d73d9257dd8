"""SGLang's command line (0.5.23)."""

from __future__ import annotations

from abruzzi.engines.launch.arguments import Arguments
from abruzzi.engines.launch.program import NO_ANSWERS, NO_TEXT, NO_TLS, Program, last_kimi


def _model(arguments: Arguments) -> str | None:
    return arguments.value("--model-path", "--model") or last_kimi(arguments)


def _worker(arguments: Arguments) -> str | None:
    rank = arguments.value("--node-rank")
    return f"--node-rank {rank}" if rank not in (None, "0") else None


SGLANG = Program(
    name="sglang",
    usage="python -m sglang.launch_server --model-path MODEL ...",
    commands=(("sglang", "serve"),),
    modules=("sglang.launch_server",),
    model=_model,
    trust="--trust-remote-code",
    key_options=("--api-key",),
    refused={
        "--grpc-mode": "it must speak HTTP",
        "--ssl-keyfile": NO_TLS,
        "--ssl-certfile": NO_TLS,
        "--skip-tokenizer-init": NO_TEXT,
        "--disaggregation-mode prefill": NO_ANSWERS,
        "--disaggregation-mode decode": NO_ANSWERS,
        "--is-embedding": NO_ANSWERS,
    },
    worker=_worker,
)
