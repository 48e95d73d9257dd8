from __future__ import annotations

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.guide.pattern import Pattern, patterns_of
from abruzzi.guide.regex_strings import strings


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


def is_followed(pattern: str, text: str) -> bool:
    return fits(pattern, text) == (len(text), True)


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("^[+--]$", "+,-"),
        ("^[!--/]+$", ["--", "!,-/"]),
        ("^[a-z0-9--]$", "a0-"),
        (r"^[^\x30-\x39--/]$", ".a"),
        (r"^[\W]$", "é-\u3000"),
        (r"^[\W\d]+$", ["é1", "日本"]),
        (r"^[\D]$", "éa\u0667"),
        (r"^[\S]$", "é\x85"),
        (r"^[^\W_]$", "a1"),
        (r"^\s$", "\t\n\v\f\r \xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"),
        (r"^[\s]+$", ["\ufeff\u2028"]),
        (r"^\S$", "\x85a"),
        ("^[[:alpha:]]$", ["a]", ":]"]),
        ("^(?=[)]x)[)]x$", [")x"]),
        ("^(?![(])[a-z]+$", ["ab"]),
        (r"^(?=[\](])\W$", "]("),
        (r"^\b{1}a$", "a"),
        ("(^|,)a(,|$)", ["a", "b,a", "a,b", ",a,"]),
        ("^(?:a|^b)c$", ["ac", "bc"]),
        ("(^a|b)(c|d$)", ["ac", "xbd", "xbcx"]),
        ("(?i)^ab|c$", ["AB", "xC"]),
        ("(?m)^a$", ["b\na\nc"]),
        ("^(?i:a)b$", ["Ab"]),
        (r"^\cJ\u{61}\p{Lu}$", ["\naÉ"]),
        ("^(?P<a>x)(?<b>y)$", ["xy"]),
        ("^(a{2}){2}b{2}?c++$", ["aaaabbcc"]),
        ("^(){3}a$", "a"),
    ],
)
def test_what_the_validator_accepts_is_followed(pattern: str, texts: list[str]) -> None:
    valid = jsonschema_rs.validator_for({"pattern": pattern}).is_valid
    for text in texts:
        assert valid(text) and is_followed(pattern, text), text


CHARACTERS = st.sampled_from("aAbk019_-/ ,.é\u0667\u3000\ufeff\n\u2028\x85\u017f\u212a]})(^&~|日")
ESCAPES = [r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\.", r"\-", r"\u0061", r"\x41", r"\t", r"\]", r"\[", r"\p{L}"]
MEMBERS = [*ESCAPES, "a-c", "0-9", "+--", " -~", "&&", "~~", "[", "(", ")", "|", "^", "é-日", "_"]
CLASSES = st.builds(
    lambda head, members, end: f"{head}{''.join(members)}{end}",
    st.sampled_from(["[", "[^", "[-"]),
    st.lists(st.sampled_from(MEMBERS), min_size=1, max_size=4),
    st.sampled_from(["]", "-]"]),
)
LITERALS = st.sampled_from(["a", "b", "0", "_", "-", "/", "é", "&", "~", " ", ".", "", "^", "$", r"\b", r"\B", "(?i)"])
GROUPS = st.sampled_from(["(", "(?:", "(?<n>", "(?i:", "(?s:", "(?=", "(?!", "(?<=", "(?<!"])


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.lists(inner, max_size=3).map("".join)
        | st.builds("{}{})".format, GROUPS, inner)
        | st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "+?"]))
        | st.builds("{}|{}".format, inner, inner)
    )


@given(st.recursive(LITERALS | st.sampled_from(ESCAPES) | CLASSES, grown, max_leaves=8), st.data())
def test_any_pattern_is_followed_as_far_as_the_validator_goes(pattern: str, data: st.DataObject) -> None:
    try:
        valid = jsonschema_rs.validator_for({"pattern": pattern}).is_valid
    except jsonschema_rs.ValidationError:
        return
    made = [text for text, _ in zip(strings(pattern), range(8), strict=False)]
    for text in [*made, data.draw(st.text(CHARACTERS, max_size=4)), data.draw(st.text(CHARACTERS, max_size=4))]:
        if valid(text) and patterns_of(pattern, None):
            assert is_followed(pattern, text), text


@pytest.mark.parametrize(
    "pattern",
    [r"^(a)\1$", "^(?<name>a)\\k<name>$", "(", "a)", "*", "(?x) a", "^[]a]$", "^a{2}{2}$", "^a{2}+$", "(" * 200],
)
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("time", f"00:00:00.{'1' * 40}Z"),
        ("date-time", f"2000-01-01t00:00:00.{'1' * 40}+00:00"),
        ("duration", f"P{'1' * 100}D"),
        ("ipv6", "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255"),
        ("uri", "urn:"),
        ("iri", "a:é\xa0"),
        ("uri-reference", ""),
        ("email", f"{'N' * 400} <a@b.c>"),
    ],
)
def test_all_of_a_format_is_followed(name: str, text: str) -> None:
    assert jsonschema_rs.validator_for({"format": name}, validate_formats=True).is_valid(text)
    for found in patterns_of(None, name):
        assert found.follow().fits(text) == len(text)


@pytest.mark.parametrize(
    ("draft", "names"),
    [
        ("http://json-schema.org/draft-04/schema#", ["date", "time", "date-time", "ipv4", "ipv6", "hostname", "uri"]),
        ("http://json-schema.org/draft-06/schema#", ["date", "ipv4", "uri", "uri-reference"]),
        ("http://json-schema.org/draft-07/schema#", ["date", "uri", "iri", "uri-reference"]),
        ("https://json-schema.org/draft/2019-09/schema", ["date", "duration", "uuid", "iri"]),
        (None, ["date", "duration", "uuid", "iri", "uri-reference"]),
    ],
)
def test_a_format_is_followed_in_the_drafts_that_have_it(draft: str | None, names: list[str]) -> None:
    schema = {"$schema": draft} if draft else {}
    for name in (
        "date",
        "time",
        "date-time",
        "duration",
        "ipv4",
        "ipv6",
        "hostname",
        "uri",
        "uuid",
        "iri",
        "uri-reference",
    ):
        valid = jsonschema_rs.validator_for({**schema, "format": name}, validate_formats=True).is_valid
        assert bool(patterns_of(None, name, draft)) == (not valid("\x00"))
    assert all(patterns_of(None, name, draft) for name in names)


def test_a_character_of_several_bytes_stands_whole_or_not_at_all() -> None:
    following = Pattern("é+").follow()
    assert following.fits("éè") == 1
    following.take("é")
    assert following.may_end()
