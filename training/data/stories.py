"""Requests that tell a story in which several calls are due; material/stories.txt has their form."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from training.data import material
from training.data.catalog import Spec
from training.data.request import Request, expand, phrase

_CALL = re.compile(r"#(\d+) ")
_REPEATED = re.compile(r"(?P<value>=)?@(?P<call>\d+)\.(?P<slot>[a-z]+)")


@dataclass(frozen=True)
class Story:
    """Tools by key, and the texts."""

    keys: tuple[str, ...]
    texts: tuple[str, ...]


def load_stories() -> list[Story]:
    return [
        Story(tuple(head.split()[1:]), tuple(line.removeprefix("t ") for line in texts))
        for head, *texts in material.blocks("stories")
    ]


def tell(text: str, specs: Sequence[Spec], rng: random.Random) -> tuple[str, list[tuple[Spec, Request]]]:
    """The text with values, and its requests in order, each with the tool that it is for."""
    opening, *parts = _CALL.split(expand(text, rng))
    done: list[tuple[Spec, Request]] = []

    def repeated(match: re.Match[str]) -> str:
        request = done[int(match["call"]) - 1][1]
        value = request.calls[0][match["slot"]]
        if match["value"]:
            return f"={json.dumps(value, ensure_ascii=False)}"
        return request.words.get(match["slot"], str(value))

    said = [opening.strip()]
    for number, part in zip(parts[::2], parts[1::2], strict=True):
        spec = specs[int(number) - 1]
        request = phrase(spec, _REPEATED.sub(repeated, part), rng, plain=True)
        done.append((spec, request))
        said.append(request.text)
    return " ".join(filter(None, said)), done
