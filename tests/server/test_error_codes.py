"""The words by which programs know an error: OpenAI's codes, and Anthropic's types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from abruzzi import EngineError, EngineTimeout, EngineUnavailable
from abruzzi.engines.refusal import Refused
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.errors import AbruzziError, OutputError, PromptTooLong
from abruzzi.server import refusals, response_store
from tests.conftest import Served
from tests.server.asking import CHAT, HELLO, MESSAGES, ask
from tests.server.openapi import openais
from tests.server.test_messages import Failing

Serve = Callable[..., Served]
PATHS: Any = {CHAT: HELLO, "/v1/completions": {"prompt": "x"}, "/v1/responses": {"input": "x"}}


def kinds(kind: type[AbruzziError] = AbruzziError) -> Iterator[type[AbruzziError]]:
    for one in kind.__subclasses__():
        yield one
        yield from kinds(one)


def test_codes_are_words_in_snake_case() -> None:
    assert refusals and response_store
    codes = {one.__name__: one.code for one in kinds() if one.code is not None}
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", code) for code in codes.values())
    assert codes["TooMany"] == "rate_limit_exceeded" and codes["NoSuchModel"] == "model_not_found"


def test_the_documentation_tells_of_every_code() -> None:
    documentation = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    told = documentation[documentation.index("OpenAI's errors have a `code`") :].partition("Anthropic's have")[0]
    codes = {one.code for one in kinds() if one.code is not None and one.__module__.startswith("abruzzi.")}
    assert codes == set(re.findall("`([a-z]+(?:_[a-z]+)+)`", told))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (EngineUnavailable("x"), 503, "engine_unavailable", "server_error"),
        (EngineTimeout("x"), 504, "engine_timeout", "server_error"),
        (EngineError("x"), 502, "engine_error", "server_error"),
        (Refused("x"), 502, "engine_refused", "server_error"),
        (OutputError("x"), 502, "invalid_output", "server_error"),
        (RuntimeError("x"), 502, "engine_error", "server_error"),
        (PromptTooLong("x"), 400, "context_length_exceeded", "invalid_request_error"),
    ],
)
def test_a_failure_has_its_code(serve: Serve, path: str, error: Exception, status: int, code: str, kind: str) -> None:
    answer = ask(serve(Failing(error)), path, PATHS[path])
    told = answer.json["error"]
    assert (answer.status, told["code"], told["type"]) == (status, code, kind)
    place = {CHAT: "messages", "/v1/completions": "prompt", "/v1/responses": "input"}[path]
    assert told["param"] == (place if isinstance(error, PromptTooLong) else None)
    openais().check("ErrorResponse", answer.json)


def test_a_refusal_of_the_servers_has_its_code(serve: Serve) -> None:
    served = serve(ScriptedEngine(["x"]), max_body=100, api_keys=("sk-one",))
    key = {"Authorization": "Bearer sk-one"}

    def told(path: str, anthropics: str, *, status: int, body: Any = None, **more: Any) -> str:
        """The code; Anthropic's clients are told the type instead."""
        found = []
        for version in ({}, {"anthropic-version": "2023-06-01"}):
            headers = {**key, **more.get("headers", {}), **version}
            answer = ask(served, path, body, method=more.get("method"), headers=headers)
            assert answer.status == status
            found.append(answer.json["error"])
        assert found[1].get("code") is not None or found[1]["type"] == anthropics
        return str(found[0]["code"])

    assert told("/v1/nothing", "not_found_error", status=404) == "not_found"
    assert told("/v1/models/gpt-9", "not_found_error", status=404) == "model_not_found"
    assert told("/v1/models", "invalid_request_error", status=405, method="DELETE") == "method_not_allowed"
    assert told("/v1/models", "authentication_error", status=401, headers={"Authorization": ""}) == "invalid_api_key"
    assert told("/v1/responses/resp_0", "", status=404) == "response_not_found"
    long = {"messages": "x" * 200}
    assert told(CHAT, "request_too_large", status=413, body=long) == "request_too_large"
    kind = {"headers": {"Content-Type": "text/plain"}}
    assert told(CHAT, "invalid_request_error", status=415, body=HELLO, **kind) == "unsupported_media_type"
    for path, body in ((MESSAGES, long),):
        answer = ask(served, path, body, headers=key)
        assert (answer.status, answer.json["error"]["type"]) == (413, "request_too_large")


def test_no_words_of_the_programs_inside_are_told(serve: Serve) -> None:
    served = serve(ScriptedEngine(["x"]))
    for body in (b'{"n": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}", b'{"n": NaN}', b'{"a": 1, "a": 2}'):
        answer = ask(served, CHAT, body)
        message = answer.json["error"]["message"]
        assert answer.status == 400 and re.search(r"\(line 1, column \d+\)$", message)
        assert not re.search("set_int|utf-8-sig|sys\\.|parse_constant", message)
