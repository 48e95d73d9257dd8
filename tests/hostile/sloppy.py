"""An engine that knows the right calls and damages some."""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from abruzzi import ChatRequest, SamplingParams
from abruzzi.engines.base import Piece, Usage
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.markers import ARGUMENT_BEGIN as A
from abruzzi.protocol.markers import CALL_BEGIN as B
from abruzzi.protocol.markers import CALL_END as E
from abruzzi.protocol.markers import SECTION_BEGIN as S
from abruzzi.protocol.markers import SECTION_END as Z
from abruzzi.protocol.markers import THINK_BEGIN, THINK_END
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2, K2_5, K2_THINKING, Variant
from tests.hostile.damages import DAMAGES, RESPELLINGS, Writing
from tests.hostile.dialogues import Wanted, respelled
from tests.hostile.engine import CUTS, BaseEngine, Ids, written
from tests.hostile.judge import Outcome


def rest_of(text: str, right: Any) -> str:
    """What makes a whole of a JSON text that breaks off: as near to the right value as what stands allows."""
    return _Rest(text).value(right) or ""


class _Rest:
    """Reads a JSON text up to where it breaks off. Each method returns what is missing, or None where nothing is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def value(self, right: Any) -> str | None:
        match self.peek():
            case "":
                return spelled(right)
            case "{":
                return self.object(right if isinstance(right, dict) else {})
            case "[":
                return self.array(right if isinstance(right, list) else [])
            case '"':
                return self.string(right if isinstance(right, str) else "")
        token = re.compile(r"[\w.+-]*").match(self.text, self.at)
        assert token is not None
        self.at = token.end()
        if self.at < len(self.text):
            return None
        whole = spelled(right) if not isinstance(right, str | list | dict) else ""
        words = [word for word in (whole, "true", "false", "null") if word.startswith(token[0])]
        return words[0].removeprefix(token[0]) if words else ""

    def object(self, right: dict[str, Any]) -> str | None:
        self.at += 1
        left = dict(right)
        first = True
        while True:
            begun = self.at
            if (c := self.peek()) == "":
                return _members(left, comma=False) + "}"
            if c == "}" and first:
                self.at += 1
                return None
            if (rest := self.string_of(left)) is not None:
                return rest + _members(left, comma=True) + "}"
            key = self.last
            mine = left.pop(key, None)
            if self.peek() == "":
                return f": {spelled(mine)}{_members(left, comma=True)}}}"
            self.at += 1
            if (rest := self.value(mine)) is not None:
                return rest + _members(left, comma=True) + "}"
            if (c := self.peek()) == "":
                return _members(left, comma=True) + "}"
            self.at += 1
            if c == "}":
                return None
            first = False
            if self.at <= begun:
                return ""

    def string_of(self, left: dict[str, Any]) -> str | None:
        """A key; where it breaks off, the rest of one that is left, and its value."""
        begin = self.at
        if (broken := self.broken_string()) is None:
            with contextlib.suppress(ValueError):
                self.last = json.loads(self.text[begin : self.at])
            return None
        padding, begun = broken
        key = next((key for key in left if key.startswith(begun)), begun)
        return f"{padding}{spelled(key[len(begun) :])[1:]}: {spelled(left.pop(key, None))}"

    last = ""

    def array(self, right: list[Any]) -> str | None:
        self.at += 1
        left = list(right)
        if self.peek() == "]":
            self.at += 1
            return None
        while True:
            if self.peek() == "":
                return f"{', '.join(map(spelled, left))}]"
            if (rest := self.value(left.pop(0) if left else None)) is not None:
                return f"{rest}{''.join(f', {spelled(one)}' for one in left)}]"
            if (c := self.peek()) == "":
                return f"{''.join(f', {spelled(one)}' for one in left)}]"
            self.at += 1
            if c == "]":
                return None

    def string(self, right: str) -> str | None:
        if (broken := self.broken_string()) is None:
            return None
        padding, begun = broken
        return padding + spelled(right[len(begun) :] if right.startswith(begun) else "")[1:]

    def broken_string(self) -> tuple[str, str] | None:
        """Reads a string. Where it breaks off: what an escape lacks, and the characters so far."""
        found = re.compile(r'"((?:[^"\\]|\\.)*\\?)("?)', re.DOTALL).match(self.text, self.at)
        self.at = found.end() if found else len(self.text)
        if found is None or found[2]:
            return None
        for padding in ("", "n", "0", "00", "000", "0000"):
            with contextlib.suppress(ValueError):
                return padding, json.loads(f'"{found[1]}{padding}"')
        return "", "\x00"


def _members(left: Mapping[str, Any], *, comma: bool) -> str:
    members = ", ".join(f"{spelled(key)}: {spelled(one)}" for key, one in left.items())
    return f", {members}" if members and comma else members


def spelled(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# The sloppy engine


class SloppyEngine(BaseEngine):
    """Writes the right calls, each damaged with probability `p` by one of `kinds`; goes on from whatever stands.

    `again`: a call that was damaged may be damaged again when it is written anew. `respell`: the arguments are spelled
    in odd ways, which is right. `kept` holds, by their position, the arguments that were written without a flaw and
    have to come out as they are; `damaged` the classes that were used.
    """

    def __init__(
        self,
        wanted: Wanted,
        seed: int,
        *,
        p: float = 0.25,
        kinds: Sequence[str] = tuple(DAMAGES),
        again: bool = True,
        respell: bool = False,
        speaks: bool = True,
        variant: Variant = K2,
        cut: str = "anywhere",
        constrains: bool = False,
        tokenizer: Tokenizer | None = None,
        ids: Ids = "right",
    ) -> None:
        super().__init__(variant, random.Random(f"{wanted.id} {seed}"), cut, constrains, tokenizer, ids)
        self.wanted = wanted
        self.kept: dict[int, str] = {}
        self.damaged: list[str] = []
        self.gave_up = False
        """Whether its last answer ended behind a whole call that was not the last one: the rest is nobody's to ask."""
        self._p, self._kinds, self._again = p, kinds, again
        self._spoiled: set[int] = set()
        thought = "I look it up." if variant.thinks else ""
        opens = THINK_BEGIN if variant.thinks and not variant.opens_thinking else ""
        closes = THINK_END if variant.thinks else ""
        self._start = f"{opens}{thought}{closes}{wanted.content if speaks else ''}{S}"
        self._arguments = [text for _, text in wanted.calls]
        if respell:
            self._arguments = [respelled(json.loads(text), self._rng) for text in self._arguments]

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        self._ask(prompt)
        async with contextlib.aclosing(self._say(iter(self.rest(written(prompt))), params.max_tokens)) as pieces:
            async for piece in pieces:
                yield piece
                if piece.finish_reason:
                    return
        yield Piece("", "stop", Usage(1, 1))

    def rest(self, stands: str) -> list[str]:
        """What it writes behind what stands."""
        whole, begun = _standing(stands)
        self.kept = {i: text for i, text in self.kept.items() if i < whole}
        self.kept = {i: text for i, text in self.kept.items() if i < whole}
        self._spoiled = {i for i in self._spoiled if i <= whole}
        self.gave_up = False
        count = len(self._arguments)
        if whole >= count:
            if begun is not None:  # a call too many
                return [rest_of(begun.partition(A)[2], {}), E, Z]
            return [] if stands.endswith(Z) else [Z]
        if begun is None:
            return self._from(whole, before=self._missing(stands, whole))
        _, mark, arguments = begun.partition(A)
        if not mark:
            return self._from(whole, before="", header=begun)
        right = self._arguments[whole]
        if right.startswith(arguments):
            self.kept[whole], rest = right, right[len(arguments) :]
        else:
            rest = rest_of(arguments, json.loads(right))
        return [rest, E, *(self._from(whole + 1, before="") if whole + 1 < count else (Z,))]

    def _missing(self, stands: str, whole: int) -> str:
        """What belongs between what stands and the next call."""
        if whole:
            return S if stands.endswith(Z) else ""
        if self._start.startswith(stands):
            return self._start.removeprefix(stands)
        return "" if stands.endswith(S) else S

    def _from(self, first: int, *, before: str, header: str | None = None) -> list[str]:
        """The calls from `first` on, of which `header` stands already."""
        texts: list[str] = []
        is_packed = False
        for i in range(first, len(self._arguments)):
            call = self._pristine(i)
            if i == first:
                call.before = before
            if i == first and header is not None:
                call.begin, call.stands = "", header
            call = self._damaged(i, call)
            if is_packed:
                call.begin = ""
            texts.append(str(call))
            if call.is_cut:
                self.gave_up = call.arguments == call.right
                break
            is_packed = call.is_packed
        return texts

    def _damaged(self, i: int, call: Writing) -> Writing:
        """Call `i` as it will be written, right or wrong."""
        if self._rng.random() < self._p and (i not in self._spoiled or self._again):
            for kind in self._rng.sample(self._kinds, len(self._kinds)):
                candidate = replace(call)
                if DAMAGES[kind](candidate, self._rng) is not False and str(candidate) != str(call):
                    self.damaged.append(kind)
                    self._spoiled.add(i)
                    self.kept.pop(i, None)
                    if kind in RESPELLINGS:
                        self.kept[i] = candidate.arguments
                    return candidate
        self.kept[i] = call.arguments
        return call

    def _pristine(self, i: int) -> Writing:
        tool, text = self.wanted.calls[i][0], self._arguments[i]
        index = self.wanted.first_index + i
        is_last = i == len(self._arguments) - 1
        return Writing(tool, index, text, text, f"functions.{tool.name}:{index}", is_last, after=Z if is_last else "")


def _standing(text: str) -> tuple[int, str | None]:
    """How many calls of a turn are whole, and what stands of one that isn't, behind its marker."""
    whole = 0
    at = text.find(B)
    while at >= 0:
        begun = text[at + len(B) :]
        header, mark, rest = begun.partition(A)
        try:
            _, end = json.JSONDecoder().raw_decode(rest) if mark else (None, -1)
        except ValueError:
            end = -1
        if end < 0 or not rest[end:].lstrip().startswith(E):
            return whole, begun
        whole += 1
        at = text.find(B, at + len(B) + len(header) + len(A) + end)
    return whole, None


def changed(engine: SloppyEngine, outcome: Outcome) -> list[tuple[int, str]]:
    """The calls that were written without a flaw and didn't come out as they were."""
    texts = dict(enumerate(arguments for _, arguments in outcome.calls))
    count = len(texts) - 1 if outcome.is_ours else len(engine.wanted.calls)
    return [(i, text) for i, text in engine.kept.items() if i < count and texts.get(i) != text]


def sloppy_turn(wanted: Wanted, seed: int, **options: Any) -> tuple[SloppyEngine, ChatRequest]:
    """The dialogue's turn, by a member of K2's family, required or not."""
    rng = random.Random(f"{seed} {wanted.id}")
    choice = rng.choice(("auto", "required"))
    options = {
        "variant": rng.choice((K2, K2, K2_THINKING, K2_5)),
        "cut": rng.choice(list(CUTS)),
        "speaks": choice == "auto",
        **options,
    }
    return SloppyEngine(wanted, seed, **options), ChatRequest(wanted.messages, wanted.tools, tool_choice=choice)
