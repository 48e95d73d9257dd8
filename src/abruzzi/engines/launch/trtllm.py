"""TensorRT-LLM's command line (1.2)."""

from __future__ import annotations

from pathlib import Path

from abruzzi.engines.launch.arguments import Arguments
from abruzzi.engines.launch.llm_api_options import GUIDED, check
from abruzzi.engines.launch.program import NO_ANSWERS, Mended, Program
from abruzzi.protocol.errors import RequestError

# Its options that have no value, of all versions that are known: what stands behind one of them may be the model.
_FLAGS = frozenset(
    (
        "--allow_request_chat_template",
        "--enable_attention_dp",
        "--enable_chunked_prefill",
        "--enable_visual_gen",
        "--fail_fast_on_attention_window_too_large",
        "--grpc",
        "--help",
        "--no-telemetry",
        "--telemetry",
        "--trust_remote_code",
        "-h",
    )
)
_OTHERS = ("disaggregated", "disaggregated_mpi_worker", "mm_embedding_serve")
_FILE_OPTIONS = ("--extra-llm-api-options", "--config")
# The YAML's keys that say what an option says, too: the YAML's count.
_TWICE = (
    ("tensor_parallel_size", ("--tp-size", "--tensor-parallel-size")),
    ("pipeline_parallel_size", ("--pp-size", "--pipeline-parallel-size")),
    ("moe_expert_parallel_size", ("--ep-size", "--moe-expert-parallel-size")),
    ("max_batch_size", ("--max-batch-size",)),
    ("max_num_tokens", ("--max-num-tokens",)),
    ("max_seq_len", ("--max-seq-len",)),
    ("max_beam_width", ("--max-beam-width",)),
    ("context_parallel_size", ("--cp-size", "--context-parallel-size")),
    ("moe_cluster_parallel_size", ("--cluster-size", "--moe-cluster-parallel-size")),
    ("gpus_per_node", ("--gpus-per-node",)),
    (
        "kv_cache_config.free_gpu_memory_fraction",
        ("--kv-cache-free-gpu-memory-fraction", "--free-gpu-memory-fraction"),
    ),
    ("backend", ("--backend",)),
    ("tokenizer", ("--tokenizer",)),
    ("custom_tokenizer", ("--custom-tokenizer",)),
    ("revision", ("--revision",)),
    ("trust_remote_code", ("--trust-remote-code",)),
    ("num_postprocess_workers", ("--num-postprocess-workers",)),
    ("reasoning_parser", ("--reasoning-parser",)),
    ("enable_chunked_prefill", ("--enable-chunked-prefill",)),
    ("enable_attention_dp", ("--enable-attention-dp",)),
    ("fail_fast_on_attention_window_too_large", ("--fail-fast-on-attention-window-too-large",)),
    ("otlp_traces_endpoint", ("--otlp-traces-endpoint",)),
)


def _model(arguments: Arguments) -> str | None:
    found = _without_serve(arguments).positional(_FLAGS)
    return found[0] if found else arguments.value("--model")


def _without_serve(arguments: Arguments) -> Arguments:
    return Arguments(arguments.words[1:]) if arguments.words[:1] == ("serve",) else arguments


def _mend(arguments: Arguments, *, checks_files: bool, is_k2: bool) -> Mended:
    if arguments.words and arguments.words[0] in _OTHERS:
        raise RequestError(
            f"expected trtllm-serve [serve] MODEL, got trtllm-serve {arguments.words[0]}: start it as it is, and put"
            " abruzzi serve --engine http://HOST:PORT/v1 in front"
        )
    arguments, respelled = _with_underscores(arguments)
    mended, moved = _with_model(arguments)
    moved = (*respelled, *moved)
    file = mended.value(*_FILE_OPTIONS)
    if file is None and mended.has(*_FILE_OPTIONS):
        raise RequestError("expected a file behind --extra_llm_api_options, got nothing")
    if file is None:
        return mended, (*moved, f"no --extra_llm_api_options FILE: {GUIDED}")
    if not checks_files:
        return mended, moved
    found = check(Path(file), is_k2=is_k2)
    twice = [
        f"{file}: its {key} counts, and not the option's"
        for key, names in _TWICE
        if key in found.keys and mended.has(*names)
    ]
    if "model" in found.keys:
        twice.append(f"{file}: its model counts, and not the command's")
    return mended, (*moved, *found.notes, *twice)


def _with_underscores(arguments: Arguments) -> Mended:
    """The flag as trtllm-serve spells it, which takes no other."""
    dashed, flag = "--trust-remote-code", "--trust_remote_code"
    if dashed not in arguments.words:
        return arguments, ()
    words = tuple(flag if word == dashed else word for word in arguments.words)
    return Arguments(words), (f"{dashed} is {flag} now: trtllm-serve has it in no other spelling",)


def _with_model(arguments: Arguments) -> Mended:
    """The model as trtllm-serve takes it, in front of the options."""
    model = arguments.value("--model")
    positional = _without_serve(arguments).without("--model").positional(_FLAGS)
    if arguments.has("--model") and (model is None or positional):
        raise RequestError(
            f"expected one model, got --model {model or 'without a value'}"
            + "".join(f" and {other}" for other in positional)
        )
    if len(positional) > 1:
        raise RequestError(f"expected one model behind trtllm-serve, got {' and '.join(positional)}")
    if model is None:
        if not positional:
            raise RequestError("expected a model behind trtllm-serve, got none")
        return arguments, ()
    subcommand = arguments.words[: len(arguments.words) - len(_without_serve(arguments).words)]
    return (
        _without_serve(arguments).without("--model").before(*subcommand, model),
        (f"--model {model} is {model} now: trtllm-serve takes the model as an argument, and has no such option",),
    )


TRTLLM = Program(
    name="trtllm-serve",
    usage="trtllm-serve MODEL ...",
    commands=(("trtllm-serve",),),
    modules=("tensorrt_llm.commands.serve",),
    model=_model,
    trust="--trust_remote_code",
    mend=_mend,
    refused={"--grpc": "it must speak HTTP", "--server_role": NO_ANSWERS},
)
