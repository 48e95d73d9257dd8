"""How well the embedded models call tools: each behind `abruzzi serve`, the same requests one after the other.

    python bench/models.py [--models NAME,NAME]                           # the everyday requests of everyday.py alone
    python bench/models.py --scorers FOLDER --data FOLDER [--tests everyday,bfcl,distractors,k2vv] [--n N]

The scorers' folder holds `score_bfcl.py` and `score_k2vv.py`, which talk to any OpenAI-compatible server, that of the
data `bfcl_dev.jsonl.xz` and `k2vv_dev.jsonl.xz`: records of the Berkeley Function-Calling Leaderboard, compared by its
AST rules, and requests like those of Kimi's vendor verifier, whose calls must be inside their schemas. `distractors` is
BFCL again with six more tools a request, in any order. With `--n` a sample of each. One request at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import lzma
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import everyday

TESTS: Mapping[str, Sequence[str]] = {
    "bfcl": ("score_bfcl.py", "bfcl_dev"),
    "distractors": ("score_bfcl.py", "bfcl_dev", "--distractors", "6", "--shuffle-tools"),
    "k2vv": ("score_k2vv.py", "k2vv_dev", "--max-tokens", "600", "--temperature", "0"),
}


@contextlib.contextmanager
def serving(model: str, options: Sequence[str]) -> Iterator[str]:
    """The address of `abruzzi serve` with this model; where it ends early its log is the error's text."""
    command = [sys.executable, "-m", "abruzzi", "serve", "--model", model, "--port", "0", *options]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file, subprocess.Popen(command, stderr=file) as server:
            try:
                yield address(server, log, model)
            finally:
                server.terminate()


def address(server: subprocess.Popen[bytes], log: Path, model: str) -> str:
    while server.poll() is None:
        if found := re.search(r"http://[\d.]+:\d+/v1", log.read_text()):
            with contextlib.suppress(urllib.error.HTTPError):  # 503 while it loads
                urllib.request.urlopen(found[0] + "/models", timeout=60).close()
                return found[0]
        time.sleep(0.2)
    raise SystemExit(f"abruzzi serve --model {model} ended:\n{log.read_text()}")


def figures(test: str, model: str, url: str, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str]]:
    """Label and figure of each line of the table."""
    if test == "everyday":
        for kind, right, count in everyday.scored(url, model):
            yield f"{kind} ({count})", percent(right / count)
    else:
        yield from rows(test, scored(test, model, url, options, folder))


def scored(test: str, model: str, url: str, options: argparse.Namespace, folder: Path) -> Mapping[str, Any]:
    scorer, data, *more = TESTS[test]
    file = folder / f"{data}.jsonl"
    if not file.exists():
        file.write_bytes(lzma.decompress((options.data / f"{data}.jsonl.xz").read_bytes()))
    command = [sys.executable, str(options.scorers / scorer), "--base-url", url, "--model", model, "--data", str(file)]
    command += ["--n", str(options.n), "--seed", "1", "--concurrency", "1", *more]
    if options.out:
        command += ["--out", str(options.out / f"{model.replace('/', '_')}.{test}.jsonl")]
    found: Mapping[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def rows(test: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if test == "k2vv":
        yield "responses with calls", f"{found['count_finish_reason_tool_calls']} of {found['n']}"
        yield "of those, all calls inside their schema", percent(found["schema_accuracy"])
        return
    yield "non-live AST, mean of four", percent(found["ast_nonlive_mean"])
    for name, one in found["per_category"].items():
        yield f"{name} ({one['n']})", percent(one["accuracy"])
    yield "responses whose calls are all in their schema", percent(found["schema_accuracy"]["rate"])
    yield "seconds a request, median", f"{found['latency_s']['median']:.2f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scorers", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", default="smollm2-135m,qwen2.5-coder-1.5b", help="names or GGUF files, by commas")
    parser.add_argument("--tests", help="by commas; all where --scorers and --data are given")
    parser.add_argument("--n", type=int, default=0, help="records of each test; 0 for all")
    parser.add_argument("--out", type=Path, help="folder for a line of JSON a record")
    parser.add_argument("serve", nargs="*", help="options of abruzzi serve, behind --")
    options = parser.parse_args()
    is_whole = options.scorers and options.data
    models = options.models.split(",")
    tests = (options.tests or ",".join(("everyday", *TESTS) if is_whole else ("everyday",))).split(",")
    if not is_whole and tests != ["everyday"]:
        parser.error(f"{', '.join(tests)}: give --scorers and --data")
    table: dict[tuple[str, str], dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            with serving(model, options.serve) as url:
                for test in tests:
                    print(f"{model}: {test} ...", file=sys.stderr, flush=True)
                    for label, figure in figures(test, model, url, options, Path(folder)):
                        table.setdefault((test, label), {})[model] = figure
    shown = Table(box=None)
    for head in ("test", "", *(Path(model).stem for model in models)):
        shown.add_column(head, justify="left" if head in ("test", "") else "right")
    for (test, label), by_model in table.items():
        shown.add_row(test, label, *(by_model.get(model, "-") for model in models))
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
