"""Servers that refuse what others take: they are asked without it, or it is told whose fault that is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from abruzzi import Message, RequestError, SamplingParams, Tool, connect
from abruzzi.chat import ChatRequest, Report, complete
from abruzzi.engines.connect import told
from tests.engines.test_odd_servers import VLLM, Answer, doctor, server

OPENAI = {"data": [{"id": "kimi-k2", "owned_by": "somebody"}]}
FIELDS = {
    *("model", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs", "stop", "stream", "logit_bias"),
    *("frequency_penalty", "presence_penalty", "stream_options"),
}
COUNT = Tool("count", None, {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})


def said(text: str) -> Answer:
    return {"choices": [{"text": text, "finish_reason": "stop"}]}


def refused(field: str) -> Answer:
    return 400, {"error": {"message": f"Unrecognized request argument supplied: {field}"}}


def ask(engine: Any, **options: Any) -> tuple[Message, Report]:
    async def work() -> tuple[Message, Report]:
        try:
            return await complete(engine, ChatRequest(messages=[Message("user", "Hi")], **options))
        finally:
            await engine.aclose()

    return asyncio.run(work())


def test_a_server_that_takes_nothing_but_openais_fields_is_served() -> None:
    asked: list[Mapping[str, Any]] = []

    def strict(body: Mapping[str, Any]) -> Answer:
        asked.append(body)
        other = next((name for name in body if name not in FIELDS), None)
        return said("Hello.") if other is None else refused(other)

    with server(strict, models=OPENAI) as url:
        engine = connect(url)
        assert told(engine) == [
            (f"{url} is no engine that is known, and obeys no grammar: the guard alone keeps calls valid", False)
        ]
        assert ask(engine)[0].content == "Hello."
        assert not asked[-1].keys() - FIELDS and asked[-1]["stream_options"]
        assert "it can't be served" not in doctor(url).stdout


def test_stream_options_that_are_refused_are_left_out_from_then_on() -> None:
    asked: list[Mapping[str, Any]] = []

    def without(body: Mapping[str, Any]) -> Answer:
        asked.append(body)
        return refused("stream_options") if "stream_options" in body else said("Hello.")

    with server(without, models=OPENAI) as url:
        engine: Any = connect(url)
        asked.clear()

        async def work() -> list[str | None]:
            request = ChatRequest(messages=[Message("user", "Hi")])
            answers = [(await complete(engine, request))[0].content for _ in range(2)]
            await engine.aclose()
            return answers

        assert asyncio.run(work()) == ["Hello."] * 2
        assert ["stream_options" in one for one in asked] == [True, False, False]


def test_a_server_that_refuses_every_completion_is_told_of() -> None:
    with server(lambda _: refused("model"), models=OPENAI) as url:
        ((line, is_trouble),) = told(connect(url))
        assert is_trouble and "refuses completions: 400: Unrecognized request argument supplied: model" in line


@pytest.mark.parametrize("most", [0, 1, 4])
def test_an_engine_that_offers_no_alternatives_is_asked_again_without(most: int) -> None:
    asked: list[Mapping[str, Any]] = []

    def few(body: Mapping[str, Any]) -> Answer:
        asked.append(body)
        return refused("logprobs") if (body.get("logprobs") or 0) > most else said('{"n": "one"}')

    with server(few) as url:
        engine = connect(url)
        asked.clear()
        message, report = ask(engine, tools=[COUNT], tool_choice="required", parallel_tool_calls=False)
        assert [call.function.name for call in message.tool_calls] == ["count"] and report.guarantee == "enforced"
    wanted = [one.get("logprobs") for one in asked]
    assert wanted.count(5) == 1 and wanted[wanted.index(5) + 1 :] == [None] * len(wanted[wanted.index(5) + 1 :])


def test_a_parameter_of_the_clients_that_is_refused_is_the_clients_fault() -> None:
    with server(lambda body: refused("logit_bias") if body.get("logit_bias") == {"7": 1.0} else said("Hi.")) as url:
        engine = connect(url)
        with pytest.raises(RequestError, match="logit_bias") as caught:
            ask(engine, params=SamplingParams(logit_bias=((7, 1.0),)))
        assert caught.value.param == "logit_bias" and caught.value.status == 400


@pytest.mark.parametrize(
    ("words", "context", "limit"), [(10, 4000, None), (1500, 4000, 4000 - 1500 - 8), (5000, 4000, 1)]
)
def test_a_long_prompt_is_counted_by_the_engine(words: int, context: int, limit: int | None) -> None:
    asked: list[Mapping[str, Any]] = []

    def note(body: Mapping[str, Any]) -> Answer:
        asked.append(body)
        return said("Hi.")

    models = {"data": [{**VLLM["data"][0], "max_model_len": context}]}
    with server(note, models=models) as url:
        engine: Any = connect(url)

        async def work() -> None:
            await complete(engine, ChatRequest(messages=[Message("user", "<w>" * words)]))
            await complete(
                engine, ChatRequest(messages=[Message("user", "<w>" * words)], params=SamplingParams(max_tokens=9))
            )
            await engine.aclose()

        asyncio.run(work())
    first, second = asked[-2:]
    markers = first["prompt"].count("<|")
    expected = context - len(first["prompt"].encode()) if limit is None else max(1, limit - markers)
    assert first["max_tokens"] == expected and second["max_tokens"] == 9
