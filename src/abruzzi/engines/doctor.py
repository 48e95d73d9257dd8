"""What a server can and can't do, found out by asking it, and what that means for the promise that calls are valid."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from abruzzi.engines.base import ALTERNATIVES
from abruzzi.engines.http import BrokenOff, Silence, Unreachable
from abruzzi.engines.llamacpp import LLAMACPP
from abruzzi.engines.sglang import SGLANG
from abruzzi.engines.trtllm import TRTLLM
from abruzzi.engines.vllm import VLLM
from abruzzi.engines.ways import Asker, Ways, candidates, obeyed, obeys_tool_choice, ways_of
from abruzzi.protocol.markers import CALL_BEGIN
from abruzzi.protocol.variants import Variant

Verdict = Literal["good", "fair", "bad", "unknown"]

_OBEY = {
    VLLM.name: 'start it with --structured-outputs-config \'{"backend": "guidance"}\'',
    SGLANG.name: "start it with --grammar-backend xgrammar",
    TRTLLM.name: "put guided_decoding_backend: xgrammar into its --extra_llm_api_options",
    LLAMACPP.name: "take a newer llama-server",
}
# How many requests run, in each engine's /metrics, which is there with the option beside it.
_RUNNING = {
    VLLM.name: (r"^vllm:num_requests_running\{.*\} (\S+)", ""),
    SGLANG.name: (r"^sglang:num_running_reqs\{.*\} (\S+)", "--enable-metrics"),
    LLAMACPP.name: (r"^llamacpp:requests_processing (\S+)", "--metrics"),
}
_WORDS = "one two three four five six seven eight nine ten "
_LONG = _WORDS * 40
_ABORT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    found: str
    verdict: Verdict
    means: str = ""
    """What follows from it."""
    change: str = ""
    """What to do about it, where there is something."""


async def examine(asker: Asker, variant: Variant) -> AsyncGenerator[Finding, None]:
    """All findings, one after another as they are made. Raises EngineUnavailable where nobody answers."""
    ways = await ways_of(asker, variant, guided=False)
    if not ways.completes:
        async for finding in _chat(asker):
            yield finding
        return
    yield _engine(ways)
    status, got = await asker.complete(ways.api, "Hello", max_tokens=1)
    if isinstance(got, str):
        yield Finding(
            "completions", f"{status}: {got}" if status else got, "bad", "it can't be served", _no_completions(status)
        )
        return
    yield await _unknown_fields(asker, ways)
    yield _markers(ways)
    async for finding in _constraints(asker, ways):
        yield finding
    yield await _ends(asker, ways, variant)
    for check in (_ids_in, _ids_out, _continues, _cache, _logprobs):
        yield await check(asker, ways)
    yield await _aborts(asker, ways)


async def _chat(asker: Asker) -> AsyncGenerator[Finding, None]:
    means = "it takes no grammar and goes on with nothing: the guard keeps calls valid by asking the whole chat again"
    yield Finding("completions", "none", "fair", means, "an engine that has /v1/completions is held to more")
    yield Finding("chat", "answers", "good")
    told = await obeys_tool_choice(asker)
    if told is True:
        yield Finding("tools", "called", "good")
    elif told is None:
        yield Finding("tools", "not found out", "unknown", "it came to no call in time, or was too busy")
    elif CALL_BEGIN in str(told):
        yield Finding("tools", "called, and their markers come as text", "fair", "they are read as calls here")
    else:
        yield Finding("tools", f"not called: {told}", "bad", "a call that has to come may have to be written here")


def in_words(ways: Ways, *, guided: bool) -> Sequence[tuple[str, bool]]:
    """The most important of it, as `ways_of` finds it: what is said behind the server's URL, and whether something had
    better be changed.
    """
    name = f"is {ways.api.name} {ways.version or ''}".rstrip()
    if not ways.api.is_known:
        name = "is no engine that is known"
    if ways.refusal:
        lines = [(f"{name}, and refuses completions: {ways.refusal}", True)]
    elif not guided:
        lines = [(f"{name}: it is given no grammar, and the guard alone keeps calls valid", False)]
    elif not ways.api.is_known:
        lines = [(f"{name}, and obeys no grammar: the guard alone keeps calls valid", False)]
    elif ways.constraint is None:
        change = f"; to change that, {_OBEY[ways.api.name]}"
        lines = [(f"{name} and obeys no grammar: the guard alone keeps calls valid, by asking again{change}", True)]
    else:
        lines = [(f"{name} and is held to each turn's grammar ({ways.constraint.name})", False)]
    if ways.shows_markers is False:
        markers = _markers(ways)
        lines.append((f"hides special tokens: {markers.means}; {markers.change}", True))
    return lines


def _engine(ways: Ways) -> Finding:
    if not ways.api.is_known:
        return Finding("engine", "unknown", "fair", "it is asked in the ways of all that are known")
    return Finding("engine", " ".join(filter(None, (ways.api.name, ways.version))), "good")


def _no_completions(status: int) -> str:
    return "serve one that has /v1/completions" if status == 404 else "see the engine's log"


async def _unknown_fields(asker: Asker, ways: Ways) -> Finding:
    status, _ = await asker.complete(ways.api, "Hello", max_tokens=1, abruzzi_unknown=True)
    if status == 200:
        return Finding(
            "unknown fields", "ignored", "fair", "that it answers 200 says nothing of whether a grammar was obeyed"
        )
    return Finding("unknown fields", f"refused ({status})", "good")


def _markers(ways: Ways) -> Finding:
    if ways.shows_markers is None:
        return Finding("special tokens", "not found out", "unknown", "calls can only be read where markers are seen")
    if ways.shows_markers:
        return Finding("special tokens", "kept", "good")
    change = "start it with --special" if ways.api is LLAMACPP else "have it keep special tokens"
    return Finding("special tokens", "hidden", "bad", "no call can be read: its markers don't come", change)


async def _constraints(asker: Asker, ways: Ways) -> AsyncGenerator[Finding, None]:
    is_obeyed = False
    tried = [(one, constraint) for one in candidates(ways) for constraint in one.api.constraints]
    for one, constraint in tried:
        told = await obeyed(asker, one, constraint)
        subject = f"grammar by {constraint.name}" + ("" if one is ways else f", {one.api.name}")
        if told is True:
            yield Finding(subject, "obeyed", "good", "" if is_obeyed else "turns are held to their grammar by it")
            is_obeyed = True
        elif told is False:
            yield Finding(subject, "ignored", "fair")
        else:
            yield Finding(subject, f"refused: {told}", "fair")
    if not is_obeyed:
        means = "the guard alone keeps calls valid, at the cost of asking again"
        yield Finding("guided decoding", "none", "bad", means, _OBEY.get(ways.api.name, ""))


async def _ends(asker: Asker, ways: Ways, variant: Variant) -> Finding:
    end = variant.turn_end
    if end not in ways.ids:
        return Finding("end of turn", "not found out", "unknown")
    fields: dict[str, Any] = {"logit_bias": {str(ways.ids[end]): 100}, "stop": [end]}
    if ways.api.stops_at_ids:
        fields["stop_token_ids"] = [ways.ids[end]]
    _, got = await asker.complete(ways.api, "Hello", max_tokens=4, **fields)
    if isinstance(got, dict) and got.get("finish_reason") == "stop":
        return Finding("end of turn", f"stops at {end}", "good")
    if isinstance(got, dict) and end in got["text"]:
        return Finding("end of turn", f"writes on behind {end}", "fair", "what comes behind is cut off here")
    return Finding("end of turn", "not found out", "unknown", f"it couldn't be made to write {end}")


async def _ids_in(asker: Asker, ways: Ways) -> Finding:
    status, got = await asker.complete(ways.api, [100, 200, 300], max_tokens=1)
    if isinstance(got, dict) and got["usage"].prompt in (0, 3):
        means = "give --tokenizer DIR: then no content can spell a control token, and none is changed"
        return Finding("token ids in", "taken", "good", means)
    found = f"{status}: {got}" if isinstance(got, str) else f"taken for {got['usage'].prompt} tokens"
    return Finding("token ids in", found, "fair", "prompts go as text; what spells a control token in it is broken up")


async def _ids_out(asker: Asker, ways: Ways) -> Finding:
    if ways.tells_ids:
        return Finding("token ids out", "given", "good", "with --tokenizer a marker is told from text that spells it")
    return Finding("token ids out", "not given", "fair", "a marker is what spells one")


async def _continues(asker: Asker, ways: Ways) -> Finding:
    """A chat template around the prompt shows in how many tokens it has."""
    _, got = await asker.complete(ways.api, "Hello", max_tokens=1)
    count = got["usage"].prompt if isinstance(got, dict) else 0
    if not count:
        return Finding("prefix", "not found out", "unknown")
    if count <= len("Hello") + 1:
        return Finding("prefix", "continued", "good", "the guard has it go on from what could stand")
    means = "it puts a template around prompts, and answers anew where it is to go on"
    return Finding("prefix", f"answered: 5 letters are {count} tokens to it", "bad", means)


async def _cache(asker: Asker, ways: Ways) -> Finding:
    prompt = f"{time.time_ns()} {_LONG}"
    took = []
    cached = 0
    for _ in range(3):
        begun = time.perf_counter()
        _, got = await asker.complete(ways.api, prompt, max_tokens=1)
        took.append(time.perf_counter() - begun)
        if isinstance(got, dict):
            cached = got["usage"].cached
    means = "asking again costs little"
    if cached:
        return Finding("prefix cache", f"yes: {cached} tokens", "good", means)
    first, again = took[0], min(took[1:])
    if again < 0.5 * first:
        return Finding("prefix cache", f"it seems: {first * 1e3:.0f} ms, then {again * 1e3:.0f}", "good", means)
    return Finding("prefix cache", "not seen", "unknown", "without one, asking again reads the whole prompt again")


async def _logprobs(asker: Asker, ways: Ways) -> Finding:
    _, got = await asker.complete(ways.api, "Hello", max_tokens=1, logprobs=ALTERNATIVES)
    if isinstance(got, dict) and got.get("logprobs"):
        return Finding("logprobs", "given", "good", "where an output breaks, what else might have come is tried first")
    return Finding("logprobs", "not given", "fair", "where an output breaks it is drawn again")


async def _aborts(asker: Asker, ways: Ways) -> Finding:
    subject = "a client that leaves"
    pattern, option = _RUNNING.get(ways.api.name, ("", ""))
    before = await _running(asker, pattern) if pattern else None
    if before is None:
        return Finding(subject, "not found out", "unknown", change=f"start it with {option} to see" if option else "")
    body = {"model": asker.model, "prompt": "Hello", "max_tokens": 1000, "stream": True, "ignore_eos": True}
    try:
        response = await asker.client.ask("POST", "/v1/completions", msgspec.json.encode({**body, **ways.api.fields}))
        await response.read()
        during = await _running(asker, pattern) or 0
        response.close()
    except (Unreachable, BrokenOff, Silence) as error:
        return Finding(subject, f"not found out: {error}", "unknown")
    if response.status != 200 or during <= before:
        return Finding(subject, "not found out", "unknown", "its request was refused, or over too soon")
    begun = time.perf_counter()
    while time.perf_counter() - begun < _ABORT_SECONDS:
        if (await _running(asker, pattern) or 0) <= before:
            return Finding(subject, f"ends its request ({time.perf_counter() - begun:.1f} s)", "good")
        await asyncio.sleep(0.1)
    return Finding(subject, "is worked for on", "bad", "requests that nobody waits for take room from others")


async def _running(asker: Asker, pattern: str) -> float | None:
    status, text = await asker.get("/metrics")
    if status != 200 or not isinstance(text, str):
        return None
    try:
        return sum(map(float, re.findall(pattern, text, re.MULTILINE)))
    except ValueError:
        return None
