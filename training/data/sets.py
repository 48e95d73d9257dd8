"""Several requests to one set of tools, each a conversation of its own: what differs between them is what is asked, so
what to do must be learned from that. And the tools, which are most of a prompt, are computed once (`lora/batches.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from training.data import material
from training.data.catalog import JsonObject, Spec
from training.data.chat import Chat
from training.data.declaration import Declared, declare
from training.data.irrelevant import REFUSED, irrelevant
from training.data.maker import REFUSALS, Maker
from training.data.request import Request, phrase, varied
from training.data.rivals import ABLE, keys, rivals_of
from training.data.signatures import Signature, Signatures
from training.data.slots import is_converted
from training.data.stories import Story, load_stories, tell

Rows = list[JsonObject]

# How many tools a set has, and how often.
_TOOLS, _OFTEN = (1, 2, 3, 4, 5, 6, 8, 11, 16), (24, 20, 16, 12, 9, 7, 6, 4, 2)
_KINDS: Mapping[str, int] = {
    "single": 38,
    "several": 14,
    "together": 22,
    "beyond": 18,
    "strange": 6,
    "lacking": 6,
    "question": 4,
}
_ENDS = re.compile(r"[.!?]$")
# Sets of the catalogue and of signatures, and how much of what the stages before had.
_CATALOGUE, _STORIES, _SIGNATURES = 700, 650, 50
# How often a story is told in its set.
_TOLD = 0.6
_SHARE, _DIALOGUES, _IRRELEVANT = 0.4, 0.5, 0.25
# How many sets are about a tool that wants values in another form than they are said.
_CONVERTING = 0.2
# How often a result is answered.
_ANSWERED = 0.3
_GLUE = material.pools("glue")
# Words that say nothing of what a tool is about.
_COMMON = keys(
    "with from this that what your their have list find show give tell make many much does date name number value "
    "between given about into over each would could need want please help type data information calculate compute "
    "return using based specific certain user which where when there they them some more than like search retrieve "
    "create update detail check current result"
)


def words_of(text: str) -> frozenset[str]:
    found = re.findall(r"[a-z]{4,}", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    return frozenset(word.removesuffix("s") for word in found) - _COMMON


def about(spec: Spec) -> frozenset[str]:
    return words_of(" ".join([*spec.names, *spec.descriptions, spec.deed]))


def told(tool: JsonObject) -> frozenset[str]:
    return words_of(f"{tool['function']['name'].replace('_', ' ')} {tool['function'].get('description', '')}")


class Sets:
    """Makes sets of the catalogue's tools."""

    def __init__(self, maker: Maker) -> None:
        self._maker, self._rng = maker, maker.rng
        self._about = {spec.key: about(spec) for spec in maker.part.specs}
        self._converting = [
            spec for spec in maker.part.specs if any(is_converted(one.generator) for one in spec.params)
        ]
        known = {spec.key: spec for spec in maker.part.specs}
        self._stories = [
            (story, [known[key] for key in story.keys]) for story in load_stories() if known.keys() >= set(story.keys)
        ]

    def made(self) -> Rows:
        return self._of(self._specs(self._rng.choices(_TOOLS, _OFTEN)[0]))

    def stories(self) -> Rows:
        """A set about a story: it is told now and then, and some of its tools are asked for alone."""
        rng = self._rng
        story, own = rng.choice(self._stories)
        others = [spec for spec in self._specs(rng.choices((1, 2, 3, 4), (40, 30, 20, 10))[0]) if self._fits(spec, own)]
        return self._of([*own, *(others if rng.random() < 0.7 else ())], story)

    def _fits(self, spec: Spec, own: Sequence[Spec]) -> bool:
        return not any(self._alike(spec, other) for other in own)

    def _of(self, specs: Sequence[Spec], story: Story | None = None) -> Rows:
        rng, maker = self._rng, self._maker
        tools: dict[str, tuple[Spec, Declared]] = {}
        for spec in specs:
            tool = as_fractions(spec, declare(spec, rng, kept=0.9 if story else 0.65), rng)
            tools.setdefault(tool.name, (spec, tool))
        several = list(tools.values())
        declared = [tool.openai for _, tool in several]
        rng.shuffle(declared)
        opening = maker.opening(0.12).messages
        rows: dict[str, JsonObject] = {}
        for _ in range(rng.randint(4, 6) + len(specs) // 4):
            kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
            chat = Chat(list(opening))
            if story and rng.random() < _TOLD:
                kind, is_made = "story", self._tell(story, chat, tools)
            else:
                is_made = self._turn(kind, chat, several)
            if is_made:
                asked = chat.messages[len(opening)]["content"]
                rows.setdefault(asked, chat.done(declared, f"set_{kind}"))
        return list(rows.values())

    def _specs(self, count: int) -> list[Spec]:
        """Tools of which none does another's work; some of the same field."""
        rng, every = self._rng, self._maker.part.specs
        chosen = [rng.choice(self._converting if rng.random() < _CONVERTING else every)]
        near = [spec for spec in every if spec.domain == chosen[0].domain]
        for _ in range(count * 8):
            if len(chosen) == count:
                break
            spec = rng.choice(near if rng.random() < 0.4 else every)
            if not any(self._alike(spec, other) for other in chosen):
                chosen.append(spec)
        return chosen

    def _alike(self, one: Spec, other: Spec, most: int = 1) -> bool:
        if one.key == other.key or other.key in rivals_of(one.key):
            return True
        return len(self._about[one.key] & self._about[other.key]) > most

    def _turn(self, kind: str, chat: Chat, several: Sequence[tuple[Spec, Declared]]) -> bool:
        """Add a request and what to do; False where there is none of this kind."""
        rng = self._rng
        spec, _ = rng.choice(several)
        if kind in ("single", "several", "together"):
            return self._calls(kind, chat, several)
        if kind == "beyond" and spec.beyond:
            text = phrase(spec, rng.choice(spec.beyond), rng).text
            asked = words_of(text)
            # Another tool of the set might do it.
            if any(asked & self._about[other.key] for other, _ in several if other is not spec):
                return False
            return self._said(chat, text, rng.choice(REFUSED))
        if kind == "strange":
            other = rng.choice(self._maker.part.specs)
            if other.key in ABLE or any(one.key in ABLE or self._alike(one, other, 0) for one, _ in several):
                return False
            answer = rng.choice([*REFUSED, rng.choice(REFUSALS).format(deed=other.deed)])
            return self._said(chat, self._maker.request(other).text, answer)
        if kind == "lacking" and spec.lacking:
            required = {param.slot for param in spec.params if param.required}
            text, question = rng.choice(spec.lacking)
            return bool(required) and self._said(chat, varied(phrase(spec, text, rng).text, rng), question)
        if kind == "question":
            text, answer = rng.choice(self._maker.part.questions)
            if words_of(text) & frozenset[str]().union(*(self._about[one.key] for one, _ in several)):
                return False
            return not any(one.key in ABLE for one, _ in several) and self._said(chat, varied(text, rng), answer)
        return False

    def _tell(self, story: Story, chat: Chat, tools: Mapping[str, tuple[Spec, Declared]]) -> bool:
        by_key = {spec.key: (spec, tool) for spec, tool in tools.values()}
        if not by_key.keys() >= set(story.keys):
            return False
        specs = [by_key[key][0] for key in story.keys]
        for _ in range(8):
            text, done = tell(self._rng.choice(story.texts), specs, self._rng)
            calls: list[tuple[Declared, Mapping[str, Any]]] = []
            for spec, request in done:
                tool = by_key[spec.key][1]
                calls += [(tool, call) for call in request.calls if (tool, call) not in calls]
            if all(tool.names.keys() >= call.keys() for tool, call in calls):
                chat.user(text)
                chat.call(calls)
                return True
        return False

    def _said(self, chat: Chat, text: str, answer: str) -> bool:
        chat.user(text)
        chat.say(answer)
        return True

    def _calls(self, kind: str, chat: Chat, several: Sequence[tuple[Spec, Declared]]) -> bool:
        rng = self._rng
        if kind != "together":
            chosen = [rng.choice(several)]
        elif len(several) > 1:
            chosen = rng.sample(several, min(len(several), rng.choice([2, 2, 2, 3, 3, 4])))
        else:
            chosen = list(several) * rng.choice([2, 2, 3, 4])
        texts, calls, done = [], [], []
        if kind == "several" and not chosen[0][0].several:
            return False
        for spec, tool in chosen:
            many = kind == "several" or (kind == "together" and len(several) > 1 and rng.random() < 0.3)
            request = self._request(spec, tool, spec.several if many and spec.several else spec.requests)
            if request is None:
                return False
            texts.append(request.text)
            calls += [(tool, call) for call in request.calls if (tool, call) not in calls]
            done.append((spec, request))
        chat.user(linked(texts, rng))
        chat.call(calls)
        # What was called once isn't called again: its result is told.
        is_plain = sum(len(request.calls) for _, request in done) == len(calls)
        if is_plain and len(calls) < 4 and rng.random() < _ANSWERED and all(spec.results for spec, _ in done):
            self._maker.answer(chat, *done)
        return len(calls) >= len(texts)

    def _request(self, spec: Spec, tool: Declared, templates: Sequence[str]) -> Request | None:
        """One that needs no parameter which the tool doesn't have this time."""
        for _ in range(8):
            template = self._rng.choice(templates)
            if self._rng.random() < 0.15:
                template = doubled(spec, template)
            request = phrase(spec, template, self._rng)
            if all(tool.names.keys() >= call.keys() for call in request.calls):
                return request
        return None


def doubled(spec: Spec, template: str) -> str:
    """A request for several values of one parameter as one for several of another, too."""
    listed = re.findall(r"\$\*([a-z]+)", template)
    for slot in re.findall(r"\$([a-z]+)", template) if len(listed) == 1 and "((" not in template else ():
        if spec.param(slot).kind in "sine":
            return template.replace(f"${slot}", f"$*{slot}")
    return template


def as_fractions(spec: Spec, tool: Declared, rng: random.Random) -> Declared:
    """The tool with the rates that users say in percent as fractions, where it doesn't say that it wants percent."""
    said = " ".join([*spec.requests, *spec.several])
    properties = tool.openai["function"]["parameters"]["properties"]
    found = set()
    for param in spec.params:
        name = tool.names.get(param.slot)
        percent = re.search(rf"\$(?:{param.slot}|{{{param.slot}}})(?: ?%| percent)", said)
        if name is None or param.kind != "n" or not percent or "percent" in name.lower():
            continue
        if ("percent" not in properties[name].get("description", "") and rng.random() < 0.9) or rng.random() < 0.4:
            found.add(param.slot)
            properties[name].pop("description", None)
            if rng.random() < 0.5:
                plain = param.names[0]
                properties[name]["description"] = rng.choice(
                    (f"The {plain} as a decimal.", f"{plain.capitalize()}, e.g. 0.05 for 5%", f"The {plain}.")
                )
    return replace(tool, fractions=frozenset(found))


def linked(texts: Sequence[str], rng: random.Random) -> str:
    """Several requests as one message, with words around them now and then."""
    ended = [text if _ENDS.search(text) else f"{text}." for text in texts]
    bare = [_ENDS.sub("", text) for text in texts]
    lower = [text[0].lower() + text[1:] if text[1:2].islower() and " " in text else text for text in bare]
    count = {2: "two", 3: "three", 4: "four"}.get(len(texts))
    if len(texts) == 1:
        text = texts[0]
    else:
        led = [f"{rng.choice(_GLUE['then'])} {text}." for text in lower]
        text = rng.choice(
            (
                " ".join(ended),
                " ".join([ended[0], *led[1:]]),
                " ".join([ended[0], *led[1:]]),
                f"First, {lower[0]}. " + " ".join(led[1:]),
                f"{bare[0]}, {''.join(f'{text}, ' for text in lower[1:-1])}and {lower[-1]}.",
                "\n".join(f"{i}. {text}" for i, text in enumerate(ended, 1)),
                "\n".join(ended),
                f"I need {count} things: " + "; ".join(lower) + ".",
                f"Can you help me with {count} things? " + " ".join([ended[0], *led[1:]]),
                "; ".join(lower),
                " and ".join([bare[0], *lower[1:]]) + ".",
                " and then ".join([bare[0], *lower[1:]]) + ".",
            )
        )
    share = 0.3 if len(texts) > 1 else 0.1
    if rng.random() < share:
        text = f"{rng.choice(_GLUE['before'])} {text}"
    if rng.random() < share / 2:
        text = f"{text if _ENDS.search(text) else text + '.'} {rng.choice(_GLUE['after'])}"
    return f'"{text}"' if rng.random() < 0.03 else text


def fifth_stage(
    rows: Sequence[JsonObject], tools: Sequence[Signature], maker: Maker, rng: random.Random, scale: float = 1.0
) -> Iterator[Rows]:
    """Sets, and of what the stages before had what sets don't teach."""
    sets, signatures = Sets(maker), Signatures(tools, rng)
    for _ in range(round(_CATALOGUE * scale)):
        yield sets.made()
    for _ in range(round(_STORIES * scale)):
        yield sets.stories()
    for _ in range(round(_SIGNATURES * scale)):
        yield signatures.shared()
    real = [row for row in rows if row["source"].startswith("dialogue_")]
    for row in real:
        if rng.random() < _DIALOGUES:
            yield [row, *_stranger(row, real, rng)]
    for row in irrelevant(rows, rng):
        if rng.random() < _IRRELEVANT:
            yield [row]
    for row in rows:
        share = 1 if row["source"] in ("plain_chat", "toolless") else _SHARE
        if not row["source"].startswith("dialogue_") and rng.random() < share:
            yield [row]


def _stranger(row: JsonObject, real: Sequence[JsonObject], rng: random.Random) -> Rows:
    """Another dialogue's request to the same tools, which can't do it."""
    known = frozenset[str]().union(*map(told, row["tools"]))
    for _ in range(20):
        other = rng.choice(real)
        first = other["messages"][0]
        if first["role"] == "user" and row["messages"][0]["role"] == "user":
            strange = words_of(first["content"]).union(*map(told, other["tools"]))
            if not known & strange and first["content"].isascii() == row["messages"][0]["content"].isascii():
                answer = {"role": "assistant", "content": rng.choice(REFUSED), "train": True}
                return [{**row, "messages": [first, answer], "source": "irrelevant"}]
    return []
