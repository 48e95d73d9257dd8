from __future__ import annotations

import jsonschema_rs
import pytest

from abruzzi.guide.pattern import Pattern, patterns_of


def fits(pattern: str, text: str) -> tuple[int, bool]:
    """How many characters of the text may stand, and whether the string may end there."""
    (found,) = patterns_of(pattern, None)
    following = found.follow()
    count = following.fits(text)
    following.take(text[:count])
    return count, following.may_end()


@pytest.mark.parametrize(
    ("pattern", "text", "count", "may_end"),
    [
        ("^ab$", "ab", 2, True),
        ("^ab$", "abc", 2, True),
        ("^ab$", "a", 1, False),
        ("^ab", "abc", 3, True),
        ("^ab", "xab", 0, False),
        ("ab$", "xxab", 4, True),
        ("ab$", "abx", 3, False),
        ("b", "abc", 3, True),
        ("b", "ac", 2, False),
        ("^a$|b", "xbx", 3, True),
        ("^a|b$", "ax", 2, True),
        ("^(a|b)$", "c", 0, False),
        ("^[a|b]$", "|", 1, True),
        (r"^a\|b$", "a|b", 3, True),
        (r"a\$", "a$x", 3, True),
        (r"^a\\$", "a\\", 2, True),
        ("^x\n$", "x\n", 2, True),
        ("^.$", "\n", 0, False),
        ("", "x\n", 2, True),
    ],
)
def test_a_pattern_is_looked_for_anywhere_but_where_it_is_anchored(
    pattern: str, text: str, count: int, may_end: bool
) -> None:
    assert fits(pattern, text) == (count, may_end)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^\d$", "7", "\u0667"),
        (r"^\w$", "_", "é"),
        (r"^\D$", "\u0667", "7"),
        (r"^\W$", "é", "w"),
        (r"^[\d-]$", "-", "x"),
        (r"^[\w.]$", ".", "é"),
        (r"^\u00e9\x41$", "éA", "EA"),
        (r"^a\/b\-c$", "a/b-c", "a-b"),
        (r"^[a&&b~~]$", "&", "c"),
        (r"^[[a]$", "[", "b"),
        (r"^[^[]$", "a", "["),
        (r"^\s$", "\t", "x"),
        (r"^(?:ab)?c{2}$", "abcc", "abx"),
        (r"^\.$", ".", "x"),
        (r"^é{1,2}$", "éé", "e"),
    ],
)
def test_patterns_mean_what_ecma_262_says(pattern: str, good: str, bad: str) -> None:
    assert fits(pattern, good) == (len(good), True)
    assert fits(pattern, bad)[0] < len(bad)
    valid = jsonschema_rs.validator_for({"pattern": pattern}).is_valid
    assert valid(good) and not valid(bad)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^(?!x)[a-z]+$", "x"),
        ("^(?=.*[0-9])[a-z0-9]+$", "ab"),
        (r"^(?!a(b)c\))[a-z]$", "a"),
        (r"^(?<=x)a$", "a"),
        (r"\bword\b", "swords"),
        (r"^a\Bb$", "ab"),
    ],
)
def test_what_looks_around_is_left_out_and_only_loosens(pattern: str, text: str) -> None:
    assert fits(pattern, text) == (len(text), True)


@pytest.mark.parametrize("pattern", [r"^(a)\1$", "^(?<name>a)\\k<name>$", "("])
def test_what_cannot_be_followed_is_left_to_the_end(pattern: str) -> None:
    assert patterns_of(pattern, None) == []


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("date", "2024-02-29", 10),
        ("date", "2024-2", 5),
        ("date-time", "2024-02-29T10:00:00.5+01:00", 27),
        ("date-time", "2024-02-29 ", 10),
        ("uuid", "00000000-0000-4000-8000-000000000000x", 36),
        ("ipv4", "192.0.2.1", 9),
        ("uri", "http://a b", 8),
        ("uri", "/a", 0),
    ],
)
def test_a_format_with_a_shape_is_followed(name: str, text: str, count: int) -> None:
    (found,) = patterns_of(None, name)
    assert found.follow().fits(text) == count


def test_a_format_without_a_shape_is_not_followed() -> None:
    assert patterns_of(None, "idn-hostname") == patterns_of(None, 3) == []
    assert len(patterns_of("^a", "date")) == 2


def test_a_character_of_several_bytes_stands_whole_or_not_at_all() -> None:
    following = Pattern("é+").follow()
    assert following.fits("éè") == 1
    following.take("é")
    assert following.may_end()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("^a*b+c?$", "b"), (r"^a{2,5}\*\+$", "aa*+"), ("x|y", "x"), ("^[*+]{2}$", "**"), ("^(?:a){0,3}$", "")],
)
def test_the_first_examples_repeat_nothing_that_need_not_be(pattern: str, expected: str) -> None:
    assert expected in list(patterns_of(pattern, None)[0].examples())[:2]
