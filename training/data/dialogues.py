"""Real tool-calling dialogues, cut to what a small model can read: few tools, short descriptions.

Only dialogues are kept whose calls are valid against their (closed) schema, with values that can be found in the
conversation: a model that is trained on values out of nowhere learns to invent.
"""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs

from training.data.catalog import JsonObject

# File, part of its identifiers, how many at most. bfcl_exec belongs to an evaluation and tau_retail
# is too long, so neither is here.
SOURCES = (
    ("seal_tools", "seal_", 430),
    ("acebench", "ace_en", 280),
    ("acebench", "ace_zh", 90),
    ("apibank_l1", "apibank", 170),
    ("toolalpaca", "toolalpaca", 60),
)
# The same for the fourth stage.
ALL = (
    ("seal_tools", "seal_", 900),
    ("acebench", "ace_en", 500),
    ("acebench", "ace_zh", 120),
    ("apibank_l1", "apibank", 276),
    ("apibank_l2", "apibank", 29),
    ("toolalpaca", "toolalpaca", 60),
)
MAX_CHARACTERS = 3680


def load(folder: Path, rng: random.Random, sources: Sequence[tuple[str, str, int]] = SOURCES) -> list[JsonObject]:
    """The chosen dialogues, in any order."""
    chosen = []
    for name, prefix, limit in sources:
        with lzma.open(folder / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        rows = [row for row in rows if row["id"].startswith(prefix)]
        rng.shuffle(rows)
        good = [found for row in rows if (found := convert(row, rng)) is not None]
        chosen += good[:limit]
    rng.shuffle(chosen)
    return chosen


def convert(row: JsonObject, rng: random.Random) -> JsonObject | None:
    """One dialogue in the pipeline's form, or None where it is no good to learn from."""
    tools = {tool["function"]["name"]: tool for tool in row["tools"]}
    messages = [dict(message) for message in row["messages"]]
    called: set[str] = set()
    spoken = ""
    for message in messages:
        content = message.get("content") or ""
        # Some sources write earlier calls as text in another format.
        if message["role"] == "assistant" and content.startswith("["):
            return None
        spoken += "\n" + content
        if message.get("tool_calls"):
            message["content"] = ""
            calls = [checked(call, tools, spoken) for call in message["tool_calls"]]
            if not all(calls):
                return None
            message["tool_calls"] = calls
            called |= {call["function"]["name"] for call in calls if call}
    if not messages[-1].get("tool_calls"):
        return None
    mark_trained(messages)
    others = [name for name in tools if name not in called]
    count = min(len(others), rng.choice([0, 1, 1, 2, 2, 3, 4]))
    names = [*sorted(called), *rng.sample(others, count)]
    rng.shuffle(names)
    used = used_parameters(messages)
    found = {
        "messages": [no_nulls(message) for message in messages],
        "tools": [shortened(tools[name], used.get(name, set()), rng) for name in names],
        "tool_format": "k2",
        "source": "dialogue_" + row["id"].split("_")[0],
    }
    return found if len(json.dumps(found, ensure_ascii=False)) < MAX_CHARACTERS else None


def mark_trained(messages: Sequence[JsonObject]) -> None:
    """Train the last call, and short questions that led to it."""
    messages[-1]["train"] = True
    for message in messages[:-1]:
        text = message.get("content") or ""
        if message["role"] == "assistant" and text.endswith(("?", "\uff1f")) and len(text) < 140:
            message["train"] = True


def no_nulls(message: JsonObject) -> JsonObject:
    return {key: value for key, value in message.items() if value is not None}


def checked(call: JsonObject, tools: dict[str, JsonObject], spoken: str) -> JsonObject | None:
    """The call with its keys in declared order, or None if it is invalid or invents values."""
    name = call["function"]["name"]
    schema = tools[name]["function"].get("parameters") or {}
    ordered = in_order(json.loads(call["function"]["arguments"]), schema)
    if ordered is None or not grounded(ordered, schema, spoken.lower()) or not jsonschema_rs.is_valid(schema, ordered):
        return None
    text = json.dumps(ordered, ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": name, "arguments": text}}


def in_order(value: Any, schema: JsonObject) -> Any:
    """Keys in the order of `properties`, at every depth; None for an undeclared key."""
    if isinstance(value, dict):
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return value if not value else None
        if set(value) - set(properties):
            return None
        parts = {key: in_order(value[key], properties[key]) for key in properties if key in value}
        return None if any(part is None for part in parts.values()) else parts
    if isinstance(value, list):
        items = [in_order(item, schema.get("items") or {}) for item in value]
        return None if any(item is None for item in items) else items
    return value


def grounded(value: Any, schema: JsonObject, spoken: str) -> bool:
    """Every free value stands in the conversation; what is chosen freely and left optional does too."""
    required = schema.get("required") or ()
    for name, part in value.items() if isinstance(value, dict) else ():
        one = (schema.get("properties") or {}).get(name, {})
        optional_choice = name not in required and (isinstance(part, bool) or "enum" in one)
        if optional_choice and not in_text(name if isinstance(part, bool) else part, spoken):
            return False
    return all(in_text(leaf, spoken) for leaf in leaves(value, schema))


def leaves(value: Any, schema: JsonObject) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (schema.get("properties") or {}).get(key, {}))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, schema.get("items") or {})
    elif not isinstance(value, bool) and "enum" not in schema:
        yield value


def in_text(value: Any, spoken: str) -> bool:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).lower()
    if text in spoken or text in spoken.replace(",", ""):
        return True
    # A date is written in another way, a percentage as a fraction: its figures must be there.
    figures = re.findall(r"\d+", text)
    words = re.findall(r"[^\W\d_]{3,}", text)
    if re.fullmatch(r"\d{4}-\d\d-\d\d(?:[t ][\d:]+)?z?", text):
        return str(int(figures[2])) in spoken and not text.endswith(":01")
    return len(words) > 1 and all(word in spoken for word in words) and len(text) < 60


def used_parameters(messages: Sequence[JsonObject]) -> dict[str, set[str]]:
    used: dict[str, set[str]] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            arguments = json.loads(call["function"]["arguments"])
            used.setdefault(call["function"]["name"], set()).update(arguments)
    return used


def shortened(tool: JsonObject, used: set[str], rng: random.Random) -> JsonObject:
    """The tool with short descriptions and without most optional parameters that nobody uses."""
    function = tool["function"]
    schema = json.loads(json.dumps(function.get("parameters") or {"type": "object"}))
    required = schema.get("required") or []
    described = rng.choice([0.0, 0.5, 1.0])
    properties: JsonObject = {}
    for name, one in (schema.get("properties") or {}).items():
        if name in used or name in required or (len(properties) < 4 and rng.random() < 0.6):
            text = one.pop("description", "") if isinstance(one, dict) else ""
            if text and rng.random() < described:
                one["description"] = clipped(text, 45)
            properties[name] = one
    parameters = {"type": "object", "properties": properties, "required": required}
    description = clipped(function.get("description") or "", 90)
    return {
        "type": "function",
        "function": {"name": function["name"], "description": description, "parameters": parameters},
    }


def clipped(text: str, limit: int) -> str:
    """The first sentence, without examples in parentheses, cut at a word."""
    text = re.sub(r"\s*\([^)]*\)", "", text)
    text = re.split(r"(?<=[.。])\s*|\n", text.strip())[0]
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0]
