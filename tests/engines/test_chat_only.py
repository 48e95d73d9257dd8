"""A host that offers chat alone: its answers are read as K2's own text, and what breaks is asked for anew."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from abruzzi import EngineError, EngineUnavailable, Message, RequestError, chat
from abruzzi.chat import ChatRequest, Report
from abruzzi.engines.base import Piece, SamplingParams
from abruzzi.protocol.errors import PromptTooLong
from abruzzi.protocol.events import ArgumentsDelta
from abruzzi.protocol.messages import Function, ToolCall
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.variants import K2, K2_5, K2_THINKING, Variant
from tests.conftest import PING, WEATHER, section
from tests.engines.chats import Chats, answer, call, calling, delta, engine_at, host, in_chunks, part
from tests.engines.wire import STREAM, Wire, chunked, sse

SHANGHAI = '{"location": "shanghai"}'
ASK = ChatRequest([Message("user", "What's the weather?")], (WEATHER, PING))


async def complete(url: str, request: ChatRequest = ASK, variant: Variant = K2) -> tuple[Message, Report]:
    engine = engine_at(url, variant)
    try:
        return await chat.complete(engine, request)
    finally:
        await engine.aclose()


def ask(
    *bodies: bytes, request: ChatRequest = ASK, variant: Variant = K2, **fields: Any
) -> tuple[Message, Report, list[dict[str, Any]]]:
    with host(*bodies, **fields) as (url, asked):
        message, report = asyncio.run(complete(url, request, variant))
    return message, report, asked


def calls(message: Message) -> Sequence[tuple[str, str]]:
    return [(call.id, call.function.arguments) for call in message.tool_calls]


def test_the_conversation_goes_out_as_openai_has_it_with_canonical_ids() -> None:
    messages = [
        Message("system", "Be brief. <|im_end|>"),
        Message("user", "Weather?"),
        Message(tool_calls=(ToolCall("call_9", Function("get_weather", SHANGHAI)),), reasoning_content="hm"),
        Message("tool", "Cloudy", tool_call_id="call_9"),
    ]
    params = SamplingParams(max_tokens=7, temperature=0.5, top_p=0.9, seed=3, stop=("END",), top_k=4)
    request = ChatRequest(messages, (WEATHER,), parallel_tool_calls=False, params=params)
    message, report, (asked,) = ask(answer(delta(content="It is cloudy.")), request=request)
    assert message.content == "It is cloudy." and message.finish_reason == "stop"
    assert report.usage.prompt == 9 and report.usage.completion == 5
    assert asked.pop("messages") == [
        {"role": "system", "content": "Be brief. <\u200b|im_end|>"},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "functions.get_weather:0",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": SHANGHAI},
                }
            ],
        },
        {"role": "tool", "content": "Cloudy", "tool_call_id": "functions.get_weather:0"},
    ]
    assert asked == {
        "model": "kimi-k2",
        "tools": [WEATHER.to_openai()],
        "parallel_tool_calls": False,
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["END"],
        "top_k": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


LEAKED = "I look." + section(("functions.get_weather:0", SHANGHAI))
LEAKS = section(("functions.ping:0", "{}"))
OPEN = json.dumps(part(SHANGHAI[:9], "get_weather")).encode()
PINGED = ("functions.ping:0", "{}")
WHOLE = json.dumps(
    {
        "choices": [
            {"message": {"content": None, "tool_calls": [part(SHANGHAI, "get_weather")]}, "finish_reason": "stop"}
        ]
    }
).encode()
FIRST = ("functions.get_weather:0", SHANGHAI)
SECOND = ("functions.ping:1", "{}")


@pytest.mark.parametrize(
    ("body", "content", "expected"),
    [
        (call(SHANGHAI), None, [FIRST]),
        (answer(delta(content="I look."), calling(part(SHANGHAI, "get_weather"))), "I look.", [FIRST]),
        (answer(calling(part({"location": "shanghai"}, "get_weather"))), None, [(FIRST[0], '{"location":"shanghai"}')]),
        (answer(calling(part(None, "ping"))), None, [("functions.ping:0", "{}")]),
        (answer(delta(function_call={"name": "get_weather", "arguments": SHANGHAI})), None, [FIRST]),
        (WHOLE, None, [FIRST]),
        # Several: behind one another, side by side, without an index, all with the same.
        (answer(calling(part(SHANGHAI, "get_weather"), part("{}", "ping", 1))), None, [FIRST, SECOND]),
        (
            answer(
                calling(part("", "get_weather", 0)),
                calling(part("", "ping", 1)),
                calling(part(SHANGHAI[:5], None, 0), part("{", None, 1)),
                calling(part("}", None, 1), part(SHANGHAI[5:], None, 0)),
            ),
            None,
            [FIRST, SECOND],
        ),
        (answer(calling(part(SHANGHAI, "get_weather", None), part("{}", "ping", None))), None, [FIRST, SECOND]),
        (answer(calling(part(SHANGHAI, "get_weather", id="a"), part("{}", "ping", id="b"))), None, [FIRST, SECOND]),
        (answer(*(calling(part(one, "get_weather", id="a")) for one in (SHANGHAI[:9], SHANGHAI[9:]))), None, [FIRST]),
        *(
            (answer(*(calling(one) for one in parts)), None, [FIRST])
            for parts in (
                # A new id each time, with an index and without; the name each time, in pieces, as far as it is known.
                [part("", "get_weather", 0, "a"), part(SHANGHAI[:9], None, 0, "b"), part(SHANGHAI[9:], None, 0, "c")],
                [
                    part("", "get_weather", None, "a"),
                    part(SHANGHAI[:9], None, None, "b"),
                    part(SHANGHAI[9:], None, None),
                ],
                [part(SHANGHAI[:9], "get_weather", None), part(SHANGHAI[9:], "get_weather", None)],
                [part(None, "get_", id="a"), part(None, "weather"), part(SHANGHAI)],
                [part(None, "get_", id="a"), part(SHANGHAI, "get_weather", id="a")],
                # All of it once more at its end.
                [part("", "get_weather", id="a"), part(SHANGHAI), part(SHANGHAI, "get_weather", id="a")],
                [part(SHANGHAI, "get_weather"), part('{"location":"shanghai"}')],
                [{**part(SHANGHAI, "get_weather"), "index": "0", "id": 7}],
            )
        ),
        # With one index for all, and calls that are told apart by their ids.
        (answer(calling(part(SHANGHAI, "get_weather"), part("{}", "ping"))), None, [FIRST, SECOND]),
        (
            answer(
                calling(part(SHANGHAI[:9], "get_weather", None, "a"), part("{", "ping", None, "b")),
                calling(part(SHANGHAI[9:], None, None, "a"), part("}", None, None, "b")),
            ),
            None,
            [FIRST, SECOND],
        ),
        (answer(delta(tool_calls=[None, part("{}", "ping")], function_call={"name": "ping"})), None, [PINGED]),
        (
            answer(delta(content="a", tool_calls=[part("{}", "ping")]), {"choices": [{"message": {"content": "a"}}]}),
            "a",
            [PINGED],
        ),
        # What a host parsed and left in its content, too: it is called once.
        (answer(delta(content="I look." + LEAKS), calling(part("{}", "ping", id="a"))), "I look.", [PINGED]),
        (answer(calling(part("{}", "ping")), *in_chunks(LEAKS, 5)), None, [PINGED]),
        (
            answer(delta(content=LEAKS), calling(part("{", "ping")), calling(part("}"), part("{}", "ping", 1))),
            None,
            [PINGED, SECOND],
        ),
        (
            answer(delta(content=LEAKS), calling(part(SHANGHAI, "get_weather"))),
            None,
            [PINGED, ("functions.get_weather:1", SHANGHAI)],
        ),
        (answer(*(delta(reasoning=LEAKS[at : at + 9]) for at in range(0, len(LEAKS), 9))), None, [PINGED]),
        # What a host didn't parse.
        (answer(delta(content=LEAKED)), "I look.", [FIRST]),
        *((answer(*in_chunks(LEAKED, n)), "I look.", [FIRST]) for n in (1, 7)),
        (answer(delta(content=LEAKED), calling(part("{}", "ping"))), "I look.", [FIRST, SECOND]),
        (
            answer(calling(part(SHANGHAI, "get_weather")), delta(content=section(("functions.ping:1", "{}")))),
            None,
            [FIRST, SECOND],
        ),
    ],
)
def test_calls_are_read_however_they_come(
    body: bytes, content: str | None, expected: Sequence[tuple[str, str]]
) -> None:
    message, report, _ = ask(body)
    assert (message.content, calls(message)) == (content, expected)
    assert message.finish_reason == "tool_calls" and report.resumes == 0
    assert report.told()["guarantee"] == "validated"


def test_arguments_stream_while_they_are_written() -> None:
    async def read() -> list[str]:
        goes_on = asyncio.Event()

        async def slowly(_: Wire, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM + chunked(sse(calling(part('{"location": "sha', "get_weather")))))
            await goes_on.wait()
            writer.write(chunked(sse(calling(part('nghai"}')), delta("tool_calls"), b"[DONE]")) + b"0\r\n\r\n")

        wire, texts = Wire(slowly), []
        await wire.start()
        engine = engine_at(wire.url)
        async with contextlib.aclosing(chat.stream(engine, ASK)) as items:
            async for item in items:
                if isinstance(item, ArgumentsDelta):
                    texts.append(item.text)
                    goes_on.set()
        await engine.aclose()
        await wire.stop()
        return texts

    texts = asyncio.run(asyncio.wait_for(read(), 10))
    assert len(texts) > 1 and "".join(texts) == SHANGHAI


@pytest.mark.parametrize("variant", [K2_THINKING, K2_5])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_comes_as_such_where_the_model_thinks(variant: Variant, field: str) -> None:
    thoughts = delta(content="", **{field: "It "}), delta(**{field: "asks."})
    body = answer(*thoughts, delta(content="Hm."), calling(part(SHANGHAI, "get_weather")))
    message, report, _ = ask(body, variant=variant)
    assert (message.reasoning_content, message.content, calls(message)) == ("It asks.", "Hm.", [FIRST])
    assert not report.problems
    message, _, _ = ask(body)
    assert (message.reasoning_content, message.content, calls(message)) == (None, "Hm.", [FIRST])
    (free, _, _) = ask(body.replace(b"tool_calls", b"ignored"), variant=variant, request=ChatRequest(ASK.messages))
    assert (free.reasoning_content, free.content) == ("It asks.", "Hm.")


@pytest.mark.parametrize("content", ["Hm.", "<think>It asks.</think>Hm."])
def test_a_thinking_model_may_answer_without_reasoning_or_leave_it_in_its_content(content: str) -> None:
    for variant in (K2_THINKING, K2_5):
        message, _, _ = ask(answer(delta(content=content)), variant=variant)
        assert message.content == "Hm." and message.reasoning_content == ("It asks." if "think" in content else None)


def test_a_model_that_is_not_to_think_is_told_so() -> None:
    request = ChatRequest(ASK.messages, (WEATHER,), thinking=False)
    body = answer(delta(reasoning="It asks."), delta(content="Hm."))
    message, _, (asked,) = ask(body, request=request, variant=K2_5)
    assert (message.content, message.reasoning_content) == ("Hm.", None)
    assert asked["thinking"] == {"type": "disabled"} and asked["chat_template_kwargs"] == {"thinking": False}


@pytest.mark.parametrize("variant", [K2, K2_THINKING, K2_5])
@pytest.mark.parametrize(
    ("broken", "arguments"),
    [
        (call('{"location": 5}'), SHANGHAI),
        (call('{"location": "shang'), SHANGHAI),
        (call("5"), SHANGHAI),
        (call("[1]"), '{"unit": "c", "location": "shanghai"}'),
        (call('{"unit": "k", "location": "shanghai"}'), '{"unit": "c", "location": "shanghai"}'),
        (call(SHANGHAI, "get_whether"), SHANGHAI),
        (call(SHANGHAI, "wholly_undeclared"), SHANGHAI),
        (answer(delta(content="I look." + section(("functions.get_weather:0", '{"location": 5}')))), SHANGHAI),
        (
            answer(
                delta(reasoning="It asks."), delta(content="I look."), calling(part('{"location": 5}', "get_weather"))
            ),
            SHANGHAI,
        ),
    ],
)
def test_what_breaks_is_asked_for_anew_and_what_stood_is_not_said_twice(
    broken: bytes, arguments: str, variant: Variant
) -> None:
    said = b"I look." in broken
    again = [delta(reasoning="Once more."), delta(content="Let me look.")] if said else []
    right = answer(*again, calling(part(arguments, "get_weather")), reason="tool_calls")
    message, report, (first, second) = ask(broken, right, variant=variant)
    assert calls(message) == [(FIRST[0], arguments)] and report.resumes == 1
    assert message.content == ("I look." if said else None)
    assert first["messages"] == second["messages"] and report.told()["guarantee"] == "enforced"


def test_whole_calls_that_are_told_once_more_are_no_others() -> None:
    first = part(SHANGHAI, "get_weather")
    broken = answer(calling(first, part('{"location": 5}', "get_weather", 1)))
    right = answer(calling(first, part('{"location": "oslo"}', "get_weather", 1)))
    message, report, _ = ask(broken, right)
    assert calls(message) == [FIRST, ("functions.get_weather:1", '{"location": "oslo"}')] and report.resumes == 1


def test_text_before_a_call_of_no_tool_is_said_once() -> None:
    broken = answer(delta(content="I look."), calling(part("{}", "wholly_undeclared")))
    message, report, _ = ask(broken, answer(delta(content="I look."), delta(content=" It is cloudy.")))
    assert message.content == "I look. It is cloudy." and not message.tool_calls and report.resumes == 1


@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_a_call_that_has_to_come_is_asked_for_and_comes(choice: str) -> None:
    request = ChatRequest(ASK.messages, (WEATHER, PING), tool_choice=choice)
    message, report, asked = ask(answer(delta(content="No.")), call(SHANGHAI), request=request)
    assert calls(message) == [FIRST] and report.resumes == 1
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert [one["tool_choice"] for one in asked] == [named if choice == "get_weather" else "required"] * 2
    message, report, _ = ask(call(SHANGHAI), request=request)
    assert calls(message) == [FIRST] and report.told()["guarantee"] == "validated"


@pytest.mark.parametrize("status", [400, 404, 422, 501])
@pytest.mark.parametrize("field", ["tool_choice", "stream_options"])
def test_a_host_is_asked_without_what_it_does_not_take(field: str, status: int) -> None:
    request = ChatRequest(ASK.messages, (WEATHER,), tool_choice="required")

    async def twice(url: str) -> None:
        engine = engine_at(url)
        for _ in range(2):
            message, _ = await chat.complete(engine, request)
            assert calls(message) == [FIRST]
        await engine.aclose()

    def reply(self: Any, well: int, body: bytes) -> None:
        refused = field in self.asked[-1]
        Chats.reply(self, status if refused else well, b"{}" if refused else body)

    with host(call(SHANGHAI), reply=reply) as (url, asked):
        asyncio.run(twice(url))
    tries = {"tool_choice": [True, False, False], "stream_options": [True, True, False, False]}
    assert [field in one for one in asked] == tries[field]


@pytest.mark.parametrize("own", [None, 0.6])
def test_a_host_that_takes_one_temperature_alone_is_asked_again_at_the_clients(own: float | None) -> None:
    request = replace(ASK, params=SamplingParams(temperature=own), tool_choice="required")

    def reply(self: Any, well: int, body: bytes) -> None:
        refused = self.asked[-1].get("temperature") == 0.8
        Chats.reply(self, 400 if refused else well, b"{}" if refused else body)

    async def work(url: str) -> None:
        engine = engine_at(url)
        message, _ = await chat.complete(engine, request)
        assert [call.function.name for call in message.tool_calls]
        await engine.aclose()

    with host(call('{"location": 5}'), reply=reply) as (url, asked):
        asyncio.run(work(url))
    told = [one.get("temperature") for one in asked]
    assert told.count(0.8) == 1 and set(told) == {own, 0.8}


@pytest.mark.parametrize("status", [400, 404])
def test_what_is_refused_whatever_is_left_out_is_told(status: int) -> None:
    with host(b"{}", status=status) as (url, asked), pytest.raises(EngineError, match=f"answered {status}"):
        asyncio.run(complete(url))
    assert len(asked) == 2 and "stream_options" not in asked[1]


def test_an_answer_that_is_cut_has_no_call() -> None:
    cut = answer(calling(part('{"location": "shang', "get_weather")), reason="length")
    message, _, asked = ask(cut)
    assert message.finish_reason == "length" and not message.tool_calls and len(asked) == 1


def test_an_answer_of_a_form_is_had() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    request = ChatRequest([Message("user", "How many?")], answer=schema)
    message, report, _ = ask(answer(delta(content='{"n": "two"}')), answer(delta(content='{"n": 2}')), request=request)
    assert message.content == '{"n": 2}' and report.resumes == 1


@pytest.mark.parametrize(
    ("status", "body", "error", "told"),
    [
        (400, b'{"error": {"message": "no such field"}}', EngineError, "answered 400: no such field"),
        (400, b'{"error": {"message": "the context length is 9"}}', PromptTooLong, "doesn't fit"),
        (401, b'{"error": {"message": "no key"}}', EngineError, "answered 401: no key"),
        (429, b'{"error": {"message": "slow down"}}', EngineUnavailable, "slow down"),
        (500, b"boom", EngineError, "boom"),
        (200, answer(delta(content="a"), reason="content_filter"), EngineError, "content filter"),
        (200, b'data: {"error": {"message": "died"}}\n\n', EngineError, "died"),
        (200, b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', EngineError, "without a finish_reason"),
        (200, b'data: {"choices": 5}\n\n', EngineError, "broke off"),
        (
            200,
            b'data: {"choices": [{"delta": {"tool_calls": [%s]}}]}\n\ndata: [DONE]\n\n' % OPEN,
            EngineError,
            "finish_re",
        ),
        (
            200,
            b"\n<html>Sign in</html>",
            EngineError,
            r"answered with a page \(text/event-stream\), expected events or",
        ),
    ],
)
def test_what_goes_wrong_is_told(status: int, body: bytes, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        ask(body, status=status)


def test_nobody_there_is_told() -> None:
    with host() as (url, _):
        pass
    with pytest.raises(EngineUnavailable, match="nothing answers"):
        asyncio.run(complete(url))


def test_what_a_chat_cannot_do_is_refused() -> None:
    with pytest.raises(RequestError, match="expected messages"):
        ask(b"", request=ChatRequest([], prompt="Once upon"))
    with pytest.raises(RequestError, match="always answers anew"):
        ask(b"", request=ChatRequest(ASK.messages, begun=Message(content="It is")))


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "text/plain", "text/event-stream"]
)
@pytest.mark.parametrize("body", [WHOLE, b"\n  \n" + WHOLE, call(SHANGHAI), b": wait\n\n" + call(SHANGHAI)])
def test_an_answer_is_read_whatever_its_type_is_said_to_be(body: bytes, kind: str) -> None:
    def send_header(self: Any, name: str, value: str) -> None:
        super(Chats, self).send_header(name, kind if name == "Content-Type" else value)

    message, _, _ = ask(body, send_header=send_header)
    assert calls(message) == [FIRST]


def test_done_is_an_end_and_parts_of_content_are_text() -> None:
    parts = [{"type": "text", "text": "It is "}, {"type": "image"}, {"type": "text", "text": "cloudy."}]
    message, _, _ = ask(sse(delta(content=parts), b"[DONE]"))
    assert (message.content, message.finish_reason) == ("It is cloudy.", "stop")


def test_a_model_that_reasons_against_its_variant_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def twice(url: str) -> None:
        engine = engine_at(url)
        for _ in range(2):
            await chat.complete(engine, ASK)
        await engine.aclose()

    with host(answer(delta(reasoning="It asks."), delta(content="Hm."))) as (url, _):
        asyncio.run(twice(url))
    (told,) = [record.getMessage() for record in caplog.records]
    assert "reasons, which variant k2 doesn't" in told and "--variant k2-thinking" in told


OVER = delta("stop")


@pytest.mark.parametrize(
    ("first", "endless", "reason"),
    [
        (calling(part(SHANGHAI, "get_weather")), delta(content="x" * 4000), "tool_calls"),
        (calling(part(SHANGHAI[:9], "get_weather")), calling(part("x" * 4000, "ping", 1)), "length"),
        (delta(content=LEAKS), calling(part('{"location": "' + "x" * 4000, "get_weather")), "tool_calls"),
    ],
)
def test_what_is_kept_back_has_an_end(first: Any, endless: Any, reason: str) -> None:
    message, _, _ = ask(sse(first, *[endless] * 1000, {"error": "it was read to the end"}))
    assert message.finish_reason == reason and bool(message.tool_calls) == (reason == "tool_calls")


@pytest.mark.parametrize("nothing", [delta(), delta(content=""), delta(reasoning="Hm."), {"choices": []}, {}])
def test_chunks_that_bring_nothing_have_an_end(nothing: Any) -> None:
    with pytest.raises(EngineError, match="100,000 chunks in a row that bring nothing"):
        ask(sse(*[nothing] * 100_001, OVER))


async def pieces_behind(url: str, written: str) -> list[Piece]:
    engine = engine_at(url)
    prompt = render_prompt([Message("user", "Hi")], variant="k2").going_on(written)
    async with contextlib.aclosing(engine.complete(prompt, SamplingParams(), None)) as several:
        pieces = [piece async for piece in several]
    await engine.aclose()
    return pieces


@pytest.mark.parametrize(
    ("written", "said", "expected"),
    [("Once ", "Once upon", "upon"), ("Once ", "Twice", "Twice"), ("Once ", "On", ""), ("Once", "Once", "")],
)
def test_of_an_answer_what_stands_is_left_out(written: str, said: str, expected: str) -> None:
    for length in (1, 99):
        with host(answer(*in_chunks(said, length))) as (url, _):
            pieces = asyncio.run(pieces_behind(url, written))
        assert "".join(piece.text for piece in pieces) == expected and pieces[-1].finish_reason == "stop"


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(RequestError, match="surrogate"):
        ask(b"", request=ChatRequest([Message("user", "\ud800")]))
