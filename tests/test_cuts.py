"""What becomes of an engine's output is a function of its text, and not of the pieces in which it comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi import AbruzziError, ChatRequest, Message, SamplingParams, Tool, chat
from abruzzi.engines.base import Piece, Usage
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.markers import MARKERS, SECTION_BEGIN, SECTION_END
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.variants import VARIANTS
from tests.conftest import PING, WEATHER, section

ASK = (Message("user", "Go."),)
XS = Tool("xs", None, {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}})
# An object that ends once too often.
PINGS = section(("functions.ping:0", "{}}"))
FRAGMENTS = (
    *MARKERS,
    *("<", "<|", "|>", "<|tool_", "</think>", "<|im_end|>", "Hi. ", "\n", " " * 600, "é", "}", '"', ", ", "{}"),
    *("functions.ping:0", "functions.get_weather:1", "xs", "nope"),
    *('{"location": "Rome"', '{"unit": "k", ', '{"x": [1, 1]}', '{"x": [1'),
    *(PINGS, section(("functions.xs:0", '{"x": [1, 2]}'), ("get_weather", '{"location": "<|tool_call_end|>"}'))),
)


class Cut(ScriptedEngine):
    """A character is a token, and a seed says how many come at once: 0 all of them."""

    def __init__(self, outputs: Sequence[str], seed: int, **options: Any) -> None:
        super().__init__(outputs, **options)
        self._rng = random.Random(seed)
        self._most = (10**9, 1, 4, 30)[seed % 4]

    async def complete(self, prompt: Prompt, params: SamplingParams, grammar: Any) -> AsyncGenerator[Piece, None]:
        text = self._outputs[min(len(self.prompts), len(self._outputs) - 1)]
        self.prompts.append(prompt)
        self.params.append(params)
        written = text[: params.max_tokens]
        at = 0
        while at < len(written):
            count = self._rng.randint(1, self._most) if self._most < 10**9 else self._most
            yield Piece(written[at : at + count])
            at += count
        yield Piece("", "stop" if written == text else "length", Usage(1, len(written)))


def outcome(engine: Cut, **options: Any) -> tuple[Any, ...]:
    """What a client gets, and what the engine was asked."""
    options = {"tools": [WEATHER, PING, XS], **options}
    try:
        message, report = asyncio.run(chat.complete(engine, ChatRequest(ASK, **options)))
    except AbruzziError as error:
        return type(error), [str(prompt) for prompt in engine.prompts]
    calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls]
    said = message.content, message.reasoning_content, calls, message.finish_reason
    cost = report.usage, report.resumes, report.generated, report.output, report.violations
    asked = [(str(prompt), params.max_tokens) for prompt, params in zip(engine.prompts, engine.params, strict=True)]
    return said, cost, asked


@given(
    outputs=st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join), min_size=1, max_size=3),
    variant=st.sampled_from(list(VARIANTS.values())),
    choice=st.sampled_from(["auto", "required", "get_weather"]),
    limit=st.sampled_from([None, None, 40, 400]),
    parallel=st.booleans(),
    seed=st.integers(0, 1_000),
)
def test_any_cut_gives_the_same_message_at_the_same_cost(
    outputs: list[str], variant: Any, choice: str, limit: int | None, parallel: bool, seed: int
) -> None:
    options = {
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
        "params": SamplingParams(max_tokens=limit),
    }
    whole = outcome(Cut(outputs, 0, variant=variant), **options)
    for cut in (1, 4 * seed + 2, 4 * seed + 3):
        assert outcome(Cut(outputs, cut, variant=variant), **options) == whole


@pytest.mark.parametrize("said", ["", "<", "Hi <|tool_", "Let me ping them all. "])
@pytest.mark.parametrize("again", [PINGS, PINGS.removeprefix(SECTION_BEGIN)])
def test_an_engine_that_answers_with_the_very_call_that_stands_has_made_no_other(said: str, again: str) -> None:
    for seed in range(8):
        (content, _, calls, _), (_, resumes, *_), _ = outcome(Cut([said + again], seed))
        assert (content or "", calls, resumes) == (said, [("functions.ping:0", "ping", "{}")], 1)


@pytest.mark.parametrize("more", ["functions.ping:1", "functions.xs:1"])
def test_what_it_tells_behind_that_call_is_another(more: str) -> None:
    both = section(("functions.ping:0", "{ }"), (more, "{}"))
    for seed in range(8):
        said, *_ = outcome(Cut([PINGS, both], seed))
        assert [id for id, *_ in said[2]] == ["functions.ping:0", more]
    gone_on = both.removeprefix(section(("functions.ping:0", "{ }")).removesuffix(SECTION_END))
    said, *_ = outcome(Cut([PINGS, gone_on], 1))
    assert [id for id, *_ in said[2]] == ["functions.ping:0", more]


@pytest.mark.parametrize("seed", range(4))
def test_what_came_behind_the_character_that_broke_it_counts_for_nothing(seed: int) -> None:
    beginning = section(("functions.get_weather:0", '{"location": '))[: -len("<|tool_call_end|>" + SECTION_END)]
    engine = Cut([beginning + "1" + "x" * 900, "no"], seed)
    outcome(engine, tool_choice="required", params=SamplingParams(max_tokens=1_000))
    # A marker is one token, and of all else a token has about four characters.
    assert engine.params[1].max_tokens == 1_000 - 3 - -(-len("functions.get_weather:0" + '{"location": 1') // 4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("thought", ["", "I think so.", "hm " * 400, "see <link> and <think>"])
def test_an_answer_behind_reasoning_costs_all_that_was_written(thought: str, seed: int) -> None:
    schema = {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}
    text = f'{thought}</think>{{"b": "{"word " * 40}"}}'
    engine = Cut([text], seed, variant=VARIANTS["k2.5"])
    _, report = asyncio.run(chat.complete(engine, ChatRequest(ASK, answer=schema)))
    assert (report.generated, report.usage.completion, report.resumes) == (len(text), len(text), 0)
