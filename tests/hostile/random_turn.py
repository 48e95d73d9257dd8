"""A turn of which everything is left to chance, and the engine that answers it."""

from __future__ import annotations

import contextlib
import json
import lzma
import random
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from keyword import iskeyword
from pathlib import Path
from typing import Any

from abruzzi import ChatRequest, Message, SamplingParams, Tool, ToolCall
from abruzzi.engines.base import Piece, Usage
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError
from abruzzi.protocol.messages import Function
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2, VARIANTS, Variant
from tests.hostile.engine import CUTS, BaseEngine, Ids
from tests.hostile.habits import HABITS, Scene, keys_of
from tests.hostile.judge import validator


class HostileEngine(BaseEngine):
    """Answers whatever it is asked by its habit. It stops at max_tokens, a piece a token, unless it is `deaf`."""

    def __init__(
        self,
        habit: str,
        seed: int,
        tools: Sequence[Tool],
        *,
        variant: Variant = K2,
        cut: str = "tokens",
        constrains: bool = False,
        pythonic: bool = False,
        deaf: bool = False,
        tokenizer: Tokenizer | None = None,
        ids: Ids = "right",
    ) -> None:
        super().__init__(variant, random.Random(f"{habit} {seed}"), cut, constrains, tokenizer, ids)
        self.habit = HABITS[habit]
        self.fails = self.habit.ending in ("silence", "error")
        self.cuts = self.habit.ending == "length" or self.habit.is_endless
        self.said: list[str] = []
        """Its first answer."""
        self._tools, self._pythonic, self._deaf = tools, pythonic, deaf

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        self._ask(prompt)
        self.cuts |= params.max_tokens is not None and not self._deaf
        most = None if self._deaf else params.max_tokens
        texts = self.habit.write(self._rng, Scene(self._tools, self._pythonic, prompt.calls))
        async with contextlib.aclosing(self._say(texts, most)) as pieces:
            async for piece in pieces:
                if len(self.asked) == 1:
                    self.said.append(piece.text)
                yield piece
                if piece.finish_reason:
                    return
        match self.habit.ending:
            case "error":
                raise EngineError("the engine's machine caught fire")
            case "stop" | "length" as reason:
                yield Piece("", reason, Usage(1, 1))


# A random turn


@dataclass(frozen=True, slots=True)
class Turn:
    habit: str
    request: ChatRequest
    engine: HostileEngine
    streamed: bool

    def __str__(self) -> str:
        one, request = self.engine.capabilities, self.request
        tools = ", ".join(tool.name for tool in request.tools)
        return (
            f"{self.habit}; {one.variant.name}, {request.tool_choice} of {tools}, {request.output}, "
            f"parallel={request.parallel_tool_calls}, constrains={one.constrains}, streamed={self.streamed}"
        )


ASK = "Do what has to be done."


@lru_cache(maxsize=4)
def real_tools(data: Path) -> tuple[Tool, ...]:
    """The tools of MCP servers whose schemas are schemas."""
    with lzma.open(data / "schemas" / "mcp_tools.jsonl.xz", "rt") as lines:
        values = [json.loads(line)["tool"]["function"] for line in lines]
    return tuple(
        Tool(value["name"], value.get("description"), value.get("parameters"))
        for value in values
        if not re.search(r"[\s<>\[\]]", value["name"]) and _is_schema(value.get("parameters"))
    )


def _is_schema(schema: Any) -> bool:
    try:
        return schema is None or (schema.get("type") == "object" and bool(validator(json.dumps(schema))))
    except ValueError:
        return False


def _is_writable(tool: Tool) -> bool:
    """Whether it may be called in the pythonic format."""
    return all(name.isidentifier() and not iskeyword(name) for name in (tool.name, *keys_of(tool)))


def random_turn(number: int, seed: int, tools: Sequence[Tool]) -> Turn:
    """Turn `number` of a run: each habit comes up in turn, all else by chance."""
    rng = random.Random(f"{seed} {number}")
    plain = [habit for habit in HABITS if not habit.endswith("for ever")]
    habits = plain + rng.sample([habit for habit in HABITS if habit not in plain], 4)
    habit = habits[number % len(habits)]
    output = rng.choice(("tool_calls", "tool_calls", "tool_calls", "raw", "pythonic"))
    own = _some(rng, [tool for tool in tools if _is_writable(tool)] if output == "pythonic" else tools)
    choice = rng.choice(("required", "required", own[0].name, "auto"))
    max_tokens = 8000 if HABITS[habit].is_endless else rng.choice((None, None, None, None, 30, 300))
    return _turn(rng, habit, number + seed, own, choice, output, max_tokens)


def required_turn(number: int, seed: int, tools: Sequence[Tool]) -> Turn:
    """The same, where a call must come and neither a limit nor a failure of the engine excuses that there is none."""
    rng = random.Random(f"{seed} {number} required")
    habits = [name for name, one in HABITS.items() if one.ending == "stop" and not one.is_endless]
    habits += rng.sample([name for name in HABITS if name.endswith("for ever")], 3)
    return _turn(rng, habits[number % len(habits)], number + seed, _some(rng, tools), "required", "tool_calls", None)


def _some(rng: random.Random, tools: Sequence[Tool]) -> list[Tool]:
    names: dict[str, Tool] = {}
    count = rng.choice((1, 1, 2, 3, 5, 12))
    while len(names) < count:
        tool = rng.choice(tools)
        names[tool.name] = tool
    return list(names.values())


def _turn(
    rng: random.Random, habit: str, seed: int, tools: Sequence[Tool], choice: str, output: Any, max_tokens: int | None
) -> Turn:
    variant = rng.choice(list(VARIANTS.values()))
    request = ChatRequest(
        _history(rng, tools),
        tools,
        tool_choice=choice,
        parallel_tool_calls=rng.random() < 0.5,
        output=output,
        thinking=rng.choice((None, True, False)) if variant.opens_thinking else None,
        params=SamplingParams(max_tokens=max_tokens, temperature=0.0),
    )
    engine = HostileEngine(
        habit,
        seed,
        tools,
        variant=variant,
        cut=rng.choice(list(CUTS)),
        constrains=rng.random() < 0.25,
        pythonic=output == "pythonic",
    )
    return Turn(habit, request, engine, rng.random() < 0.5)


def _history(rng: random.Random, tools: Sequence[Tool]) -> list[Message]:
    ask = Message("user", ASK)
    if rng.random() < 0.7:
        return [ask]
    call = ToolCall("call_1", Function(tools[0].name, "{}"))
    return [ask, Message(tool_calls=(call,)), Message("tool", "Done.", tool_call_id="call_1"), ask]
