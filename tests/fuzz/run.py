"""No request brings the server to a 5xx: schemathesis, against `abruzzi serve` before an engine that plays a script.

    python tests/fuzz/run.py SCHEMATHESIS [--examples 500] [--whole] [--openai FILE] [--report FOLDER]
                                [OPTION ...]

SCHEMATHESIS is its command, in an environment of its own, for it pins another jsonschema-rs than this project
(`nox -s fuzz` sees to that). It makes requests, right and wrong, out of OpenAI's description, which lies in the shared
data beside a checkout, and of the types of Anthropic's client; of what the server takes, or with `--whole` of all, most
of which is refused early. In the end stands how many requests got which status. Exit status 1: something was found;
77: there is no description. OPTION goes to `schemathesis run`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.server_middles import abruzzi, engine  # noqa: E402
from tests.fuzz.description import description  # noqa: E402

ORDER = "CHUNKS=12 PACE=0 KIND=both"
"""A text, and a call of a tool that hardly a request declares."""
PHASES = (("--phases", "examples,coverage"), ("--phases", "fuzzing", "--mode", "positive"))
"""Each field and each way in which it may be wrong; then requests at random. To draw wrong ones at random, out of
schemas of this size, takes it minutes each.
"""
_REQUESTS = re.compile(r'^abruzzi_requests_total\{path="([^"]+)",status="(\d+)"[^}]*\} (\S+)$', re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description="Looks for requests that bring the server to a 5xx.")
    parser.add_argument("schemathesis")
    parser.add_argument("--examples", type=int, default=500, help="of a path and method")
    parser.add_argument("--openai", type=Path, default=ROOT.parent / "shared" / "data" / "openai" / "openapi.json.xz")
    parser.add_argument("--whole", action="store_true", help="with all that the server refuses")
    parser.add_argument("--report", type=Path, help="a folder for all that was asked and answered")
    options, more = parser.parse_known_args()
    if not options.openai.exists():
        print(f"no fuzzing: expected OpenAI's description at {options.openai}; say where it is with --openai")
        return 77
    with tempfile.TemporaryDirectory() as folder, engine(ORDER) as source, abruzzi(source.port, "text") as middle:
        file = Path(folder, "openapi.json")
        file.write_text(json.dumps(description(options.openai, stored(middle.port), whole=options.whole)))
        reports = ["--report", "ndjson,junit", "--report-dir", str(options.report)] if options.report else []
        command = [options.schemathesis, "run", str(file), "--url", f"http://127.0.0.1:{middle.port}"]
        limits = ["--max-examples", str(options.examples), "--continue-on-failure", "--request-timeout", "30"]
        checks = ["--checks", "not_a_server_error", "--suppress-health-check", "all", "--warnings", "off"]
        codes = [
            subprocess.run([*command, *limits, *checks, *reports, *phase, *more], cwd=folder).returncode
            for phase in PHASES
        ]
        print_answers(middle.port)
        return max(codes)


def stored(port: int) -> str:
    """The id of a response that can be asked for."""
    body = json.dumps({"model": "kimi-k2", "input": "Hello!"}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/responses", body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as response:
        return str(json.load(response)["id"])


def print_answers(port: int) -> None:
    """How many requests got which status: those that all were refused prove little."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        metrics = response.read().decode()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for path, status, count in _REQUESTS.findall(metrics):
        counts[path][status] += round(float(count))
    for path, statuses in sorted(counts.items()):
        print(f"{path:28}", ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())))


if __name__ == "__main__":
    sys.exit(main())
