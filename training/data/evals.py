"""What the evaluations ask, which must never be trained on."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.catalog import JsonObject

EVERYDAY = Path(__file__).parents[2] / "bench" / "everyday.json"


@dataclass(frozen=True)
class Evals:
    """Prompts and tools of the evaluations, in the form that `prompts_of` and `tool_key` give."""

    prompts: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()

    @property
    def tool_names(self) -> frozenset[str]:
        return frozenset(key.partition(" ")[0] for key in self.tools)

    def overlap(self, row: JsonObject) -> list[str]:
        """The prompts and tools of the evaluations that occur in a conversation."""
        return [
            *(text for text in prompts_of(row) if text in self.prompts),
            *(key for key in map(tool_key, row["tools"]) if key in self.tools),
        ]


def load_evals(folder: Path) -> Evals:
    prompts: set[str] = set()
    tools: set[str] = set()
    for path in folder.glob("*.jsonl.xz"):
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                row = row.get("request", row)
                prompts.update(prompts_of(row))
                tools.update(map(tool_key, row.get("tools") or ()))
    if not prompts:
        raise FileNotFoundError(f"{folder}: no evaluations, and without them nothing would be kept out")
    return Evals(frozenset(prompts | everyday()), frozenset(tools))


def everyday() -> set[str]:
    """The requests of `bench/everyday.json`. Its tools are anybody's (`get_weather` of a city): they may occur."""
    requests = json.loads(EVERYDAY.read_text(encoding="utf-8"))["requests"]
    return {
        text
        for request in requests
        for text in prompts_of({"messages": [{"role": "user", "content": request["user"]}]})
    }


def prompts_of(row: JsonObject) -> Iterator[str]:
    """The user's messages without case, punctuation and white space; single words may be chance."""
    for message in row.get("messages") or ():
        if message["role"] == "user" and isinstance(message.get("content"), str):
            text = "".join(c for c in message["content"].lower() if c.isalnum())
            if len(text) > 14:
                yield text


def tool_key(tool: JsonObject) -> str:
    """A tool's name with the names and types of its parameters, whatever its descriptions say."""
    function = tool.get("function", tool)
    properties = (function.get("parameters") or {}).get("properties") or {}
    types = {name: one.get("type") if isinstance(one, dict) else one for name, one in properties.items()}
    return f"{function['name']} {json.dumps(types, sort_keys=True)}"
