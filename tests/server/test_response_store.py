"""What is stored of responses: to be gone on from, had and deleted; and the bounds of it."""

from __future__ import annotations

import http.client
import json
import random
import time
from typing import Any

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.server.response_store import ResponseNotFound, ResponseStore, Stored
from tests.server import asking
from tests.server.openapi import openais
from tests.server.responding import (
    ASK,
    Serve,
    ask,
    client_of,
    get,
    post,
)

# Over HTTP


def test_what_is_stored_can_be_had_and_deleted(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hi."]))
    with client_of(served) as client:
        items: list[Any] = [{"role": "user", "content": str(i)} for i in range(3)]
        first = client.responses.create(model="any", input=items)
        assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
        listed = client.responses.input_items.list(first.id, order="asc", limit=2)
        texts = [item.content[0].text for item in listed]  # type: ignore[union-attr, index]
        assert texts == ["0", "1", "2"]  # the client asks for the second page by itself
        status, page = get(served, f"{first.id}/input_items")
        openais().check("ResponseItemList", page)
        assert [item["content"][0]["text"] for item in page["data"]] == ["2", "1", "0"] and not page["has_more"]
        second = client.responses.create(model="any", input="x", previous_response_id=first.id)
        client.responses.delete(first.id)
        for path in (first.id, f"{first.id}/input_items", "resp_0"):
            status, body = get(served, path)
            assert (status, body["error"]["type"]) == (404, "invalid_request_error")
            openais().check("ErrorResponse", body)
        # What went on from it holds what it needs.
        assert client.responses.create(model="any", input="x", previous_response_id=second.id).output_text == "Hi."
    for query, param in (("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=x", "after")):
        status, body = get(served, f"{second.id}/input_items?{query}")
        assert (status, body["error"]["param"]) == (400, param)
    assert get(served, f"{second.id}?stream=true")[0] == 400
    assert get(served, f"{second.id}/nothing")[0] == 404
    assert ask(served, "DELETE", f"/v1/responses/{second.id}/input_items")[0] == 405
    assert ask(served, "PUT", f"/v1/responses/{second.id}", {})[0] == 405


def test_what_is_not_stored_cant_be_gone_on_from(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hi."]))
    _, first = post(served, {"input": "x", "store": False})
    for id in (first["id"], "resp_0"):
        for stream in (False, True):
            status, body = post(served, {"input": "x", "previous_response_id": id, "stream": stream})
            assert (status, body["error"]["code"]) == (400, "previous_response_not_found")
            assert body["error"]["param"] == "previous_response_id"
            assert body["error"]["message"].startswith(f"Previous response with id '{id}' not found")
            openais().check("ErrorResponse", body)


def test_a_server_keeps_its_own(serve: Serve) -> None:
    one, other = serve(ScriptedEngine(["Hi."])), serve(ScriptedEngine(["Hi."]))
    _, answer = post(one, {"input": "x"})
    assert (get(one, answer["id"])[0], get(other, answer["id"])[0]) == (200, 404)


def test_a_client_that_leaves_stops_the_engine_and_stores_nothing(serve: Serve) -> None:
    engine = ScriptedEngine(["x" * 10_000], cut=list, delay=0.005)
    served = serve(engine)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.request("POST", "/v1/responses", json.dumps({"input": ASK, "stream": True}))
    while not engine.prompts:
        time.sleep(0.01)
    connection.close()
    deadline = time.monotonic() + 2
    while not engine.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.closed == 1


# The bounds


def message(id: str, text: str = "x") -> dict[str, Any]:
    return {"id": id, "type": "message", "role": "user", "content": text}


def add(store: ResponseStore, name: str, previous: Stored | None = None, text: str = "x") -> Stored:
    response = {"id": name, "output": [message(f"out-{name}")]}
    store.add(response, [message(f"in-{name}", text)], previous, {f"in-{name}"})
    return store.get(name)


def test_the_least_recently_used_goes_first() -> None:
    store = ResponseStore(entries=2)
    for name in "ab":
        add(store, name)
    store.get("a")
    add(store, "c")
    assert len(store) == 2 and store.get("a") and store.get("c")
    with pytest.raises(ResponseNotFound):
        store.get("b")
    assert store.item("out-b") is None and store.item("in-b") is None
    assert store.item("out-a") == message("out-a") and store.item("in-a") == message("in-a")


def test_bytes_are_bounded() -> None:
    size = add(ResponseStore(), "aa").size
    store = ResponseStore(size=3 * size)
    for i in range(10, 20):
        add(store, str(i))
        assert store.bytes <= 3 * size
    assert len(store) == 3
    with pytest.raises(ResponseNotFound):  # it is not kept at all, and pushes nothing out
        add(store, "bb", text="x" * 3 * size)
    assert len(store) == 3


def test_a_conversation_outlives_its_first_responses_and_counts() -> None:
    store = ResponseStore(entries=1)
    first = add(store, "a")
    second = add(store, "b", first)
    assert len(store) == 1 and store.bytes == first.size + second.size
    assert [item["id"] for item in second.items()] == ["in-a", "out-a", "in-b", "out-b"]
    assert store.item("out-a") is not None
    store.delete("b")
    assert (len(store), store.bytes, store.item("out-a")) == (0, 0, None)


def test_what_went_meanwhile_is_held_again_by_what_goes_on_from_it() -> None:
    store = ResponseStore()
    first = add(store, "a")
    store.delete("a")
    assert store.bytes == 0
    second = add(store, "b", first)
    assert store.bytes == first.size + second.size
    store.delete("b")
    assert store.bytes == 0


def test_a_conversation_longer_than_the_store_is_not_kept() -> None:
    size = add(ResponseStore(), "a").size
    store = ResponseStore(size=3 * size)
    last: Stored | None = None
    for name in "abc":
        last = add(store, name, last)
    with pytest.raises(ResponseNotFound):
        add(store, "d", last)
    assert len(store) == 3


def test_the_count_of_bytes_is_that_of_what_is_held() -> None:
    random_choice = random.Random(0)
    store = ResponseStore(entries=20, size=8000)
    names: list[str] = []
    for i in range(2000):
        alive = [name for name in names[-40:] if name in store._kept]
        if alive and random_choice.random() < 0.2:
            store.delete(random_choice.choice(alive))
            continue
        previous = store.get(random_choice.choice(alive)) if alive and random_choice.random() < 0.8 else None
        response = {"id": f"r{i}", "output": [message(f"o{i}")]}
        store.add(response, [message(f"i{i}", "x" * random_choice.randrange(300))], previous, {f"i{i}"})
        names.append(f"r{i}")
        held: set[Stored] = set()
        for stored in store._kept.values():
            turn: Stored | None = stored
            while turn is not None:
                held.add(turn)
                turn = turn.previous
        assert store.bytes == sum(stored.size for stored in held) <= 8000
        assert set(store._holding.values()) == held


# Whose it is


def test_what_one_key_stored_is_not_there_for_another(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hi."]), api_keys=("sk-one", "sk-two"))
    one, two = ({"Authorization": f"Bearer sk-{name}"} for name in ("one", "two"))
    made = asking.ask(served, "/v1/responses", {"input": "x"}, headers=one).json
    item = {"type": "item_reference", "id": made["output"][0]["id"]}
    went_on = {"input": "y", "previous_response_id": made["id"]}
    path = f"/v1/responses/{made['id']}"
    for method, where in (("GET", path), ("GET", f"{path}/input_items"), ("DELETE", path)):
        answer = asking.ask(served, where, method=method, headers=two)
        assert (answer.status, answer.json["error"]["code"]) == (404, "response_not_found")
    assert asking.ask(served, "/v1/responses", went_on, headers=two).status == 400
    assert asking.ask(served, "/v1/responses", {"input": [item]}, headers=two).json["error"]["param"] == "input[0].id"
    assert asking.ask(served, "/v1/responses", {"input": [item]}, headers=one).status == 200
    assert asking.ask(served, "/v1/responses", went_on, headers=one).status == 200
    for status in (200, 404):
        assert asking.ask(served, path, method="DELETE", headers=one).status == status


def test_of_a_key_only_its_digest_is_kept() -> None:
    store = ResponseStore()
    store.add({"id": "r", "output": []}, [], None, set(), b"digest")
    assert store.get("r", b"digest").owner == b"digest"
    for other in (None, b"another"):
        with pytest.raises(ResponseNotFound):
            store.get("r", other)
