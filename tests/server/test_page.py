"""The page, for people."""

from __future__ import annotations

import base64
import dataclasses
import re
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.server.asking import Serve, ask

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def named(name: str) -> ScriptedEngine:
    engine = ScriptedEngine(["Hello."])
    engine.capabilities = dataclasses.replace(engine.capabilities, model=name)
    return engine


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src", "action")]


def test_a_browser_gets_one_page_with_nothing_from_elsewhere(serve: Serve) -> None:
    served = serve(named("kimi-k2"))
    told = ask(served, "/", headers=BROWSER)
    assert told.headers["content-type"] == "text/html; charset=utf-8"
    html, links = told.body.decode(), Links()
    links.feed(html)
    assert links.links == ["/health", "/metrics"] and not links.tags & {"script", "img", "link", "iframe"}
    for part in ("kimi-k2", "<code>k2</code>", "/v1/chat/completions", f"http://127.0.0.1:{served.port}/v1"):
        assert part in html
    policy = told.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy


def test_the_policy_lets_the_pages_own_style_through(serve: Serve) -> None:
    told = ask(serve(named("x")), "/", headers=BROWSER)
    (style,) = re.findall(r"<style>(.*?)</style>", told.body.decode(), re.DOTALL)
    assert base64.b64encode(sha256(style.encode()).digest()).decode() in told.headers["content-security-policy"]


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/plain", ""])
def test_a_terminal_gets_text(serve: Serve, accept: str) -> None:
    told = ask(serve(named("kimi-k2")), "/", headers={"Accept": accept})
    assert told.headers["content-type"] == "text/plain; charset=utf-8"
    assert "kimi-k2" in told.body.decode() and "<" not in told.body.decode()


def test_all_paths_are_told_and_none_that_is_absent(serve: Serve) -> None:
    told = ask(serve(named("x")), "/").body.decode()
    for path in ("POST   /v1/responses/input_tokens\n", "GET    /v1/responses/{id}/input_items\n"):
        assert path in told
    assert "compact" not in told and "cancel" not in told


def test_names_are_no_html(serve: Serve) -> None:
    told = ask(serve(named("<script>alert('\"&')</script>")), "/", headers=BROWSER)
    assert b"<script" not in told.body and b"&lt;script&gt;" in told.body


@pytest.mark.parametrize("host", ["a'; rm -rf ~ #", "<b>", "x y", "$(reboot)", "a/b"])
def test_what_a_client_calls_the_server_is_shown_in_no_command(serve: Serve, host: str) -> None:
    told = ask(serve(named("x"), host="0.0.0.0"), "/", headers={"Host": host})
    assert host not in told.body.decode() and "http://localhost/v1" in told.body.decode()


def test_the_examples_work(serve: Serve) -> None:
    served = serve(named("kimi-k2"))
    text = ask(served, "/").body.decode()
    code = dict(re.findall(r"# (.*)\n((?:.+\n|\n(?!# ))+)", text))
    assert list(code) == ["curl", "Python, openai", "Python, anthropic"]
    for title in ("Python, openai", "Python, anthropic"):
        # The examples leave their clients to the interpreter's end.
        exec(compile(code[title] + "\nclient.close()\n", title, "exec"), {})


def test_with_keys_the_examples_take_one_from_the_environment(serve: Serve) -> None:
    text = ask(serve(named("x"), api_keys=("sk-secret",)), "/").body.decode()
    assert text.count("ABRUZZI_API_KEY") == 3 and "sk-secret" not in text
