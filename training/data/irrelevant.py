"""Real requests whose tool is missing: the tools at hand look near, and none of them will do.

Made of the real dialogues by taking the called tools away. Without these a model that is shown one tool calls it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]

REFUSED = (
    "None of my tools can do that, sorry.",
    "I'm sorry, I have no tool for that.",
    "I can't do that here: none of the tools I have fits.",
    "Sorry, that is beyond the tools I have.",
    "I don't have a tool that can help with this.",
)
# How many tools are left, and how often: a single one tempts most.
_LEFT, _OFTEN = (1, 2, 3, 4), (45, 25, 20, 10)


# What the second stage keeps whole of the first one's kinds, and how much of the others.
_KEPT = frozenset(("refusal", "question", "pythonic", "after_result", "plain_chat", "chain"))
_SHARE = 0.6


def second_stage(rows: Sequence[Row], rng: random.Random) -> list[Row]:
    """The conversations for a second, shorter training: those without the right tool among a part of `rows`."""
    more = irrelevant(rows, rng)
    mixed = [row for row in rows if row["source"] in _KEPT or rng.random() < _SHARE] + more
    rng.shuffle(mixed)
    return mixed


def irrelevant(rows: Iterable[Row], rng: random.Random) -> list[Row]:
    """A conversation without a call for each of the real dialogues among `rows` that begins with a request."""
    real = [row for row in rows if row["source"].startswith("dialogue_") and row["messages"][0]["role"] == "user"]
    every = [tool for row in real for tool in row["tools"]]
    return [_without_the_right_tool(row, every, rng) for row in real]


def _without_the_right_tool(row: Row, every: Sequence[Row], rng: random.Random) -> Row:
    called = {call["function"]["name"] for message in row["messages"] for call in message.get("tool_calls", ())}
    near = [tool for tool in row["tools"] if tool["function"]["name"] not in called]
    count = rng.choices(_LEFT, _OFTEN)[0]
    tools = rng.sample(near, min(count, len(near)))
    names = called | {tool["function"]["name"] for tool in tools}
    while len(tools) < count:
        other = rng.choice(every)
        if other["function"]["name"] not in names:
            tools.append(other)
            names.add(other["function"]["name"])
    messages = [row["messages"][0], {"role": "assistant", "content": rng.choice(REFUSED), "train": True}]
    return {"messages": messages, "tools": tools, "tool_format": "k2", "source": "irrelevant"}
