"""What a tool returns, and what the assistant says of it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from typing import Any

from training.data import slots
from training.data.catalog import Spec
from training.data.request import Request
from training.data.words import POOLS, TEXTS

DRAWN = re.compile(r"\$([a-z]+?)(\d*)(\([^)]*\))?(?![a-z])")


def result(spec: Spec, request: Request, call: Mapping[str, Any], rng: random.Random) -> tuple[str, str]:
    """A result of a call and what to say of it."""
    words = dict(request.words)
    for slot, value in call.items():
        if slot not in words or len(request.calls) > 1:
            words[slot] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    usable = [pair for pair in spec.results if all(known(name, words) for name in names_in(pair))]
    content, answer = rng.choice(usable or [("ok", "Done.")])
    is_json = content[0] in "[{"
    content = substituted(content, words, rng, escape=is_json)
    return content, substituted(answer, words, rng, escape=False)


def names_in(pair: tuple[str, str]) -> set[str]:
    return {match[1] for text in pair for match in DRAWN.finditer(text)}


def known(name: str, words: Mapping[str, str]) -> bool:
    return name in words or name in TEXTS or name in POOLS or name in ("int", "dec", "money", "iso", "of", "lat", "lon")


def substituted(template: str, words: dict[str, str], rng: random.Random, *, escape: bool) -> str:
    """Put words and freshly drawn values into a result; a drawn value keeps its name in `words`."""

    def replace(match: re.Match[str]) -> str:
        name, key = match[1], match[1] + match[2]
        if key not in words:
            generator = name + (match[3] or "")
            if name == "int":
                low, high = (match[3] or "(1,9)").strip("()").split(",")
                words[key] = str(rng.randint(int(low), int(high)))
            else:
                words[key] = slots.draw(rng, generator).text
        return spelled(words[key], escape)

    return DRAWN.sub(replace, template)


def spelled(text: str, escape: bool) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1] if escape else text


def capital(text: str) -> str:
    """A plain word begins a sentence with a capital; a path or an odd name stays as it is."""
    return text[:1].upper() + text[1:] if re.match(r"[a-z]+[ ,]", text) else text
