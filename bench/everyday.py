"""Short everyday requests to an OpenAI-compatible server: how many it answers with exactly the calls that are due.

    python bench/everyday.py --base-url http://127.0.0.1:8000/v1 [--model NAME] [--wrong]

The requests are in `everyday.json`, written for this by somebody who had not seen the embedded model's training: one
to five tools each, among them requests of several calls, of none, and some that aren't in English. Right is: the calls
that were meant and no others, in any order, each parameter with one of its accepted values (texts are compared without
case, blanks and punctuation) and none that nobody asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("everyday.json")
MAX_TOKENS = 512


def plain(value: Any) -> Any:
    """The value as it is compared."""
    if isinstance(value, str):
        return "".join(c for c in value.lower() if c.isalnum())
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def is_meant(call: Mapping[str, Any], due: Mapping[str, Any]) -> bool:
    if call["name"] != due["name"]:
        return False
    arguments, may = call["arguments"], due.get("may", {})
    if not due["arguments"].keys() <= arguments.keys() <= due["arguments"].keys() | may.keys():
        return False
    accepted = {**may, **due["arguments"]}
    return all(plain(value) in map(plain, accepted[name]) for name, value in arguments.items())


def fault(calls: Sequence[Mapping[str, Any]], due: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong, in a word; None where the calls are those that are due."""
    if not due:
        return "a call where none is due" if calls else None
    if not calls:
        return "no call"
    if Counter(call["name"] for call in calls) != Counter(call["name"] for call in due):
        return (
            "another tool" if len(calls) == len(due) else "too few calls" if len(calls) < len(due) else "too many calls"
        )
    left = list(due)
    for call in calls:
        meant = next((one for one in left if is_meant(call, one)), None)
        if meant is None:
            return "arguments"
        left.remove(meant)
    return None


def asked(url: str, model: str, request: Mapping[str, Any], tools: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls that the server answers with."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": request["user"]}],
        "tools": [tools[name] for name in request["tools"]],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    sent = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(sent, timeout=600) as response:
        message = json.load(response)["choices"][0]["message"]
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return [{"name": one["name"], "arguments": json.loads(one["arguments"])} for one in functions]


def scored(url: str, model: str, wrong: bool = False) -> Iterator[tuple[str, int, int]]:
    """Kind of request, how many are right, how many there are; at first all together."""
    known = json.loads(FILE.read_text(encoding="utf-8"))
    counts: dict[str, list[bool]] = {"all": []}
    for request in known["requests"]:
        calls = asked(url, model, request, known["tools"])
        found = fault(calls, request["calls"])
        kind = {0: "no call is due", 1: "one call"}.get(len(request["calls"]), "several calls")
        for name in ("all", kind):
            counts.setdefault(name, []).append(found is None)
        if wrong and found:
            print(f"{found}: {request['user']}\n    {json.dumps(calls, ensure_ascii=False)}", file=sys.stderr)
    for name, right in counts.items():
        yield name, sum(right), len(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--wrong", action="store_true", help="show what went wrong")
    options = parser.parse_args()
    for name, right, count in scored(options.base_url, options.model, options.wrong):
        print(f"{name:16} {right:4} of {count}  {100 * right / count:5.1f} %")


if __name__ == "__main__":
    main()
