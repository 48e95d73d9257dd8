"""Who comes in: keys, and web pages that must not."""

from __future__ import annotations

import socket
from pathlib import Path

import openai
import pytest

from abruzzi import RequestError
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.server.access import host_of, keys_of, origin_of
from abruzzi.server.app import create_app
from abruzzi.server.settings import Settings, is_loopback
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask

KEYS = ("sk-one", "sk-two")


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer sk-two"}, {"authorization": "bearer  sk-one"}, {"X-Api-Key": "sk-one"}]
)
def test_any_of_the_keys_lets_in_as_openai_and_as_anthropic_send_it(serve: Serve, headers: dict[str, str]) -> None:
    served = serve(ScriptedEngine(["Hello."]), api_keys=KEYS)
    assert ask(served, headers=headers).status == 200
    assert ask(served, "/v1/models", headers=headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer sk-three"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic sk-one"},
        {"Authorization": "sk-one"},
        {"X-Api-Key": "sk-on"},
        {"X-Api-Key": "sk-onee"},
        {"X-Api-Key": "sk-one,sk-two"},
        {"X-Api-Key": "\xff"},
    ],
)
def test_without_one_nothing_is_done_and_each_dialect_says_so(serve: Serve, headers: dict[str, str]) -> None:
    engine = ScriptedEngine(["Hello."])
    served = serve(engine, api_keys=KEYS)
    told = ask(served, headers=headers)
    assert (told.status, told.headers["www-authenticate"]) == (401, 'Bearer realm="abruzzi"')
    assert told.json["error"]["type"] == "invalid_request_error"
    told = ask(served, MESSAGES, {**HELLO, "max_tokens": 9}, headers=headers)
    assert (told.status, told.json["type"], told.json["error"]["type"]) == (401, "error", "authentication_error")
    for path in ("/v1/models", "/v1/models/scripted", "/nothing"):
        assert ask(served, path, headers=headers).status == 401
    assert not engine.prompts


def test_openais_client_knows_the_error(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), api_keys=KEYS)
    with (
        openai.OpenAI(base_url=served.base_url, api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_keys_are_never_told(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    served = serve(ScriptedEngine(["Hello."]), api_keys=KEYS, log="json", log_content=True)
    shown = [ask(served, path, headers={"X-Api-Key": "sk-one"}) for path in ("/", "/health", "/metrics", CHAT)]
    shown.append(ask(served, headers={"X-Api-Key": "sk-wrong"}))
    told = "".join(f"{one.headers} {one.body!r}" for one in shown) + "".join(capfd.readouterr())
    assert not any(key in told for key in (*KEYS, "sk-wrong"))
    assert "sk-one" not in repr(Settings(api_keys=KEYS))


def test_health_metrics_and_the_page_are_open_on_loopback(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), api_keys=KEYS)
    assert [ask(served, path).status for path in ("/health", "/metrics", "/")] == [200, 200, 200]


def test_elsewhere_only_health_is_and_it_tells_little(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), api_keys=KEYS, host="0.0.0.0")
    assert [ask(served, path).status for path in ("/health", "/metrics", "/")] == [200, 401, 401]
    assert ask(served, "/health").json == {"status": "ok"}
    key = {"X-Api-Key": "sk-one"}
    assert [ask(served, path, headers=key).status for path in ("/health", "/metrics", "/")] == [200, 200, 200]
    assert ask(served, "/health", headers=key).json["model"] == "scripted"


# A web page in the browser of somebody who can reach the server


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "127.1.2.3", "[::1]:8000", "a.localhost"])
def test_a_server_on_loopback_answers_to_names_of_loopback(serve: Serve, host: str) -> None:
    assert ask(serve(ScriptedEngine(["Hello."])), headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0:8000", "[::]",
     "192.168.1.2", "", "evil.example/localhost", "[::1", "user@localhost"],
)  # fmt: skip
def test_and_to_no_other_since_that_may_be_a_rebound_one(serve: Serve, host: str) -> None:
    engine = ScriptedEngine(["Hello."])
    served = serve(engine)
    for path in (CHAT, "/v1/models", "/health", "/metrics", "/", "/nothing"):
        told = ask(served, path, headers={"Host": host})
        assert (told.status, told.json["error"]["type"]) == (403, "invalid_request_error"), path
    assert not engine.prompts


def test_a_page_that_was_rebound_sees_nothing_of_a_server_with_keys_either(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), api_keys=KEYS)
    assert [ask(served, path, headers={"Host": "evil.example"}).status for path in ("/health", "/metrics", "/")] == [
        403, 403, 403
    ]  # fmt: skip
    # A proxy on the same machine may pass on the name it has: who has a key is no page.
    assert ask(served, headers={"Host": "api.example", "X-Api-Key": "sk-one"}).status == 200


def test_a_name_may_be_allowed(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), allow_hosts=("Host.Docker.Internal",))
    assert ask(served, headers={"Host": "host.docker.internal:8000"}).status == 200


def test_a_request_without_a_host_is_no_browsers(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_server_that_others_reach_answers_to_every_name(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), host="0.0.0.0")
    assert ask(served, headers={"Host": "api.example"}).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://localhost"])
def test_pages_of_other_origins_cant_even_send(serve: Serve, host: str, origin: str) -> None:
    engine = ScriptedEngine(["Hello."])
    served = serve(engine, host=host)
    told = ask(served, headers={"Origin": origin, "Host": "localhost:8000", "Content-Type": "application/json"})
    assert told.status == 403 and not engine.prompts
    assert not [name for name in told.headers if name.lower().startswith("access-control")]


def test_a_page_of_the_servers_own_origin_may(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    told = ask(served, headers={"Origin": "http://localhost:8000", "Host": "localhost:8000"})
    assert told.status == 200 and "access-control-allow-origin" not in told.headers


@pytest.mark.parametrize(("allowed", "told"), [("https://ui.example", "https://ui.example"), ("*", "*")])
def test_an_origin_may_be_allowed(serve: Serve, allowed: str, told: str) -> None:
    served = serve(ScriptedEngine(["Hello."]), allow_origins=(allowed,))
    origin = {"Origin": "https://ui.example", "Host": "localhost"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    preflight = ask(served, method="OPTIONS", headers={**origin, **asked})
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == told
    assert preflight.headers["access-control-allow-methods"] == "POST"
    assert preflight.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    for body in (HELLO, {**HELLO, "stream": True}, b"{"):
        assert ask(served, CHAT, body, headers=origin).headers["access-control-allow-origin"] == told
    if allowed != "*":
        assert ask(served, headers={"Origin": "https://other.example", "Host": "localhost"}).status == 403
        assert ask(served, method="OPTIONS", headers={**asked, "Origin": "null", "Host": "localhost"}).status == 403


def test_an_allowed_origin_still_needs_a_key_where_there_are_some(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), allow_origins=("*",), api_keys=KEYS)
    origin = {"Origin": "https://ui.example"}
    told = ask(served, headers=origin)
    assert (told.status, told.headers["access-control-allow-origin"]) == (401, "*")
    assert ask(served, headers={**origin, "Authorization": "Bearer sk-one"}).status == 200


# Where keys come from


def test_keys_come_from_options_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nsk-b  # Bob's\n\n  sk#c\n  # sk-none\n")
    assert keys_of(["sk-a"], file, " sk-d,,sk-e ") == ("sk-a", "sk-b", "sk#c", "sk-d", "sk-e")


@pytest.mark.parametrize("key", ["", "two words", "a,b", "schlüssel", "a\nb"])
def test_what_no_header_carries_is_no_key(key: str) -> None:
    with pytest.raises(RequestError, match="API key 2 is none") as told:
        keys_of(["sk-a", key], None, None)
    assert not key or key not in str(told.value)


def test_a_file_without_keys_is_no_open_door(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    with pytest.raises(RequestError, match="there is none"):
        keys_of([], tmp_path / "keys", None)
    with pytest.raises(RequestError, match="can't read API keys"):
        keys_of([], tmp_path / "gone", None)


@pytest.mark.parametrize("listed", ["", " , ", ",,", "\n"])
def test_nor_is_a_list_without_any(listed: str) -> None:
    for given in ([], ["sk-a"]):
        with pytest.raises(RequestError, match="expected API keys in ABRUZZI_API_KEYS, got none"):
            keys_of(given, None, listed)
    assert keys_of([], None, None) == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "Localhost.", "::ffff:127.0.0.1"])
def test_what_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "", "127.1", "::ffff:10.0.0.1"])
def test_what_is_not(host: str) -> None:
    assert not is_loopback(host)


# What is allowed


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("*", "*"),
        ("https://ui.example", "https://ui.example"),
        ("HTTPS://UI.example:443", "https://ui.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://h:443", "http://h:443"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ],
)
def test_an_origin_is_what_browsers_send(given: str, meant: str) -> None:
    assert origin_of(given) == meant


@pytest.mark.parametrize(
    "given",
    ["", "ui.example", "https://", "https://ui.example/", "https://ui.example/app", "https://u:p@ui.example", "null",
     "https://*.example", "https://ui.example:", "https://ui.example:0", "https://ui.example:65536", "https://a b",
     "https://ui.example?x", "https://ui.example,https://b.example"],
)  # fmt: skip
def test_what_is_no_origin_would_never_match(given: str) -> None:
    with pytest.raises(RequestError, match="expected an origin such as"):
        origin_of(given)
    with pytest.raises(RequestError, match="expected an origin such as"):
        create_app(ScriptedEngine([""]), Settings(allow_origins=(given,)))


@pytest.mark.parametrize("given", ["a", "Host.Docker.Internal", "my_host", "10.0.0.1", "::1", "[fe80::1]", "h."])
def test_a_hosts_name(given: str) -> None:
    assert host_of(given) == given.lower().strip("[]")


@pytest.mark.parametrize("given", ["", "*", "h:80", "http://h", "h/", "a b", ".h", "[h]", "[::1]:80", "a,b", "u@h"])
def test_what_is_no_hosts_name(given: str) -> None:
    with pytest.raises(RequestError, match="expected a host's name such as"):
        host_of(given)


def test_an_address_of_ipv6_may_be_allowed(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), allow_hosts=("fe80::1",))
    assert ask(served, headers={"Host": "[FE80::1]:8000"}).status == 200
