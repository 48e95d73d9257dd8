"""The dialect of OpenAI's chat completions, by its official client on a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal

import msgspec
import openai
import pydantic
import pytest

from abruzzi.engines.base import Piece
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.variants import K2_5
from tests.conftest import PING, WEATHER, Served, section
from tests.server.test_app import ASK, CALL, TOOLS, client_of, post

Serve = Callable[..., Served]


class City(pydantic.BaseModel):
    model_config = {"extra": "forbid"}
    name: str
    size: Literal["small", "large"]


CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"enum": ["small", "large"]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
ROME = '{"name": "Rome", "size": "large"}'


@pytest.mark.parametrize("tools", [[], TOOLS])
@pytest.mark.parametrize("cut", [list, lambda text: [text]])
def test_an_answer_of_a_form_of_its_own_is_of_that_form(serve: Serve, cut: Any, tools: Any) -> None:
    options = {"tools": tools} if tools else {}
    # Where there are no tools the answer's beginning isn't asked for.
    text = ROME if tools else ROME.removeprefix('{"')
    with client_of(serve(ScriptedEngine([text], cut=cut))) as client:
        whole = client.chat.completions.create(model="any", messages=ASK, response_format=FORM, **options)
        with client.chat.completions.stream(model="any", messages=ASK, response_format=FORM, **options) as stream:
            streamed = stream.get_final_completion()
    for answer in (whole, streamed):
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (ROME, "stop")


def test_the_clients_own_models_come_back_parsed(serve: Serve) -> None:
    with client_of(serve(ScriptedEngine(['name": "Rome", "size": "large"}']))) as client:
        answer = client.chat.completions.parse(model="any", messages=ASK, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Rome", size="large")


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (["Sure! " + ROME, 'name": "Rome", "size": "large"}'], ROME),
        (['name": "Rome", "size": "huge"}', 'large"}'], ROME),
        (["\x01"], '{"name": "", "size": "small"}'),
        (["", "", ""], '{"name": "", "size": "small"}'),
    ],
)
def test_what_has_not_the_form_does_not_get_through(serve: Serve, outputs: list[str], expected: str) -> None:
    if outputs[0].startswith("Sure"):
        outputs = [outputs[0], outputs[1]]
    _, body = post(serve(ScriptedEngine(outputs)), {"messages": ASK, "response_format": FORM})
    content = body["choices"][0]["message"]["content"]
    assert City.model_validate_json(content)
    assert content == expected or outputs[0].startswith("Sure")
    assert body["abruzzi"]["guarantee"] == "enforced"


def test_a_call_comes_before_an_answer_of_a_form_of_its_own(serve: Serve) -> None:
    with client_of(serve(ScriptedEngine(["I look it up. " + CALL]))) as client:
        answer = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS, response_format=FORM)
    message = answer.choices[0].message
    assert message.content is None and len(message.tool_calls or ()) == 2
    engine = ScriptedEngine(["It is large.", 'name": "Rome", "size": "large"}'])
    with client_of(serve(engine)) as client:
        answer = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS, response_format=FORM)
    assert answer.choices[0].message.content == ROME
    assert str(engine.prompts[1]).endswith('{"')


def test_a_model_that_thinks_thinks_before_its_answer(serve: Serve) -> None:
    engine = ScriptedEngine(["Hm. {}</think>" + ROME], variant=K2_5)
    _, body = post(serve(engine), {"messages": ASK, "response_format": FORM})
    message = body["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm. {}", ROME)
    assert "JSON Schema" in str(engine.prompts[0])


def test_any_object_will_do_for_json_object(serve: Serve) -> None:
    engine = ScriptedEngine(['"a": [1, {"b": null}]} and that is that'])
    _, body = post(serve(engine), {"messages": ASK, "response_format": {"type": "json_object"}})
    assert json.loads(body["choices"][0]["message"]["content"]) == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ("json_object", "response_format"),
        ({"type": "json_schema", "json_schema": 1}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": []}}, "response_format.json_schema.schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
            "response_format.json_schema.schema.type",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "object"}}},
            "response_format.json_schema.schema.additionalProperties",
        ),
    ],
)
def test_a_form_that_is_none_is_refused_with_its_path(serve: Serve, form: Any, param: str) -> None:
    status, body = post(serve(ScriptedEngine([ROME])), {"messages": ASK, "response_format": form})
    assert (status, body["error"]["param"]) == (400, param), body


def test_only_the_allowed_tools_are_called_and_all_are_shown(serve: Serve) -> None:
    ping = {"type": "function", "function": {"name": "ping"}}
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [ping]}}
    engine = ScriptedEngine([CALL, "", ""])
    with client_of(serve(engine)) as client:
        answer = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS, tool_choice=choice)
    calls = answer.choices[0].message.tool_calls or []
    assert {call.function.name for call in calls if call.type == "function"} == {"ping"}
    assert "get_weather" in str(engine.prompts[0])
    choice["allowed_tools"]["tools"].append({"type": "function", "function": {"name": "rm"}})
    for tools, place in ((choice["allowed_tools"]["tools"], "tools[1].function.name"), ([], "tools")):
        choice["allowed_tools"]["tools"] = tools
        status, body = post(serve(engine), {"messages": ASK, "tools": TOOLS, "tool_choice": choice})
        assert (status, body["error"]["param"]) == (400, f"tool_choice.allowed_tools.{place}")


def test_several_answers_to_one_request(serve: Serve) -> None:
    texts = ["one", "two", section(("functions.ping:0", "{}"))]
    with client_of(serve(ScriptedEngine(texts))) as client:
        answer = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS, n=3)
        chunks = list(client.chat.completions.create(model="any", messages=ASK, n=3, stream=True))
    assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"one", "two", None}
    assert [choice.finish_reason for choice in answer.choices if choice.message.tool_calls] == ["tool_calls"]
    ended = [chunk.choices[0].index for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert sorted(ended) == [0, 1, 2]


def test_a_parsed_call_is_what_the_client_declared(serve: Serve) -> None:
    class GetWeather(pydantic.BaseModel):
        """Get the weather of a city."""

        location: str

    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    output = 'get_weather:0<|tool_call_argument_begin|>{"location": "Rome"}'
    with client_of(
        serve(ScriptedEngine([section(("functions.get_weather:0", '{"location": "Rome"}')), output]))
    ) as client:
        answer = client.chat.completions.parse(model="any", messages=ASK, tools=[tool])
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.function.parsed_arguments == GetWeather(location="Rome")
    assert {WEATHER.name, PING.name} == {"get_weather", "ping"}


class Telling(ScriptedEngine):
    """Tells how likely each character was, and one in its place."""

    async def complete(self, *arguments: Any) -> AsyncGenerator[Piece, None]:
        async for piece in super().complete(*arguments):
            alternatives = (("x", -2.5),) * (self.params[-1].logprobs or 0)
            yield msgspec.structs.replace(piece, logprob=-0.5, alternatives=alternatives) if piece.text else piece


@pytest.mark.parametrize("tools", [[], TOOLS])
def test_logprobs_come_where_the_engine_has_them(serve: Serve, tools: Any) -> None:
    options = {"tools": tools} if tools else {}
    with client_of(serve(Telling(["Hé!" + CALL * bool(tools)], cut=list))) as client:
        asked: Any = {"model": "any", "messages": ASK, "logprobs": True, "top_logprobs": 1, **options}
        whole = client.chat.completions.create(**asked).choices[0]
        chunks = list(client.chat.completions.create(stream=True, **asked))
    streamed = [
        one for chunk in chunks for choice in chunk.choices if choice.logprobs for one in choice.logprobs.content or ()
    ]
    assert whole.logprobs is not None and whole.logprobs.content == streamed
    assert [(one.token, one.logprob, one.bytes) for one in streamed[:2]] == [("H", -0.5, [72]), ("é", -0.5, [195, 169])]
    assert [(one.token, one.logprob) for one in streamed[0].top_logprobs] == [("x", -2.5)]
    assert "".join(one.token for one in streamed) == whole.message.content == "Hé!"
    with client_of(serve(ScriptedEngine(["Hi"]))) as client:
        assert client.chat.completions.create(**asked).choices[0].logprobs is None


@pytest.mark.parametrize("wrong", [{"top_logprobs": 1}, {"logprobs": True, "top_logprobs": 21}, {"logprobs": 2}])
def test_logprobs_that_make_no_sense_are_refused(serve: Serve, wrong: Any) -> None:
    status, body = post(serve(ScriptedEngine(["Hi"])), {"messages": ASK, **wrong})
    assert status == 400 and body["error"]["param"] in wrong
