"""What is a body, and what is told of one that isn't."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi import RequestError
from abruzzi.server import body as body_module
from abruzzi.server.body import parse

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), _values))
def test_json_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value
    assert parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "no JSON: expecting value (line 1, column 1)"),
        (b'{"a": 1,\n "b" 2}', "no JSON: expecting ':' delimiter (line 2, column 6)"),
        (b'{"a": "\xff"}', "no UTF-8: invalid start byte at byte 7"),
        (b"[]", "expected an object as the body, got an array"),
        (b"null", "got null"),
        (b"1", "got a number"),
        (b'{"temperature": NaN}', "NaN is no JSON (line 1, column 17)"),
        (b'{"temperature": -Infinity}', "-Infinity is no JSON (line 1, column 17)"),
        (b'{"temperature": 1e400}', "no double holds 1e400 (line 1, column 17)"),
        (
            b'{"max_tokens": ' + b"9" * 5000 + b"}",
            "a number of 5,000 digits is too long to be read (line 1, column 16)",
        ),
        (b'{"a": "\\ud83d"}', "\\ud83d is half of a surrogate pair, which is no character (line 1, column 7)"),
        (b'{"\\uDC00": 1}', "\\udc00 is half of a surrogate pair, which is no character (line 1, column 2)"),
        (b'{"a": "NaN, {",\n "b": [{"c": 1}, {"c": NaN}]}', "NaN is no JSON (line 2, column 24)"),
        (b'{"a": 1, "b": {"a": 2}, "\\u0061": 3}', "the name 'a' stands twice in one object (line 1, column 25)"),
        (b"\xef\xbb\xbf{}", "no JSON: it begins with a byte order mark (line 1, column 1)"),
        (b'{"a": {"b": 1, "b": 2}}', "the name 'b' stands twice in one object (line 1, column 16)"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"a": 1} x', "extra data (line 1, column 10)"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(body: bytes, told: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(body)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_whole_pair_of_surrogates_is_a_character() -> None:
    assert parse(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_a_name_that_stands_twice_among_many_is_found_in_no_time() -> None:
    names = ",".join(f'"{n}":0' for n in range(200_000))
    begun = time.process_time()
    with pytest.raises(RequestError, match="'7' stands twice"):
        parse(f'{{"x": {{{names},"7":1}}}}'.encode())
    assert time.process_time() - begun < 3


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("NaN", "NaN is no JSON"),
        ("9" * 5000, "5,000 digits"),
        ("-1e999", "no double holds -1e999"),
        ('"\\uD83d"', "\\ud83d is half"),
    ],
)
def test_in_megabytes_no_place_is_looked_for(value: str, told: str) -> None:
    long = "x" * (1 << 20)
    with pytest.raises(RequestError) as caught:
        parse(f'{{"long": "{long}", "b": {value}}}'.encode())
    assert told in str(caught.value) and "column" not in str(caught.value)


@pytest.mark.parametrize(
    "text", [r"\\ud800", r"\ud83d\uDE00", r"\\\ud83d\ude00", r"\uD7ff\ue000", r"\n\"\ud83d\ude00\\"]
)
def test_what_looks_like_half_a_pair_may_be_none(text: str) -> None:
    assert parse(f'{{"a": "{text}"}}'.encode()) == json.loads(f'{{"a": "{text}"}}')


@pytest.mark.parametrize(
    "text", [r"\\\ud800", r"\ud83d\ud83d\ude00", r"\ude00\ud83d", r"\ud83d\ude00\uDFFF", r"\ud83d\n"]
)
def test_half_a_pair_is_found_among_others(text: str) -> None:
    with pytest.raises(RequestError, match="half of a surrogate pair"):
        parse(f'{{"a": "{text}"}}'.encode())


_NAMES = st.sampled_from(["a", "b", "tools", "a:", "\u00e9"])
_PAIRS = st.recursive(
    st.sampled_from(["1", '":"', '"\\u003a"', "1e400", "NaN", '"\\ud800"', "null", "10" * 20, "-0", "1.5E3", "tru"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda several: f"[{','.join(several)}]")
        | st.lists(st.tuples(_NAMES, inner), max_size=3).map(
            lambda pairs: f"{{{','.join(f'{json.dumps(name)}: {value}' for name, value in pairs)}}}"
        )
    ),
    max_leaves=6,
)


@given(_PAIRS)
def test_the_fast_way_takes_what_the_exact_one_takes(text: str) -> None:
    body = text.encode()
    fast = body_module._read_fast(body)
    if fast is not None:
        exact = body_module._read_exactly(body)
        assert fast == exact
        assert json.dumps(fast, sort_keys=True) == json.dumps(exact, sort_keys=True)  # 1 and 1.0 and true differ


def test_usual_bodies_are_read_the_fast_way() -> None:
    for body in (b'{"messages": [{"role": "user", "content": "a: b, \\u003c"}], "tools": [{"x": 1}]}', b"{}"):
        assert body_module._read_fast(body) == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"tools": [], "tools": [1]}',
        b'{"tools": [{"a": 1, "a": 2}]}',
        b'{"a": 1, "a": ":"}',
        b'{"\\u003a": 1, "a": 1, "a": 2}',
        b'{"a": "\\u003A", "b": 1, "b": 2}',
        b'{"x": {"c": "\\u003a", "b": 1, "b": 2}}',
    ],
)
def test_no_name_stands_twice_whatever_colons_there_are(body: bytes) -> None:
    with pytest.raises(RequestError, match="stands twice"):
        parse(body)


def test_the_same_tools_are_read_once() -> None:
    one, other = (parse(b'{"tools": [{"x": 1}], "n": %d}' % n) for n in (1, 2))
    assert one["tools"] is other["tools"] == [{"x": 1}]
    assert parse(b'{"tools": [{"x": 2}]}')["tools"] == [{"x": 2}]
    assert parse(b'{"tools": null}')["tools"] is None


def test_other_threads_have_their_turn_while_millions_of_numbers_are_read() -> None:
    body = b'{"x": [%s1]}' % (b"1," * 2_500_000)
    turns, is_over = 0, False

    def others() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            time.sleep(0.001)

    beside = threading.Thread(target=others)
    beside.start()
    try:
        turns = 0
        assert len(parse(body)["x"]) == 2_500_001
        assert turns > 15  # one in each of Python's intervals of 5 ms
    finally:
        is_over = True
        beside.join()
