"""The server on a real socket, with the official client."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import openai
import pytest

from abruzzi import EngineError, EngineUnavailable
from abruzzi.engines.base import Piece
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.variants import K2_5
from tests.conftest import PING, WEATHER, Served, section

TOOLS: Any = [WEATHER.to_openai(), PING.to_openai()]
ASK: Any = [{"role": "user", "content": "Weather in Shanghai?"}]
CALL = section(("functions.get_weather:0", '{"location": "shanghai"}'), ("functions.ping:1", "{}"))

Serve = Callable[..., Served]


def client_of(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=served.base_url, api_key="none", max_retries=0)


def connected(served: Served) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10))


def post(served: Served, body: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with connected(served) as connection:
        connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())


def test_calls_with_tools(serve: Serve) -> None:
    with client_of(serve(ScriptedEngine([CALL]))) as client:
        answer = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    calls = [(call.id, call.function.arguments) for call in choice.message.tool_calls if call.type == "function"]
    assert calls == [("functions.get_weather:0", '{"location": "shanghai"}'), ("functions.ping:1", "{}")]
    assert answer.usage is not None and answer.usage.completion_tokens == len(CALL)


def test_streamed_equals_not_streamed(serve: Serve) -> None:
    text = "Let me see." + CALL
    with client_of(serve(ScriptedEngine([text], cut=list))) as client:
        whole = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS)
        with client.chat.completions.stream(model="any", messages=ASK, tools=TOOLS) as stream:
            streamed = stream.get_final_completion()
    assert streamed.choices[0].message.to_dict()["content"] == "Let me see."
    assert streamed.choices[0].finish_reason == whole.choices[0].finish_reason
    calls = [
        [
            (call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls or ()
            if call.type == "function"
        ]
        for message in (streamed.choices[0].message, whole.choices[0].message)
    ]
    assert calls[0] == calls[1] and len(calls[0]) == 2


@pytest.mark.parametrize("output", [CALL, "Hm.</think>" + CALL, "Hm.</think>", "", "Hm.</think>Hello."])
def test_where_nothing_is_said_the_content_is_null_streamed_or_not(serve: Serve, output: str) -> None:
    with client_of(serve(ScriptedEngine([output], variant=K2_5, cut=list))) as client:
        whole = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS)
        with client.chat.completions.stream(model="any", messages=ASK, tools=TOOLS) as stream:
            streamed = stream.get_final_completion()
    assert streamed.choices[0].message.content == whole.choices[0].message.content
    assert whole.choices[0].message.content == ("Hello." if "Hello" in output else None)


def test_usage_is_streamed_when_asked_for(serve: Serve) -> None:
    with client_of(serve(ScriptedEngine(["Hello."]))) as client:
        chunks = list(
            client.chat.completions.create(
                model="any", messages=ASK, stream=True, stream_options={"include_usage": True}
            )
        )
        plain = list(client.chat.completions.create(model="any", messages=ASK, stream=True))
    assert chunks[-1].usage is not None and not chunks[-1].choices
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, "stop"]
    # As OpenAI has it: null in all chunks before, and no such field where it wasn't asked for.
    assert [chunk.to_dict().get("usage", "none") for chunk in chunks[:-1]] == [None, None, None]
    assert all("usage" not in chunk.to_dict() for chunk in plain)


def test_without_tools_the_text_is_passed_on_as_it_is(serve: Serve) -> None:
    with client_of(serve(ScriptedEngine([CALL]))) as client:
        answer = client.chat.completions.create(model="any", messages=ASK)
    assert answer.choices[0].message.content == CALL


def test_raw_text_is_to_be_had_beside_tools(serve: Serve) -> None:
    with client_of(serve(ScriptedEngine([CALL]))) as client:
        answer = client.chat.completions.create(
            model="any", messages=ASK, tools=TOOLS, extra_body={"tool_format": "raw"}
        )
    assert answer.choices[0].message.content == CALL
    assert answer.choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages[0].tool_call_id"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": TOOLS + TOOLS}, "tools[2].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 1}}}]}, None),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "gone"}}}, "tool_choice.function.name"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tool_format": "xml"}, "tool_format"),
        ({"tool_format": "pythonic", "response_format": {"type": "json_object"}}, "tool_format"),
        ({"stream": "yes"}, "stream"),
        ({"abruzzi": "no"}, "abruzzi"),
        ({"abruzzi": 0}, "abruzzi"),
    ],
)
def test_a_bad_request_gets_the_true_reason(serve: Serve, change: dict[str, Any], param: str | None) -> None:
    served = serve(ScriptedEngine([CALL]))
    for stream in (False, True):
        status, body = post(served, {"messages": ASK, "tools": TOOLS, "stream": stream, **change})
        assert status == 400
        assert body["error"]["type"] == "invalid_request_error"
        if param is not None:
            assert body["error"]["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": NaN}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(serve: Serve, body: bytes) -> None:
    assert post(serve(ScriptedEngine([CALL])), body)[0] == 400


def test_what_the_model_fails_at_is_no_fault_of_the_clients(serve: Serve) -> None:
    bad = CALL.replace("shanghai", "x").replace("get_weather", "nothing").replace("ping", "nothing")
    status, body = post(serve(ScriptedEngine([bad, "", ""] * 4)), {"messages": ASK, "tools": TOOLS})
    assert status == 502
    assert "no valid call came of it" in body["error"]["message"]


def test_models_and_health(serve: Serve) -> None:
    served = serve(ScriptedEngine([""]))
    with client_of(served) as client:
        assert [model.id for model in client.models.list()] == ["scripted"]
    with connected(served) as connection:
        connection.request("GET", "/health")
        with connection.getresponse() as response:
            assert (response.status, json.loads(response.read())["status"]) == (200, "ok")
        for method, path, status in (("GET", "/v1/chat/completions", 405), ("GET", "/nothing", 404)):
            connection.request(method, path)
            with connection.getresponse() as response:
                response.read()
                assert response.status == status


# What was done


WRONG = section(("functions.get_weather:0", '{"location": "shanghai", "unit": "k"}'))
REST = 'c"}<|tool_call_end|><|tool_calls_section_end|>'


def health(served: Served) -> Any:
    with connected(served) as connection:
        connection.request("GET", "/health")
        with connection.getresponse() as response:
            return json.loads(response.read())


def test_an_answer_tells_what_was_done_to_it(serve: Serve) -> None:
    engine = ScriptedEngine([WRONG, REST])
    with client_of(serve(engine)) as client:
        answer = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS)
    calls = answer.choices[0].message.tool_calls
    assert calls and calls[0].type == "function"
    assert json.loads(calls[0].function.arguments) == {"location": "shanghai", "unit": "c"}
    assert answer.to_dict()["abruzzi"] == {
        "guarantee": "enforced",
        "resumes": 1,
        "resampled": 0,
        "generated_characters": len(WRONG.partition('k"')[0] + "k" + REST),  # up to what broke it
        "forced_characters": 0,
        "forced_tokens": 0,
        "violations": {"schema": 1},
        "problems": [],
    }


def test_what_was_mended_is_told_with_its_kind_and_tool(serve: Serve) -> None:
    text = section(("get_weather", '{"location": "shanghai"}'))
    _, body = post(serve(ScriptedEngine([text])), {"messages": ASK, "tools": TOOLS})
    (problem,) = body["abruzzi"]["problems"]
    assert problem.keys() == {"kind", "action", "name", "detail"}
    assert (problem["kind"], problem["action"], problem["name"]) == ("header", "mended", "get_weather")
    assert body["abruzzi"]["guarantee"] == "validated"


def test_a_stream_tells_it_in_the_chunk_with_the_usage(serve: Serve) -> None:
    served = serve(ScriptedEngine([WRONG, REST], cut=list))
    with client_of(served) as client:
        chunks = list(
            client.chat.completions.create(
                model="any", messages=ASK, tools=TOOLS, stream=True, stream_options={"include_usage": True}
            )
        )
    assert ["abruzzi" in chunk.to_dict() for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    done: Any = chunks[-1].to_dict()["abruzzi"]
    assert (done["guarantee"], done["resumes"], done["violations"]) == ("enforced", 1, {"schema": 1})
    assert health(served)["violations"] == {"scripted": {"schema": 1}}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_bare_openai_is_told_nothing_else(serve: Serve, stream: bool) -> None:
    served = serve(ScriptedEngine([WRONG, REST]))
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    body = {"messages": ASK, "tools": TOOLS, "abruzzi": False, **options}
    with connected(served) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        with connection.getresponse() as response:
            text = response.read().decode()
    assert '"usage"' in text and "abruzzi" not in text
    assert health(served)["violations"] == {"scripted": {"schema": 1}}


def test_violations_are_counted_by_kind_as_long_as_the_server_lives(serve: Serve) -> None:
    other = section(("functions.nothing:0", "{}"))
    served = serve(ScriptedEngine([WRONG, REST, CALL, WRONG, REST, other, CALL]))
    assert health(served)["violations"] == {}
    for _ in range(4):
        assert post(served, {"messages": ASK, "tools": TOOLS})[0] == 200
    assert health(served)["violations"] == {"scripted": {"schema": 2, "undeclared": 1}}
    assert health(serve(ScriptedEngine([CALL])))["violations"] == {}


STRICT: Any = {
    "type": "object",
    "properties": {"location": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
    "required": ["location", "days"],
    "additionalProperties": False,
}


def strict_tools(parameters: Any, *, strict: bool = True) -> Any:
    return [{"type": "function", "function": {"name": "get_weather", "strict": strict, "parameters": parameters}}]


def test_strict_gets_openais_rules_and_the_guarantee(serve: Serve) -> None:
    bad = section(("functions.get_weather:0", '{"location": "Rome", "days": ["1"]}'))
    with client_of(serve(ScriptedEngine([bad, "1]}<|tool_call_end|>"]))) as client:
        answer = client.chat.completions.create(model="any", messages=ASK, tools=strict_tools(STRICT))
    calls = answer.choices[0].message.tool_calls
    assert calls and calls[0].type == "function" and calls[0].function.arguments == '{"location": "Rome", "days": [1]}'


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"additionalProperties": True}, ".additionalProperties"),
        ({"required": ["location"]}, ".required"),
        ({"allOf": [{}]}, ".allOf"),
        ({"properties": {**STRICT["properties"], "days": {"format": "iri"}}}, ".properties.days.format"),
    ],
)
def test_strict_refuses_what_openai_refuses_and_says_where(serve: Serve, change: Any, where: str) -> None:
    with client_of(serve(ScriptedEngine([CALL]))) as client:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="strict") as refused:
                client.chat.completions.create(
                    model="any", messages=ASK, tools=strict_tools({**STRICT, **change}), stream=stream
                )
            assert refused.value.param == f"tools[0].function.parameters{where}"
        loose = strict_tools({**STRICT, **change}, strict=False)
        assert client.chat.completions.create(model="any", messages=ASK, tools=loose).choices


@pytest.mark.parametrize("limit", [{"max_tokens": 7}, {"max_completion_tokens": 7}])
def test_the_limit_reaches_the_engine(serve: Serve, limit: dict[str, int]) -> None:
    engine = ScriptedEngine(["Hello."])
    post(serve(engine), {"messages": ASK, **limit})
    assert engine.params[0].max_tokens == 7


class Failing(ScriptedEngine):
    """Says a word and breaks off, or fails before."""

    def __init__(self, error: Exception, output: str = "") -> None:
        super().__init__([output], cut=list)
        self.error = error

    async def complete(self, *arguments: Any) -> AsyncGenerator[Piece, None]:
        async for piece in super().complete(*arguments):
            if piece.finish_reason:
                raise self.error
            yield piece


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_is_down_is_worth_another_try(serve: Serve, stream: bool) -> None:
    served = serve(Failing(EngineUnavailable("nothing answers")))
    with connected(served) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": ASK, "stream": stream}))
        with connection.getresponse() as response:
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert json.loads(response.read())["error"]["message"] == "nothing answers"


def test_a_stream_that_breaks_off_says_so(serve: Serve) -> None:
    with (
        client_of(serve(Failing(EngineError("the engine died"), "Hello"))) as client,
        pytest.raises(openai.APIError, match="the engine died"),
    ):
        list(client.chat.completions.create(model="any", messages=ASK, stream=True))


def test_reasoning_comes_apart_from_content(serve: Serve) -> None:
    engine = ScriptedEngine(["Hm.</think>Yes."], variant=K2_5, cut=list)
    with client_of(serve(engine)) as client:
        whole = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS).choices[0].message.to_dict()
        chunks = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS, stream=True)
        deltas = [chunk.choices[0].delta.to_dict() for chunk in chunks]
    assert (whole["reasoning_content"], whole["content"]) == ("Hm.", "Yes.")
    for key, text in (("reasoning_content", "Hm."), ("content", "Yes.")):
        assert "".join(str(delta.get(key) or "") for delta in deltas) == text
