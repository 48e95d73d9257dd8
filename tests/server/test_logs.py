"""A line a request."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from abruzzi import EngineError
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.server.logs import JsonFormatter
from tests.conftest import Served
from tests.server.asking import CHAT, HELLO, Serve, ask, streamed
from tests.server.test_app import ASK, REST, TOOLS, WRONG, Failing


def lines(capfd: pytest.CaptureFixture[str], served: Served) -> list[str]:
    served.stop()  # a line comes after the response
    return capfd.readouterr().err.splitlines()


def test_json(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    served = serve(ScriptedEngine([WRONG, REST], cut=list), log="json")
    ask(served, CHAT, streamed(messages=ASK, tools=TOOLS), headers={"X-Request-Id": "abc"})
    (line,) = lines(capfd, served)
    told: dict[str, Any] = json.loads(line)
    assert told.pop("time").endswith("Z") and 0 < told.pop("first_ms") <= told.pop("ms")
    assert told.pop("prompt_tokens") > 10 and told.pop("completion_tokens") > 10
    assert told == {
        "request_id": "abc",
        "method": "POST",
        "path": CHAT,
        "status": 200,
        "streamed": True,
        "violations": {"schema": 1},
        "resumes": 1,
        "finish": "tool_calls",
        "ignored": None,
        "error": None,
    }


def test_text(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    served = serve(ScriptedEngine(["Hello."]), log="text")
    ask(served, headers={"X-Request-Id": "two words"})
    ask(served, CHAT, {"messages": 1})
    good, bad = lines(capfd, served)
    assert ' request_id="two words" method=POST path=/v1/chat/completions status=200 ms=' in good
    assert good.endswith(" resumes=0 finish=stop") and "error" not in good
    assert "status=400" in bad and bad.endswith("error=RequestError")


def test_fields_that_nobody_looks_at_are_named(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    served = serve(ScriptedEngine(["Hello."]), log="json")
    known = {"top_k": 5, "chat_template_kwargs": {}, "include_reasoning": True, "min_tokens": 0}
    ask(served, CHAT, {**HELLO, **known, "mirostat": 2, "cache_prompt": "secret", "grammar_file": None})
    ask(served, CHAT, {**HELLO, **{f"{i}{'x' * 50}": 1 for i in range(20)}})
    one, many = (json.loads(line)["ignored"] for line in lines(capfd, served))
    assert one == "cache_prompt,mirostat"
    assert len(many.split(",")) == 8 and {len(name) for name in many.split(",")} == {40}


def test_a_stream_that_broke_off_is_told(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    served = serve(Failing(EngineError("the engine died"), "Hello"), log="json")
    ask(served, CHAT, streamed())
    told = json.loads(lines(capfd, served)[-1])
    assert (told["status"], told["error"], told["finish"]) == (200, "EngineError", None)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_path_cant_write_lines_of_its_own(serve: Serve, capfd: pytest.CaptureFixture[str], form: str) -> None:
    served = serve(ScriptedEngine([""]), log=form)
    ask(served, "/%0Atime=0%20status=200%1b%5b31m?key=secret")
    (line,) = lines(capfd, served)
    assert "\x1b" not in line and "secret" not in line


def test_content_is_logged_only_when_asked_for(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    body = {"messages": [{"role": "user", "content": "My secret"}]}
    served = serve(ScriptedEngine(["Your secret"]), log="json")
    ask(served, CHAT, body)
    ask(served, CHAT, {**body, "stream": True})
    ask(served, CHAT, {**body, "n": -1})
    assert "secret" not in "".join(lines(capfd, served))
    served = serve(ScriptedEngine(["Your secret"]), log="json", log_content=True)
    ask(served, CHAT, body)
    told = json.loads(lines(capfd, served)[0])
    assert (told["request"], told["outputs"]) == (body, ["Your secret"])


def test_other_records_are_lines_of_json_too() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.LogRecord("abruzzi", logging.ERROR, "", 0, "%s", ("x\ny",), (ValueError, error, None))
    told = json.loads(JsonFormatter().format(record))
    assert (told["level"], told["message"], "two\nlines" in told["traceback"]) == ("error", "x\ny", True)


def test_nothing_is_written_unless_asked_for(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    assert ask(served, CHAT, HELLO).status == 200
    assert lines(capfd, served) == []
