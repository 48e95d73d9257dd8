"""Which tools can do one another's work: they never stand side by side, or there would be two right answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.data.catalog import JsonObject, Spec


def keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


RIVALS = tuple(
    keys(row)
    for row in (
        "calc addnum multiply sqrt percent tip stats compound python",
        "convertcur rate",
        "contact employee",
        "sendmail groupmail",
        "shell readfile listdir findfiles grep delfile movefile commit branch gitlog pods ping dns whois "
        "download install process python zip tests restart logs pkginfo",
        "memory newnote remind addtodo",
        "recall searchnote",
        "hotels places restaurants",
        "directions trains",
        "ticket newissue bug",
        "timer alarm remind",
        "http fetch download",
        "websearch wiki news papers images",
        "convertunit temperature",
        "order parcel",
        "health ping",
        "define synonyms wiki",
        "country wiki",
        "grade course",
        "addevent doctor remind",
        "movie recommend showtimes",
        "book lendbook",
        "listevents freetime",
        "upload readfile",
        "uuid password",
        "events listevents",
    )
)
# With these at hand a question of knowledge or a wish for words might well be meant for a tool.
KNOWING = keys(
    "websearch wiki define synonyms calc addnum multiply sqrt percent isprime country fact quote joke "
    "recipes book movie drug namegen translate python shell fetch news genimage papers spell converttime "
    "convertunit temperature timein now horoscope plant nutrition byingredients stats newnote memory http "
    "poll recommend lyrics quiz"
)
# These can do nearly anything, so no request is beyond them.
ABLE = keys("websearch wiki shell python fetch http")


def rivals_of(key: str) -> frozenset[str]:
    return frozenset().union(*(row for row in RIVALS if key in row)) - {key}


def strange_to(tool: JsonObject, specs: Sequence[Spec]) -> bool:
    """Whether a foreign tool shares no word with the tools in use, so it can't do their work."""
    function = tool["function"]
    words = set(re.findall(r"[a-z]{4,}", split_camel(function["name"] + " " + function.get("description", ""))))
    for spec in specs:
        own = " ".join([*spec.names, *spec.descriptions, spec.domain, spec.deed])
        if words & set(re.findall(r"[a-z]{4,}", split_camel(own))):
            return False
    return True


def split_camel(text: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()
