"""What docs/deploy.md and examples/deploy show: `abruzzi` takes each command, shells and YAML parsers each file."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from abruzzi.cli.launch import launch
from abruzzi.cli.serve import serve

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples" / "deploy"
SKY = yaml.safe_load((EXAMPLES / "kimi-k2.sky.yaml").read_text(encoding="utf-8"))
SCRIPTS = {
    "deploy.md": "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)),
    "trtllm.sbatch": (EXAMPLES / "trtllm.sbatch").read_text(encoding="utf-8"),
    "kimi-k2.sky.yaml": f"{SKY['setup']}\n{SKY['run']}",
}
VALUES = {
    "MODEL": "/models/Kimi-K2-Instruct",
    "TRTLLM_IMAGE": "an/image:1",
    "OPTIONS": "examples/deploy/trtllm.yaml",
    "head": "10.0.0.1",
    "SKYPILOT_NODE_RANK": "1",
    "LWS_GROUP_SIZE": "2",
    "LWS_WORKER_INDEX": "0",
    "LWS_LEADER_ADDRESS": "kimi-k2-0.kimi-k2",
}


def in_scripts() -> Iterator[tuple[str, list[str]]]:
    """The commands of abruzzi, and the file of each."""
    for name, script in SCRIPTS.items():
        for line in script.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["exec"]:
                words = words[1:]
            if words[:1] == ["abruzzi"]:
                yield name, words


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted((EXAMPLES / "kubernetes").iterdir()):
        for one in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            spec = one["spec"]
            group = spec.get("leaderWorkerTemplate", {})
            for template in (spec.get("template"), group.get("leaderTemplate"), group.get("workerTemplate")):
                if template is not None:
                    yield file.name, template["spec"]


def filled(words: list[str]) -> list[str]:
    return [re.sub(r"\$[({]?(\w+)[)}]?", lambda found: VALUES[found[1]], word) for word in words]


COMMANDS = [
    *((name, filled(words)) for name, words in in_scripts()),
    *((name, filled(pod["containers"][0]["command"])) for name, pod in pods()),
]
LAUNCHED = [pytest.param(words[2:], id=name) for name, words in COMMANDS if words[:2] == ["abruzzi", "launch"]]


@pytest.mark.parametrize("words", LAUNCHED)
def test_launch_takes_the_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ABRUZZI_API_KEYS", "sk-one,sk-two")
    done = CliRunner().invoke(launch, ["--dry-run", *words], catch_exceptions=False)
    assert done.exit_code == 0 and "isn't known" not in done.stderr, done.stderr
    started, *server = done.stdout.splitlines()
    assert re.search(r"--trust[-_]remote[-_]code", started)
    if "--headless" in words or words[-2:] == ["--node-rank", "1"]:
        assert not server and "127.0.0.1" not in started
    else:
        assert re.search(r" --host 127\.0\.0\.1 --port \d+$", started)
        (told,) = server
        assert "--host 0.0.0.0 --port 8000 --variant k2" in told


def test_before_a_router_it_starts_though_no_replica_answers() -> None:
    replica, server = (words for name, words in COMMANDS if name == "router.yaml")
    assert server[server.index("--model") + 1] == replica[2]  # by which vllm serve lists it


def test_each_engine_and_each_way_is_there() -> None:
    shown = [" ".join(words) for _, words in COMMANDS]
    for part in ("vllm serve", "-m sglang.launch_server", "mpirun -np 16", "srun --mpi", "backend ray", "headless"):
        assert any(part in one for one in shown), part


@pytest.mark.parametrize("words", [words[2:] for _, words in COMMANDS if words[:2] == ["abruzzi", "serve"]])
def test_serve_has_these_options(words: list[str]) -> None:
    serve.make_context("serve", list(words))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_shell_takes_the_script(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=SCRIPTS[name], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_pods_are_left_the_time_that_abruzzi_takes_to_end() -> None:
    needed = []
    for _, pod in pods():
        container = pod["containers"][0]
        command = container["command"]
        if command[0] != "abruzzi":
            continue
        options = dict(pairwise(command))
        slept = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        serving = 0.0 if "--headless" in command else float(options["--grace"])
        ending = float(options["--engine-grace"]) if command[1] == "launch" else 0.0
        assert slept + serving + ending < pod["terminationGracePeriodSeconds"]
        needed.append(slept + serving)
        if serving:
            assert container["readinessProbe"]["httpGet"]["path"] == "/health"
            assert container["env"][-1]["name"] == "ABRUZZI_API_KEYS"
    head, worker, _ = needed
    assert worker > head  # the head's last requests need it


def test_what_is_linked_is_there() -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)", PAGE)
    assert links and [link for link in links if not (ROOT / "docs" / link).exists()] == []
    linked = {(ROOT / "docs" / link).resolve() for link in links}
    assert {file for file in EXAMPLES.rglob("*") if file.is_file()} <= linked
