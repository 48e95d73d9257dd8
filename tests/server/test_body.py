"""What is a body, and what is told of one that isn't."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi import RequestError
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
        (b'{"temperature": NaN}', "NaN is no JSON"),
        (b'{"temperature": -Infinity}', "-Infinity is no JSON"),
        (b'{"temperature": 1e400}', "no double holds 1e400"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair, \\ud83d"),
        (b'{"\\uDC00": 1}', "half of a surrogate pair, \\udc00"),
        (b'{"a": {"b": 1, "b": 2}}', "the name 'b' stands twice"),
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
