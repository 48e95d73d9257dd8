"""Engines' commands that load nothing: their options as the engines have them, and an API that answers with K2's text.

    standin.py trtllm-serve|vllm|sglang|llama-server OPTIONS...

What they do is said by STANDIN, a JSON object: `load` (seconds), `listens` (already then, with 503), `dies` (exit code,
once loaded), `says` (lines), `text`, `pause` (seconds between two chunks), `thinks` (seconds before each answer),
`child` (it starts one that heeds no SIGTERM), `stubborn` (it heeds none itself), `model`, `asks_key` (one that nobody
has). What they were started with, and as which processes, is written to STANDIN_RECORD, a line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import click

DOES: dict[str, Any] = json.loads(os.environ.get("STANDIN", "{}"))
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("child", flush=True)
time.sleep(600)
"""
# TensorRT-LLM 1.2: all options of `trtllm-serve serve`.
VALUES = """--tokenizer --custom_tokenizer --host --port --backend --custom_module_dirs --log_level --max_beam_width
    --max_batch_size --max_num_tokens --max_seq_len --tensor_parallel_size/--tp_size --pipeline_parallel_size/--pp_size
    --context_parallel_size/--cp_size --moe_expert_parallel_size/--ep_size --moe_cluster_parallel_size/--cluster_size
    --gpus_per_node --free_gpu_memory_fraction/--kv_cache_free_gpu_memory_fraction --num_postprocess_workers --revision
    --config/--extra_llm_api_options --reasoning_parser --tool_parser --metadata_server_config_file --server_role
    --otlp_traces_endpoint --disagg_cluster_uri --media_io_kwargs --chat_template"""
FLAGS = "--trust_remote_code --fail_fast_on_attention_window_too_large --enable_chunked_prefill"


def trtllm(words: list[str]) -> argparse.Namespace:
    found: dict[str, Any] = {}

    @click.command("serve")
    @click.argument("model")
    def serve(**options: Any) -> None:
        found.update(options)

    for names in VALUES.split():
        serve.params.append(click.Option(names.split("/"), type=int if names == "--port" else str))
    for name in FLAGS.split():
        serve.params.append(click.Option([name], is_flag=True))
    try:
        serve.main(words[1:] if words[:1] == ["serve"] else words, prog_name="trtllm-serve", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    return argparse.Namespace(**found)


def vllm(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("vllm")
    if words[:1] == ["serve"]:
        words = words[1:]
        parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--api-key", nargs="+")
    for name in ("--host", "--model", "--dtype", "--served-model-name", "--tool-call-parser", "--master-addr"):
        parser.add_argument(name)
    for name in ("--port", "--max-model-len", "--nnodes", "--node-rank", "--master-port"):
        parser.add_argument(name, type=int)
    parser.add_argument("--tensor-parallel-size", "-tp", type=int)
    for name in ("--trust-remote-code", "--headless", "--enforce-eager", "--enable-auto-tool-choice"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args([word.replace("_", "-") if word.startswith("--") else word for word in words])


def sglang(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("sglang")
    if words[:1] == ["serve"]:
        words = words[1:]
    parser.add_argument("--model-path", "--model", required=True)
    for name in ("--host", "--dist-init-addr", "--tool-call-parser", "--api-key"):
        parser.add_argument(name)
    for name in ("--port", "--tp", "--nnodes", "--node-rank"):
        parser.add_argument(name, type=int)
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser.parse_args(words)


def llama_server(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("llama-server")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("-c", "--ctx-size", type=int)
    parser.add_argument("--api-key")
    parser.add_argument("-sp", "--special", action="store_true")
    parser.add_argument("--jinja", action="store_true")
    return parser.parse_args(words)


class Api(BaseHTTPRequestHandler):
    is_loading = False

    def do_GET(self) -> None:
        if self.is_loading:
            return self._answer(503, {"error": "Loading model"})
        if (self.path == "/v1/models" and DOES.get("asks_key")) or self.path == DOES.get("asks_key"):
            return self._answer(401, {"error": "Unauthorized"})
        models = {"object": "list", "data": [{"id": DOES.get("model", "kimi-k2"), "max_model_len": 4096}]}
        self._answer(200, models if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        time.sleep(DOES.get("thinks", 0))
        if b"abruzzi_probe" in self.rfile.read(int(self.headers["Content-Length"])):
            return self._answer(400, {"error": "unknown field"})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        text: str = DOES.get("text", "Hello.")
        for at in range(0, len(text), 8):
            self._chunk({"text": text[at : at + 8], "finish_reason": None})
            time.sleep(DOES.get("pause", 0))
        self._chunk({"text": "", "finish_reason": "stop"})
        self.wfile.write(b"data: [DONE]\n\n")

    def _chunk(self, choice: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(name: str, words: list[str]) -> None:
    read = {"trtllm-serve": trtllm, "vllm": vllm, "sglang": sglang, "llama-server": llama_server}[name]
    options = read(words)
    pids = [os.getpid()]
    if DOES.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if DOES.get("child"):
        # In a session of its own: no signal to a process group reaches it.
        child = subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True, stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline()
        pids.append(child.pid)
    with open(os.environ["STANDIN_RECORD"], "a") as record:  # noqa: PTH123
        record.write(json.dumps({"argv": [name, *words], "pids": pids}) + "\n")
    for line in DOES.get("says", ()):
        print(line, end="", flush=True)
    if getattr(options, "headless", False):
        time.sleep(600)
    if DOES.get("listens"):
        Api.is_loading = True
        serving = ThreadingHTTPServer((options.host, options.port), Api)
        Thread(target=serving.serve_forever, args=(0.05,), daemon=True).start()
    time.sleep(DOES.get("load", 0))
    if "dies" in DOES:
        print("RuntimeError: CUDA out of memory", file=sys.stderr, flush=True)
        sys.exit(DOES["dies"])
    if DOES.get("listens"):
        Api.is_loading = False
        time.sleep(600)
    ThreadingHTTPServer((options.host, options.port), Api).serve_forever(0.05)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
