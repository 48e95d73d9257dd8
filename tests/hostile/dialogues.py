"""Right calls of real dialogues, and how they may be spelled."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from abruzzi import Message, Tool
from tests.hostile.judge import fault


@dataclass(frozen=True, slots=True)
class Wanted:
    """A turn of a dialogue: what stands before it, and the right calls."""

    id: str
    messages: Sequence[Message]
    tools: Sequence[Tool]
    content: str
    calls: tuple[tuple[Tool, str], ...]
    """The tool and the arguments' text."""

    @property
    def first_index(self) -> int:
        return sum(len(message.tool_calls) for message in self.messages)


@lru_cache(maxsize=8)
def dialogues(data: Path, every: int = 1) -> tuple[Wanted, ...]:
    """A turn of each dialogue, or of one in `every`. Calls that their own schema refuses are left out."""
    found = []
    for path in sorted((data / "dialogues").glob("*.jsonl.xz")):
        with lzma.open(path, "rt") as lines:
            found += [wanted for line in islice(lines, 0, None, every) if (wanted := _wanted(json.loads(line)))]
    return tuple(found)


def _wanted(record: Mapping[str, Any]) -> Wanted | None:
    tools = [Tool.from_openai(value) for value in record["tools"]]
    messages = [Message.from_openai(value) for value in record["messages"]]
    turns = [i for i, message in enumerate(messages) if message.tool_calls]
    if not turns:
        return None
    at = turns[len(record["id"]) % len(turns)]
    named = {tool.name: tool for tool in tools}
    calls = tuple(
        (named[function.name], function.arguments)
        for function in (call.function for call in messages[at].tool_calls)
        if fault(function.name, function.arguments, tools) is None
    )
    return Wanted(record["id"], messages[:at], tools, messages[at].content or "", calls) if calls else None


def respelled(value: Any, rng: random.Random, most: int = 3) -> str:
    """The value's JSON with up to `most` spaces wherever some may stand, its members in any order, and characters
    escaped that need not be.
    """
    if isinstance(value, dict):
        inner = [
            f"{_string(key, rng)}{_space(rng, most)}:{_space(rng, most)}{respelled(one, rng, most)}"
            for key, one in rng.sample(list(value.items()), len(value))
        ]
    elif isinstance(value, list):
        inner = [respelled(one, rng, most) for one in value]
    else:
        return _string(value, rng) if isinstance(value, str) else json.dumps(value)
    comma = f"{_space(rng, most)},{_space(rng, most)}"
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return f"{begin}{_space(rng, most)}{comma.join(inner)}{_space(rng, most) if inner else ''}{end}"


def _space(rng: random.Random, most: int) -> str:
    return "".join(rng.choices(" \n\t\r", (8, 2, 1, 1), k=rng.randrange(most + 1)))


def _string(text: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return json.dumps(text, ensure_ascii=rng.random() < 0.5)
    characters = [
        f"\\u{ord(c):04X}" if c.isalpha() and ord(c) < 0xD800 and rng.random() < 0.2 else json.dumps(c)[1:-1]
        for c in text
    ]
    return f'"{"".join(characters)}"'.replace("/", "\\/")
