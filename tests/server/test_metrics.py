"""What is counted, and how it is shown."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from abruzzi import EngineError
from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import Served
from tests.server.asking import CHAT, HELLO, Serve, ask, raw, streamed
from tests.server.test_app import ASK, REST, TOOLS, WRONG, Failing


def metrics(served: Served) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels."""
    told = ask(served, "/metrics")
    assert told.status == 200 and told.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(told.body.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_requests_are_counted_by_path_status_and_whether_they_stream(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    for body in (HELLO, HELLO, streamed(), {"messages": 1}):
        ask(served, CHAT, body)
    for path in ("/health", "/v1/models/scripted", "/secret/1", "/secret/2"):
        ask(served, path)
    told = metrics(served)
    name = "abruzzi_requests_total"
    assert told[name, CHAT, "200", "false"] == 2
    assert told[name, CHAT, "200", "true"] == 1
    assert told[name, CHAT, "400", "false"] == 1
    assert told[name, "/v1/models/{model}", "200", "false"] == 1
    # A client can't make up labels.
    assert told[name, "other", "404", "false"] == 2 and not any("/secret" in " ".join(key) for key in told)
    assert told["abruzzi_errors_total", "RequestError"] == 1
    assert told["abruzzi_request_seconds_count", CHAT] == 4
    assert any(key[0] == "abruzzi_info" and {"scripted", "k2"} < set(key) for key in told)


def test_tokens_and_times_are_told_of_streams(serve: Serve) -> None:
    engine = ScriptedEngine(["x" * 100], cut=list, delay=0.002)
    served = serve(engine)
    ask(served, CHAT, streamed())
    ask(served, CHAT, HELLO)
    told = metrics(served)
    assert told["abruzzi_completion_tokens_total",] == 200
    assert told["abruzzi_prompt_tokens_total",] == 2 * len(str(engine.prompts[0]))
    assert told["abruzzi_time_to_first_token_seconds_count",] == 1
    assert 0.002 <= told["abruzzi_time_to_first_token_seconds_sum",] < 1
    assert told["abruzzi_time_per_output_token_seconds_count",] == 1
    assert 0.002 <= told["abruzzi_time_per_output_token_seconds_sum",] < 0.1


def test_what_the_guard_did_is_counted(serve: Serve) -> None:
    served = serve(ScriptedEngine([WRONG, REST]))
    body = {"messages": ASK, "tools": TOOLS}
    assert ask(served, CHAT, body).status == 200
    told = metrics(served)
    assert told["abruzzi_violations_total", "scripted", "schema"] == 1
    assert told["abruzzi_resumes_total",] == 1
    assert told["abruzzi_resampled_total",] == 0
    assert told["abruzzi_forced_characters_total",] == 0
    assert told["abruzzi_generated_characters_total",] == len(WRONG.partition('k"')[0] + "k" + REST)


def test_a_stream_that_breaks_off_is_a_200_and_an_error(serve: Serve) -> None:
    served = serve(Failing(EngineError("the engine died"), "Hello"))
    ask(served, CHAT, streamed())
    told = metrics(served)
    assert told["abruzzi_requests_total", CHAT, "200", "true"] == 1
    assert told["abruzzi_errors_total", "EngineError"] == 1


def test_clients_that_leave_are_counted_apart(serve: Serve) -> None:
    served = serve(ScriptedEngine(["x" * 10_000], cut=list, delay=0.01))
    with raw(served.port, HELLO):
        while not served.app.intake.open:
            time.sleep(0.01)
    while served.app.intake.open:
        time.sleep(0.01)
    told = metrics(served)
    assert told["abruzzi_requests_total", CHAT, "499", "false"] == told["abruzzi_errors_total", "client_left"] == 1


def test_what_is_open_is_told(serve: Serve) -> None:
    engine = ScriptedEngine(["x" * 300], cut=list, delay=0.002)
    served = serve(engine)
    with ThreadPoolExecutor(2) as pool:
        open_ = [pool.submit(ask, served, CHAT, body) for body in (HELLO, streamed())]
        while len(engine.prompts) < 2:
            time.sleep(0.005)
        told = metrics(served)
        assert (told["abruzzi_requests_at_work",], told["abruzzi_open_streams",]) == (2, 1)
        assert [one.result().status for one in open_] == [200, 200]
    told = metrics(served)
    assert (told["abruzzi_requests_at_work",], told["abruzzi_open_streams",]) == (0, 0)


def test_the_documentation_tells_of_every_metric(serve: Serve) -> None:
    told = ask(
        serve(ScriptedEngine([""])), "/metrics", headers={"Accept": "application/openmetrics-text"}
    ).body.decode()
    kinds = dict(re.findall(r"^# TYPE (abruzzi_?\w*) (\w+)$", told, re.MULTILINE))
    suffixes = {"counter": "_total", "info": "_info"}
    names = {name + suffixes.get(kind, "") for name, kind in kinds.items()}
    documentation = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(abruzzi_\w+)`", documentation)) == names


def test_two_servers_in_one_process_count_apart(serve: Serve) -> None:
    one, other = serve(ScriptedEngine(["Hello."])), serve(ScriptedEngine(["Hello."]))
    ask(one)
    assert metrics(one)["abruzzi_requests_total", CHAT, "200", "false"] == 1
    assert ("abruzzi_requests_total", CHAT, "200", "false") not in metrics(other)


def test_openmetrics_is_to_be_had(serve: Serve) -> None:
    told = ask(serve(ScriptedEngine([""])), "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert told.headers["content-type"].startswith("application/openmetrics-text") and told.body.endswith(b"# EOF\n")


class Pooled(ScriptedEngine):
    def __init__(self, *statuses: str) -> None:
        super().__init__([""])
        self.told = [{"url": "http://a", "status": status} for status in statuses]

    def health(self) -> list[dict[str, str]]:
        return self.told


@pytest.mark.parametrize(
    ("statuses", "status", "code"),
    [(["ok", "ok"], "ok", 200), (["ok", "sick"], "degraded", 200), (["sick", "sick"], "sick", 503)],
)
def test_health_tells_of_each_engine(serve: Serve, statuses: list[str], status: str, code: int) -> None:
    engine = Pooled(*statuses)
    told = ask(serve(engine), "/health")
    expected = {"status": status, "model": "scripted", "engines": engine.told, "violations": {}}
    assert (told.status, told.json) == (code, expected)


def test_and_of_a_single_one(serve: Serve) -> None:
    told = ask(serve(ScriptedEngine([""])), "/health").json
    assert told["engines"] == [{"url": None, "model": "scripted", "status": "ok"}]
