from __future__ import annotations

import re
from itertools import islice

import jsonschema_rs
import pytest

from abruzzi.guide.regex import parsed
from abruzzi.guide.regex_spelling import whole
from abruzzi.guide.regex_strings import strings


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^ab$", "(?:ab)"),
        ("a|b$", "(?s:.*)(?:a)(?s:.*)|(?s:.*)(?:b)"),
        ("^[+--]$", r"(?:[\x{2b}-\x{2d}])"),
        (r"^\d{2,}$", r"(?:(?:[\x{30}-\x{39}]){2,})"),
        ("(?=a)b", "(?s:.*)(?:b)(?s:.*)"),
        ("^(?i)a$", "(?:(?i:a))"),
    ],
)
def test_a_pattern_becomes_one_of_the_whole_string(pattern: str, expected: str) -> None:
    found = whole(parsed(pattern))
    assert found.replace("(?:(?:", "(?:").replace("))", ")") == expected.replace("(?:(?:", "(?:").replace("))", ")")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^a*b+c?$", "b"),
        (r"^a{2,5}\*\+$", "aa*+"),
        ("x|y", "x"),
        ("^[*+]{2}$", "**"),
        ("^(?:a){0,3}$", ""),
        (r"^(a|b)\1$", "aa"),
        ("^[a-f0-9]{300}$", "a" * 300),
    ],
)
def test_the_first_string_repeats_nothing_that_need_not_be(pattern: str, expected: str) -> None:
    assert next(strings(pattern)) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        r"^(\d{2})-(x|y)-\1\2$",
        r"^(?=.*[A-Z])(?=.*\d)(?=.*[^\w])\S{12,}$",
        "^(?!admin)[a-z]{5}$",
        "^(?=abc)[a-z]+$",
        r"^\p{Script=Han}\p{Lu}\p{Nd}$",
        r"^[^\x00-\x7f]\u{1f600}\cA$",
        "(?i)^ab$",
    ],
)
def test_some_of_the_first_strings_match(pattern: str) -> None:
    valid = jsonschema_rs.validator_for({"pattern": pattern}).is_valid
    assert any(map(valid, islice(strings(pattern), 40)))


def test_strings_differ_and_there_are_many() -> None:
    found = list(islice(strings("^[a-z]{3}$"), 300))
    assert len(set(found)) == 300 and all(re.fullmatch("[a-z]{3}", text) for text in found)
    assert set(strings("^[ab]{2}$")) == {"aa", "ab", "ba", "bb"}


@pytest.mark.parametrize("pattern", ["^[a-z]+$", "^a-[0-9]*-[a-z]*$", "^(?:ab)*c$"])
def test_strings_are_about_as_long_as_they_are_asked_for(pattern: str) -> None:
    assert all(len(text) > 80 for text in islice(strings(pattern, 90), 20))


def test_long_strings_and_those_of_what_is_no_pattern_come_to_an_end() -> None:
    assert sum(map(len, strings("^[a-z]{9000}$"))) < 300_000
    assert list(strings("^a{1000000}$")) == list(strings("(")) == []
