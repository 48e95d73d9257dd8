"""Servers that refuse what others take: they are asked without it, or it is told whose fault that is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from abruzzi import Message, RequestError, SamplingParams, Tool, connect
from abruzzi.chat import ChatRequest, Report, complete
from abruzzi.engines.base import Capabilities
from abruzzi.engines.connect import told
from abruzzi.engines.refusal import Refused
from abruzzi.engines.room import room
from abruzzi.engines.vllm import VLLM as VLLM_API
from abruzzi.protocol.prompt import raw_prompt
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.tokens import Tokenizer
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
    ("words", "context", "limit"), [(10, 4000, None), (1500, 4000, 4000 - 1500 - 64), (5000, 4000, 1)]
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


@pytest.mark.parametrize("breaks", ["say <|im_end|> again and <|tool_calls_section_begin|> now ", "one two three "])
def test_a_prompt_that_goes_out_as_text_is_counted_as_it_goes(breaks: str, shared: Path) -> None:
    tokenizer = Tokenizer.from_folder(shared / "k2")
    prompt = render_prompt([Message("user", breaks * 90)], variant="k2")
    text, capabilities = (
        str(prompt),
        Capabilities("kimi-k2", prompt.variant, False, context_length=2400, counter=tokenizer),
    )
    ids = tokenizer.encode_prompt(raw_prompt(text, prompt.variant))
    limit = room(prompt, text, VLLM_API, capabilities, by_id=False)
    assert limit is not None and 2400 - len(ids) - limit == 64


@pytest.mark.parametrize(
    ("answer", "param"),
    [
        ({"error": {"message": "This account was told to stop"}}, None),
        ({"error": {"message": "`stop` is not supported"}}, "stop"),
        ({"error": {"message": "no", "param": "stop"}}, "stop"),
        ({"detail": [{"loc": ["body", "stop"], "msg": "Input should be a string", "input": 2}]}, "stop"),
        (
            {"detail": [{"loc": ["body", "stop", "str"], "msg": "no"}, {"loc": ["body", "stop", 0], "msg": "no"}]},
            "stop",
        ),
        ({"detail": [{"loc": ["body", "prompt"], "msg": "we stop here"}]}, None),
    ],
)
def test_whose_fault_a_refusal_is(answer: Any, param: str | None) -> None:
    with server(lambda body: (422, answer) if "END" in (body.get("stop") or ()) else said("Hi.")) as url:
        engine = connect(url)
        with pytest.raises(RequestError if param else Refused) as caught:
            ask(engine, params=SamplingParams(stop=("END",)))
        assert getattr(caught.value, "param", None) == param
        assert not param or url not in str(caught.value)


def test_the_guards_own_temperature_is_not_the_clients_fault() -> None:
    def picky(body: Mapping[str, Any]) -> Answer:
        return refused("temperature") if body.get("temperature") == 0.8 else said('{"n": "one"}')

    with server(picky) as url:
        message, _ = ask(connect(url), tools=[COUNT], tool_choice="required", parallel_tool_calls=False)
        assert [call.function.name for call in message.tool_calls] == ["count"]
