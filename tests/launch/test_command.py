from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from abruzzi.cli.launch import launch
from abruzzi.engines.launch.arguments import Arguments
from abruzzi.engines.launch.command import Command, read
from abruzzi.protocol.errors import EngineUnavailable, RequestError

K2 = "moonshotai/Kimi-K2-Instruct"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_API_KEY", "LLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def started(text: str) -> str:
    """What is started for a command, without the address at its end."""
    words = read(shlex.split(text)).words(8001)
    assert words[-4:] == ["--host", "127.0.0.1", "--port", "8001"]
    return shlex.join(words[:-4])


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        # trtllm-serve: the model becomes positional, behind a subcommand that may be there
        (f"trtllm-serve --model {K2} --tp_size 8", f"trtllm-serve {K2} --tp_size 8 --trust_remote_code"),
        (f"trtllm-serve --tp_size 8 --model={K2}", f"trtllm-serve {K2} --tp_size 8 --trust_remote_code"),
        (f"trtllm-serve serve --model {K2}", f"trtllm-serve serve {K2} --trust_remote_code"),
        (f"trtllm-serve serve {K2}", f"trtllm-serve serve {K2} --trust_remote_code"),
        (f"trtllm-serve --trust_remote_code {K2}", f"trtllm-serve --trust_remote_code {K2}"),
        (f"/opt/trtllm-serve --tp_size 8 {K2}", f"/opt/trtllm-serve --tp_size 8 {K2} --trust_remote_code"),
        (
            f"mpirun -np 16 -x A=/x/vllm trtllm-llmapi-launch trtllm-serve {K2} --tool_parser kimi_k2",
            f"mpirun -np 16 -x A=/x/vllm trtllm-llmapi-launch trtllm-serve {K2} --tool_parser kimi_k2"
            " --trust_remote_code",
        ),
        (f"vllm serve {K2} --port 80 -tp 8", f"vllm serve {K2} -tp 8 --trust-remote-code"),
        (f"vllm serve --port=80 --host 0.0.0.0 {K2}", f"vllm serve {K2} --trust-remote-code"),
        (f"vllm serve -tp 8 {K2}", f"vllm serve -tp 8 {K2} --trust-remote-code"),
        ("vllm serve -tp 8 Qwen/Qwen3-8B", "vllm serve -tp 8 Qwen/Qwen3-8B"),
        (f"vllm serve {K2} --no-trust-remote-code", f"vllm serve {K2} --no-trust-remote-code"),
        (f"sglang serve --tp 8 {K2}", f"sglang serve --tp 8 {K2} --trust-remote-code"),
        (f"trtllm-serve {K2} --trust-remote-code", f"trtllm-serve {K2} --trust_remote_code"),
        (f"trtllm-serve --trust-remote-code {K2}", f"trtllm-serve --trust_remote_code {K2}"),
        (f"vllm serve --trust_remote_code --model {K2}", f"vllm serve --trust_remote_code --model {K2}"),
        (f"env A=1 vllm serve {K2} --nnodes 2 --node-rank 0", f"env A=1 vllm serve {K2} --nnodes 2 --node-rank 0"
         " --trust-remote-code"),
        (f"python3 -m vllm.entrypoints.openai.api_server --model {K2}", f"python3 -m vllm.entrypoints.openai.api_server"
         f" --model {K2} --trust-remote-code"),
        (f"python3.12 -u -X dev -m sglang.launch_server --model-path {K2}",
         f"python3.12 -u -X dev -m sglang.launch_server --model-path {K2} --trust-remote-code"),
        (f"uv run python /x/bin/vllm serve {K2}", f"uv run python /x/bin/vllm serve {K2} --trust-remote-code"),
        (f"sglang serve --model-path {K2}", f"sglang serve --model-path {K2} --trust-remote-code"),
        ("numactl -N 0 llama-server -m k2.gguf --jinja", "numactl -N 0 llama-server -m k2.gguf --jinja --special"),
        ("llama-server -m k2.gguf -sp", "llama-server -m k2.gguf -sp"),
        # another model's code isn't trusted
        ("vllm serve Qwen/Qwen3-8B", "vllm serve Qwen/Qwen3-8B"),
    ],
)  # fmt: skip
def test_an_engines_command_is_mended_and_else_left_as_it_stands(given: str, mended: str) -> None:
    assert started(given) == mended


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("ollama serve", "expected an engine's command (trtllm-serve MODEL"),
        ("vllm bench serve", "got vllm bench serve"),
        ("python -m http.server", "got python -m http.server"),
        ("python -m", "got python -m"),
        ("sh -c 'vllm serve x'", "got sh -c"),
        ("docker run --gpus all vllm/vllm-openai --model x", "run abruzzi launch there, inside"),
        ("sudo docker run vllm/vllm-openai vllm serve x", "docker starts the engine where it can't be watched"),
        ("env A=1 ssh host vllm serve x", "ssh starts the engine where"),
        ("numactl -N 0 kubectl exec pod -- vllm serve x", "kubectl starts the engine where"),
        ("CUDA_VISIBLE_DEVICES=0 vllm serve x", "expected a program, got CUDA_VISIBLE_DEVICES=...: put env in front"),
        ("vllm serve x --dry-run", "--dry-run is abruzzi's own: it stands before the engine's command"),
        ("vllm serve x --engine-grace=3", "--engine-grace is abruzzi's own"),
        ("llama-server -m x --rate 60/min", "--rate is abruzzi's own"),
        ("vllm serve x --runner pooling", "--runner pooling can't stay in the command of vllm: it would answer no"),
        ("sglang serve x --disaggregation-mode=prefill", "--disaggregation-mode prefill can't stay"),
        ("trtllm-serve x --server_role CONTEXT", "--server_role can't stay in the command of trtllm-serve"),
        (
            "llama-server -m x --host /x.sock",
            "--host /x.sock can't stay in the command of llama-server: it must listen",
        ),
        ("vllm serve x --skip-tokenizer-init", "--skip-tokenizer-init can't stay"),
        ("vllm serve x --port --dtype auto", "got --port without a value"),
        ("trtllm-serve x --extra_llm_api_options", "expected a file behind --extra_llm_api_options"),
        ("trtllm-serve", "expected a model behind trtllm-serve, got none"),
        ("trtllm-serve --tp_size 8", "expected a model behind trtllm-serve, got none"),
        ("trtllm-serve --model", "expected one model, got --model without a value"),
        ("trtllm-serve a --model b", "expected one model, got --model b and a"),
        ("trtllm-serve a b", "expected one model behind trtllm-serve, got a and b"),
        ("trtllm-serve disaggregated -c f.yaml", "got trtllm-serve disaggregated: start it as it is"),
        ("vllm serve x --uds s.sock", "--uds can't stay in the command of vllm: it must listen on a port"),
        ("vllm serve x --ssl-keyfile=k", "--ssl-keyfile can't stay"),
        ("vllm serve x --port many", "expected a port from 1 to 65535 in the engine's command, got --port many"),
        ("vllm serve x --port=0", "got --port 0"),
        ("vllm serve moonshotai/Kimi-K3", "is a Kimi K3"),
        ("trtllm-serve x --extra_llm_api_options /nowhere.yaml", "can't read /nowhere.yaml: No such file"),
    ],
)
def test_what_can_not_work_is_refused(command: str, told: str) -> None:
    with pytest.raises(RequestError) as error:
        read(shlex.split(command))
    assert told in str(error.value)


def test_the_address_is_the_users_and_the_last_counts() -> None:
    found = read(["vllm", "serve", K2, "--port", "1", "--port=8123", "--host", "0.0.0.0"])
    assert (found.host, found.port) == ("0.0.0.0", 8123)
    assert read(["vllm", "serve", K2]).port is None


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--headless", "--headless"),
        ("--node-rank 1", "--node-rank 1"),
        ("--node_rank=3", "--node-rank 3"),
        ("-r 1", "--node-rank 1"),
    ],
)
def test_a_part_without_an_api_keeps_its_address(option: str, told: str) -> None:
    words = ["vllm", "serve", K2, "--port", "8123", *option.split()]
    found = read(words)
    assert found.worker == told
    assert found.words(9) == [*words, "--trust-remote-code"]


def test_the_models_folder_tells_what_its_name_does_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "kimi_k2"}))
    found = read(["trtllm-serve", str(tmp_path)])
    assert found.variant is not None and found.variant.name == "k2" and "--trust_remote_code" in found.words(1)
    assert read(["vllm", "serve", "/nowhere"]).variant is None
    assert "--trust-remote-code" in read(["vllm", "serve", "/nowhere"], variant="k2.6").words(1)


def keys(command: str) -> tuple[tuple[str, ...], str]:
    found: Command = read(shlex.split(command))
    return found.keys, found.shown(1)


def test_keys_are_known_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for command, expected in (
        ("vllm serve x --api-key sk-a sk-b --dtype auto", ("sk-a", "sk-b")),
        ("vllm serve x --api_key=sk-a", ("sk-a",)),
        ("env VLLM_API_KEY=sk-a vllm serve x", ("sk-a",)),
        ("llama-server -m x --api-key sk-a,sk-b", ("sk-a", "sk-b")),
        ("python -m sglang.launch_server --model x --api-key sk-a", ("sk-a",)),
        ("srun --export=ALL,VLLM_API_KEY=sk-a,A=1 vllm serve x", ("sk-a",)),
        ("mpirun -genv VLLM_API_KEY sk-a -np 2 vllm serve x", ("sk-a",)),
        ("env VLLM_API_KEY=sk-a mpirun -x VLLM_API_KEY -np 2 vllm serve x", ("sk-a",)),
        ("apptainer exec --env A=1,VLLM_API_KEY=sk-a x.sif vllm serve x", ("sk-a",)),
    ):
        found, shown = keys(command)
        assert found == expected and "sk-" not in shown
        assert "sk-a" in " ".join(read(shlex.split(command)).words(1))
    monkeypatch.setenv("VLLM_API_KEY", "sk-env")
    assert keys("vllm serve x")[0] == ("sk-env",) and keys("llama-server -m x")[0] == ()


@pytest.mark.parametrize(
    "command",
    [
        "env HF_TOKEN=sk-1 AWS_SECRET=sk-2 vllm serve x --hf-token sk-3",
        "python -m sglang.launch_server --model x --admin-api-key sk-1 --some_password=sk-2",
        "srun --export=A=1,HF_TOKEN=sk-1,sk-2 --x-token=sk-3 vllm serve x",
        "srun --export A=1,HF_TOKEN=sk-1 vllm serve x",
        "env VLLM_API_KEY=sk-1,sk=2 vllm serve x",
        "llama-server -m x -hft sk-1",
        "mpirun -x 'A=1;HF_TOKEN=sk-1;B=2' vllm serve x",
    ],
)
def test_no_secret_is_shown(command: str) -> None:
    assert "sk-" not in read(shlex.split(command)).shown(1)
    plain = "vllm serve x --max-num-batched-tokens 8 --tokenizer-mode auto"
    assert "8 --tokenizer-mode auto" in read(shlex.split(plain)).shown(1)


def test_what_is_no_secret_is_shown() -> None:
    command = "srun -n 2 --export=ALL,HF_TOKEN=sk-1,A=1 vllm serve x"
    assert read(shlex.split(command)).shown(1).startswith("srun -n 2 --export=ALL,HF_TOKEN=...,A=1 vllm serve x")


def test_all_options_of_launch_are_known_behind_the_engines_command_but_those_that_engines_have() -> None:
    of_engines = {"--host", "--port", "--api-key", "--api-key-file", "--tokenizer", "--grammar"}
    own = {name for one in launch.params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}
    for name in own - of_engines:
        with pytest.raises(RequestError, match=f"^{name} is abruzzi's own"):
            read(["vllm", "serve", K2, name])


def test_options_are_found_in_all_their_spellings() -> None:
    arguments = Arguments(("m", "--a_b", "1", "--a-b=2", "--flag", "x", "--empty="))
    assert arguments.value("--a-b") == "2" and arguments.has("--flag") and not arguments.has("--fla")
    assert arguments.value("--empty") == "" and arguments.value("--none") is None
    assert arguments.without("--a-b").words == ("m", "--flag", "x", "--empty=")
    assert Arguments(("--port", "--host", "x")).without("--port").words == ("--host", "x")
    assert arguments.positional({"--flag"}) == ["m", "x"]
    secret = Arguments(
        ("m", "--api_key", "1", "--hf-token=2", "--keyed", "x", "--monkey", "y", "--some-keys", "a", "b")
    )
    assert secret.masked().words == (
        *("m", "--api_key", "...", "--hf-token=...", "--keyed", "x", "--monkey", "y", "--some-keys", "...", "..."),
    )


@pytest.mark.parametrize(("mode", "what"), [(None, "a folder"), (0o644, "no program: it isn't executable")])
def test_what_is_no_program_is_told(mode: int | None, what: str, tmp_path: Path) -> None:
    path = tmp_path / "vllm"
    if mode is None:
        path.mkdir()
    else:
        path.touch(mode)
    with pytest.raises(EngineUnavailable, match=f"expected a program, it is {what}"):
        read([str(path), "serve", "x"]).check_executable()


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(EngineUnavailable, match=r"can't start /nowhere/vllm: no such program"):
        read(["/nowhere/vllm", "serve", K2]).check_executable()
    read(["env", "vllm", "serve", K2]).check_executable()


def test_what_a_daemon_starts_does_not_descend_from_the_command() -> None:
    assert read(["env", "A=1", "vllm", "serve", K2]).descends
    assert not read(["srun", "--export=ALL", "trtllm-llmapi-launch", "trtllm-serve", K2]).descends
