"""Turns of random weights in vLLM through `abruzzi serve`: with no constraint, where the guard alone makes each call
valid, and held to the turn's grammar by either of vLLM's backends.

The weights know neither the format nor the tools. What they `lean` to, by `logit_bias`, are markers and the names of
tools, in any order and at any place: calls that are almost right, beside all else.
"""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema_rs
import openai
import pytest

from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN, CALL_END, SECTION_BEGIN
from tests.ports import free_port
from tests.real.tiny_k2 import control_ids
from tests.real.vllm_serve import MODEL, Vllm

TURNS = int(os.environ.get("ABRUZZI_TURNS", "100"))
TURNS_BY_ID = TURNS * 3 // 10  # with K2's number of tokens each takes vLLM three times as long
# Tokens of a turn: some come to that limit. Where the guard alone works all calls that have to come are awaited.
MAX_TOKENS, MAX_TOKENS_ALONE = 600, 4000
# Tokens of the tiny model's vocabulary, so that it comes upon them.
NAMES = ("aq", "bw", "cv", "dx", "ez", "fk", "gj", "hm")
# How much likelier than others, as e to the power of it.
LEANING_TO_MARKERS, LEANING_TO_NAMES = 6, 5

# Of vLLM with a backend, how it is asked: without a grammar, with one, with one and with token ids both ways.
pytestmark = pytest.mark.parametrize(
    ("vllm", "served"),
    [("guidance", "alone"), ("guidance", "grammar"), ("xgrammar and ids", "grammar and ids")],
    indirect=True,
    scope="session",
)


@dataclass
class Turn:
    """What a client got."""

    end: str = ""
    """Its `finish_reason`, or an error's code."""
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="session")
def served(
    request: pytest.FixtureRequest, vllm: Vllm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    port = free_port()
    command = [sys.executable, "-m", "abruzzi", "serve", "--port", str(port), "--engine", vllm.url, "--variant", "k2"]
    command += {
        "alone": ["--no-grammar"],
        "grammar": [],
        "grammar and ids": ["--tokenizer", str(vllm.folder)],
    }[request.param]
    with (tmp_path_factory.mktemp("abruzzi") / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        for _ in range(300):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            assert process.poll() is None, Path(log.name).read_text()
            time.sleep(0.1)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def tools(shared: Path) -> list[dict[str, Any]]:
    """Tools of MCP servers under other names."""
    with lzma.open(shared / "schemas" / "mcp_tools.jsonl.xz", "rt") as file:
        found = [json.loads(line)["tool"] for line in list(file)[::400]]
    assert len(found) == len(NAMES)
    return [
        {"type": "function", "function": {**tool["function"], "name": name}}
        for tool, name in zip(found, NAMES, strict=True)
    ]


@pytest.fixture(scope="session")
def lean(vllm: Vllm) -> dict[str, int]:
    """The `logit_bias` of what a call is made of."""
    controls = control_ids(vllm.ranks)
    markers = [controls[marker] for marker in (SECTION_BEGIN, CALL_BEGIN, ARGUMENT_BEGIN, CALL_END)]
    functions, *_ = vllm.post("/tokenize", prompt="functions.")[1]["tokens"]
    names = [id for name in NAMES for id in vllm.post("/tokenize", prompt=name)[1]["tokens"]]
    assert len(names) == len(NAMES)
    biases = dict.fromkeys((*markers, functions), LEANING_TO_MARKERS) | dict.fromkeys(names, LEANING_TO_NAMES)
    return {str(id): bias for id, bias in biases.items()}


def asked(client: openai.OpenAI, seed: int, **body: Any) -> Turn:
    """One turn."""
    messages = [{"role": "user", "content": f"Do something useful, and do it {seed} times."}]
    body = {"model": MODEL, "messages": messages, "temperature": 1, "seed": seed, "max_tokens": MAX_TOKENS, **body}
    for last in (False, True):
        try:
            return streamed(client, body) if seed % 2 else whole(client, body)
        except openai.APIError as error:
            if error.code == "invalid_output":
                return Turn("invalid_output")
            # Beside too much other work a server may not get to its connections for longer than it waits for them.
            if error.code != "engine_unavailable" or last:
                raise
    raise AssertionError


def whole(client: openai.OpenAI, body: dict[str, Any]) -> Turn:
    answer = client.chat.completions.create(**body)
    (choice,) = answer.choices
    calls = {
        index: {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for index, call in enumerate(choice.message.tool_calls or ())
    }
    return Turn(choice.finish_reason, calls, (answer.model_extra or {})["abruzzi"])


def streamed(client: openai.OpenAI, body: dict[str, Any]) -> Turn:
    turn = Turn()
    for chunk in client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            turn.end = choice.finish_reason or turn.end
            for delta in choice.delta.tool_calls or ():
                call = turn.calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += delta.id or ""
                call["name"] += delta.function.name or ""
                call["arguments"] += delta.function.arguments or ""
        turn.report = (chunk.model_extra or {}).get("abruzzi") or turn.report
    if turn.end == "length" and turn.calls:
        del turn.calls[max(turn.calls)]  # begun, and said not to be whole
    return turn


# What is asked for, and whether the weights lean. By themselves they come upon no name of a tool.
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "required": ({"tool_choice": "required", "parallel_tool_calls": False}, False),
    "named": ({"parallel_tool_calls": False}, False),
    "parallel": ({"tool_choice": "required", "parallel_tool_calls": True}, True),
    "auto": ({"tool_choice": "auto", "parallel_tool_calls": True}, True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_that_reaches_the_client_is_valid(
    request: pytest.FixtureRequest,
    vllm: Vllm,
    served: openai.OpenAI,
    tools: list[dict[str, Any]],
    lean: dict[str, int],
    kind: str,
) -> None:
    is_guided, count = "alone" not in request.node.callspec.id, TURNS_BY_ID if vllm.is_large else TURNS
    validators = {
        tool["function"]["name"]: jsonschema_rs.validator_for(tool["function"]["parameters"]) for tool in tools
    }
    options, leans = KINDS[kind]
    body: dict[str, Any] = {"tools": tools, **options, **({"logit_bias": lean} if leans else {})}
    must_come = not is_guided and not leans
    if must_come:
        body["max_tokens"] = MAX_TOKENS_ALONE

    def ask(seed: int) -> Turn:
        named = {"tool_choice": {"type": "function", "function": {"name": NAMES[seed % len(NAMES)]}}}
        return asked(served, seed, **body, **(named if kind == "named" else {}))

    begun = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        turns = list(threads.map(ask, range(count)))
    seconds = time.monotonic() - begun

    for seed, turn in enumerate(turns):
        # With `auto` a model may fail at a call that nobody asked for, and the client is told so.
        assert turn.end in ("tool_calls", "length", *(("stop", "invalid_output") if kind == "auto" else ()))
        assert is_guided or turn.report.get("guarantee") != "guided"
        assert turn.calls or turn.end != "tool_calls"
        assert len(turn.calls) <= 1 or options["parallel_tool_calls"]
        assert len({call["id"] for call in turn.calls.values()}) == len(turn.calls)
        for call in turn.calls.values():
            assert validators[call["name"]].is_valid(json.loads(call["arguments"])), call
            assert kind != "named" or call["name"] == NAMES[seed % len(NAMES)]
    calls = Counter(call["name"] for turn in turns for call in turn.calls.values())
    resumes = sum(turn.report.get("resumes", 0) for turn in turns)
    ends = dict(Counter(turn.end for turn in turns))
    guided = sum(turn.report.get("guarantee") == "guided" for turn in turns)
    print(
        f"\n{request.node.callspec.id}: {calls.total()} calls of {len(calls)} tools, {resumes} resumes,"
        f" {guided} turns guided to their end, {ends}, {seconds:.0f} s"
    )
    assert not is_guided or leans or guided > count // 4
    # Within xgrammar's grammars random weights write white space to the limit: nothing in a structural tag bounds it.
    is_rare = kind == "auto" or vllm.backend == "xgrammar"
    least = count if must_come else count // 10 if is_rare else count * 3 // 4
    assert sum(1 for turn in turns if turn.calls) >= least
