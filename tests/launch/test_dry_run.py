"""What `abruzzi launch` prints where nothing is started."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.launch.launched import told

DOCUMENT = "trtllm-serve --model /path/Kimi-K2-Instruct/ --backend pytorch --tp_size 8 --ep_size 8"


def printed(folder: Path, *words: str, **environment: str) -> tuple[str, str]:
    """Stdout and stderr, with the engine's port as PORT and the folder as DIR."""
    done = told(folder, "--dry-run", *words, **environment)
    assert done.returncode == 0 and not (folder / "record").exists(), done.stderr
    (port,) = set(re.findall(r"--port (\d+)\n", done.stdout.splitlines(keepends=True)[0])) or {"none"}
    replaced = [text.replace(port, "PORT").replace(str(folder), "DIR") for text in (done.stdout, done.stderr)]
    return replaced[0], replaced[1]


def test_the_starting_documents_command(tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text(
        "cuda_graph_config:\n  enable_padding: true\n  batch_sizes: [1, 2, 128]\nenable_attention_dp: true\n"
    )
    # No engine is on this PATH.
    out, err = printed(tmp_path, *DOCUMENT.split(), "--extra_llm_api_options", str(file), PATH="/nowhere")
    assert out == (
        "trtllm-serve /path/Kimi-K2-Instruct/ --backend pytorch --tp_size 8 --ep_size 8 --extra_llm_api_options"
        " DIR/o.yaml --trust_remote_code --host 127.0.0.1 --port PORT\n"
        "abruzzi serve --engine http://127.0.0.1:PORT/v1 --host 127.0.0.1 --port 8000 --variant k2\n"
    )
    assert err == (
        "abruzzi: --model /path/Kimi-K2-Instruct/ is /path/Kimi-K2-Instruct/ now: trtllm-serve takes the model as an"
        " argument, and has no such option\n"
        "abruzzi: DIR/o.yaml: cuda_graph_config: tokens are made by CUDA graphs for 3 batch sizes up to 128; others are"
        " padded to the next of them; a larger batch goes without\n"
        "abruzzi: DIR/o.yaml: enable_attention_dp: each GPU attends to requests of its own, and max_batch_size is a"
        " GPU's: more tokens in all, slower for a single request\n"
        "abruzzi: DIR/o.yaml: without guided_decoding_backend: xgrammar the engine obeys no grammar: the guard"
        " alone keeps calls valid, at the cost of asking again\n"
        "abruzzi: --trust_remote_code added: K2's checkpoint brings code of its own (its tokenizer)\n"
        "abruzzi: the engine listens on 127.0.0.1:PORT, abruzzi at http://127.0.0.1:8000/v1\n"
    )


def test_own_options_stand_in_the_servers_command_and_keys_do_not(tmp_path: Path) -> None:
    own = ("--api-key", "sk-own", "--rate", "60/min", "--insecure", "--log-format", "json")
    out, _ = printed(tmp_path, *own[:-3], *own[-2:], "vllm", "serve", "K2", "--port", "9001", "--api-key", "sk-engine")
    assert out == (
        "vllm serve K2 --api-key ... --trust-remote-code --host 127.0.0.1 --port PORT\n"
        "ABRUZZI_ENGINE_KEY=... abruzzi serve --engine http://127.0.0.1:PORT/v1 --host 127.0.0.1 --port 9001"
        " --variant k2 --api-key ... --rate 60/min --log-format json\n"
    )


def test_the_servers_command_asks_for_the_engines_key_as_the_launch_does(tmp_path: Path) -> None:
    command = ("vllm", "serve", "K2", "--api-key", "sk-engine", "--host", "0.0.0.0", "--port", "9500")
    out, _ = printed(tmp_path, *command)
    assert out.endswith(
        "ABRUZZI_API_KEYS=... ABRUZZI_ENGINE_KEY=... abruzzi serve --engine http://127.0.0.1:PORT/v1 --host 0.0.0.0"
        " --port 9500 --variant k2\n"
    )
    out, _ = printed(tmp_path, "--insecure", *command)
    assert "\nABRUZZI_ENGINE_KEY=... abruzzi serve" in out
    file = tmp_path / "key"
    file.write_text("sk-file")
    out, _ = printed(tmp_path, "--engine-key-file", str(file), "--no-grammar", *command)
    assert out.endswith("--variant k2 --no-grammar\n")  # the key of the engine's own command counts


def test_a_part_of_a_group(tmp_path: Path) -> None:
    command = "python -m sglang.launch_server --model-path K2 --tp 16 --nnodes 2 --node-rank 1 --host 0.0.0.0"
    out, err = printed(tmp_path, *command.split())
    assert out == f"{command} --trust-remote-code\n" and "--node-rank 1: a part of a group" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("vllm", "serve", "K2", "--host", "0.0.0.0"), 2, "0.0.0.0 can be reached from other machines: give --api-key"),
        (("ollama", "serve"), 2, "abruzzi: expected an engine's command"),
        ((), 2, "Missing argument 'ENGINE-COMMAND...'"),
        (("--threads", "2", "vllm", "serve", "K2"), 2, "No such option"),
        (("/nowhere/trtllm-serve", "K2"), 1, "can't start /nowhere/trtllm-serve: no such program on PATH"),
        (("trtllm-serve", "K2", "--config", "o.yaml"), 2, "can't read o.yaml: No such file or directory"),
    ],
)
def test_what_can_not_be_launched(words: tuple[str, ...], code: int, message: str, tmp_path: Path) -> None:
    done = told(tmp_path, *words)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "record").exists()


def test_a_misspelled_key_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text("enable_attention_dp: true\ncuda_graph_configs:\n  enable_padding: true\n")
    command = ("trtllm-serve", "K2", "--config", str(file))
    done = told(tmp_path, *command)
    assert done.returncode == 2
    assert f"{file}:2: unknown key cuda_graph_configs: cuda_graph_config is meant?" in done.stderr
    out, _ = printed(tmp_path, "--no-check", *command)
    assert out.startswith("trtllm-serve K2 --config DIR/o.yaml")
