"""Makes conversations of every kind from one part's material."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from training.data import slots
from training.data.catalog import JsonObject, Spec
from training.data.chain import arguments_of, said
from training.data.chat import Chat
from training.data.declaration import Declared, declare, plain_weather
from training.data.parts import Part
from training.data.request import Request, expand, joined, phrase, varied
from training.data.result import capital, result
from training.data.rivals import ABLE, KNOWING, keys, rivals_of, strange_to

REFUSALS = (
    "I'm sorry, I can't {deed} here: none of my tools does that.",
    "Sorry, I have no tool to {deed}.",
    "I can't {deed} with the tools I have.",
    "Unfortunately I'm not able to {deed} here.",
    "None of the tools I have can {deed}, sorry.",
)
# Where no tools are declared at all.
TOOLLESS = (
    "I can't {deed} here, since I have no tools in this conversation.",
    "I'm sorry, but I have no way to {deed} here: no tools were given to me.",
    "Without a tool for it I can't {deed}. Is there something else that I can help you with?",
    "I can't {deed} from here, sorry. I can only answer in words.",
    "To {deed} I would need a tool, and I have none at the moment.",
)
FOLLOW_UPS = ("What about ${s}?", "And ${s}?", "and for ${s}?", "Same for ${s}, please.", "and ${s}")
# Where a small model drops brackets, slashes or quotes.
HARD_TO_COPY = keys("calc readfile issues getrepo shell sql python fetch grep writefile websearch playsong weather")


class Maker:
    """A method a kind of conversation; all draw from one source of chance."""

    def __init__(self, part: Part, specs: Mapping[str, Spec], rng: random.Random) -> None:
        self.part, self.specs, self.rng = part, specs, rng

    # What conversations are made of

    def spec(self) -> Spec:
        """A tool; the weather, which everybody tries first, more often than others."""
        if self.rng.random() < 0.04:
            for spec in self.part.specs:
                if spec.key == "weather":
                    return spec
        return self.rng.choice(self.part.specs)

    def partners(self) -> tuple[Spec, Spec]:
        while True:
            first, second = self.spec(), self.spec()
            if first.key != second.key and second.key not in rivals_of(first.key):
                return first, second

    def request(self, spec: Spec) -> Request:
        return phrase(spec, self.rng.choice(spec.requests), self.rng)

    def declared(self, spec: Spec, calls: Sequence[Mapping[str, Any]], python: bool = False) -> Declared:
        used = [slot for call in calls for slot in call]
        tool = declare(spec, self.rng, used, python=python)
        if spec.key == "weather" and self.rng.random() < 0.35 and not used[1:]:
            tool = plain_weather(self.rng)
        return tool

    def pair(self, partners: tuple[Spec, Spec], requests: Sequence[Request], python: bool = False) -> list[Declared]:
        """Two tools under different names."""
        first = self.declared(partners[0], requests[0].calls, python)
        while True:
            second = self.declared(partners[1], requests[1].calls, python)
            if second.name != first.name:
                return [first, second]

    def tools(
        self, needed: Sequence[Declared], count: int | None = None, banned: frozenset[str] = frozenset()
    ) -> list[JsonObject]:
        """The declarations of the needed tools among `count` others, in any order."""
        rng = self.rng
        if count is None:
            count = rng.choices([0, 1, 2, 3, 4, 5, 6, 8, 11], [22, 14, 16, 15, 12, 8, 6, 5, 2])[0]
        out = banned.union(*(rivals_of(tool.key) for tool in needed))
        chosen = {tool.name: tool.openai for tool in needed}
        taken = {tool.key for tool in needed}
        near = [spec for spec in self.part.specs if spec.domain in {self.specs[key].domain for key in taken}]
        for _ in range(count * 6):
            if len(chosen) >= count + len(needed):
                break
            if self.part.strangers and not banned and rng.random() < 0.12:
                tool = rng.choice(self.part.strangers)
                if strange_to(tool, [self.specs[key] for key in taken]):
                    chosen.setdefault(tool["function"]["name"], tool)
                continue
            spec = rng.choice(near) if near and rng.random() < 0.3 else rng.choice(self.part.specs)
            if spec.key in out or spec.key in taken or not taken.isdisjoint(rivals_of(spec.key)):
                continue
            other = declare(spec, rng)
            if other.name not in chosen:
                taken.add(spec.key)
                chosen[other.name] = other.openai
        declarations = list(chosen.values())
        rng.shuffle(declarations)
        return declarations

    def few(self) -> int:
        return self.rng.choices([0, 1, 2, 3, 5], [30, 25, 20, 15, 10])[0]

    def opening(self, share: float) -> Chat:
        """A conversation that begins, now and then, with a system prompt of the user's own."""
        if self.rng.random() < share:
            return Chat([{"role": "system", "content": self.rng.choice(self.part.systems)}])
        return Chat([])

    def called(self, spec: Spec, request: Request, share: float = 0.25) -> tuple[Chat, Declared]:
        """A request and its calls."""
        tool = self.declared(spec, request.calls)
        chat = self.opening(share)
        chat.user(request.text)
        chat.call([(tool, call) for call in request.calls])
        return chat, tool

    def answer(self, chat: Chat, *done: tuple[Spec, Request]) -> None:
        """The results of the calls just made, and what to say of them."""
        answers = []
        for spec, request in done:
            for call in request.calls:
                content, answer = result(spec, request, call, self.rng)
                chat.result(content)
                answers.append(capital(answer))
        chat.say(" ".join(dict.fromkeys(answers)))

    # Kinds of conversations

    def single(self) -> JsonObject:
        spec = self.spec()
        chat, tool = self.called(spec, self.request(spec))
        return chat.done(self.tools([tool]), "single")

    def copying(self) -> JsonObject:
        spec = self.rng.choice([spec for spec in self.part.specs if spec.key in HARD_TO_COPY])
        chat, tool = self.called(spec, self.request(spec), 0.1)
        return chat.done(self.tools([tool]), "copying")

    def structured(self) -> JsonObject:
        """Lists and objects as arguments."""
        fit = [spec for spec in self.part.specs for p in spec.params if p.kind[-1] == "]" or p.kind[0] in "o@"]
        while True:
            spec = self.rng.choice(fit)
            request = self.request(spec)
            if any(isinstance(value, list | dict) for value in request.calls[0].values()):
                break
        chat, tool = self.called(spec, request, 0.1)
        return chat.done(self.tools([tool], self.few()), "structured")

    def same_tool(self) -> JsonObject:
        """Several calls of one tool."""
        spec = self.rng.choice([spec for spec in self.part.specs if spec.several])
        request = phrase(spec, self.rng.choice(spec.several), self.rng)
        chat, tool = self.called(spec, request)
        if self.rng.random() < 0.35 and spec.results:
            self.answer(chat, (spec, request))
        return chat.done(self.tools([tool]), "same_tool")

    def two_tools(self) -> JsonObject:
        first, second = self.partners()
        requests = [self.request(first), self.request(second)]
        tools = self.pair((first, second), requests)
        chat = self.opening(0.25)
        chat.user(joined([request.text for request in requests], self.rng))
        chat.call([(tool, request.calls[0]) for tool, request in zip(tools, requests, strict=True)])
        if self.rng.random() < 0.35 and first.results and second.results:
            self.answer(chat, (first, requests[0]), (second, requests[1]))
        return chat.done(self.tools(tools), "two_tools")

    def after_result(self) -> JsonObject:
        spec = self.rng.choice([spec for spec in self.part.specs if spec.results])
        request = self.request(spec)
        chat, tool = self.called(spec, request)
        self.answer(chat, (spec, request))
        if self.rng.random() < 0.12:
            chat.user(self.rng.choice(["Thanks!", "thank you", "Great, thanks.", "thx"]))
            chat.say(self.rng.choice(["You're welcome!", "You're welcome! Anything else?", "My pleasure!"]))
        return chat.done(self.tools([tool], self.few()), "after_result")

    def going_on(self) -> JsonObject:
        """A second request in the same conversation, so that the calls' index goes on counting."""
        first, second = self.partners()
        if not first.results:
            first = self.rng.choice([spec for spec in self.part.specs if spec.results])
            if second.key == first.key or second.key in rivals_of(first.key):
                return self.going_on()
        requests = [self.request(first), self.request(second)]
        tools = self.pair((first, second), requests)
        chat = self.opening(0.25)
        for spec, tool, request in zip((first, second), tools, requests, strict=True):
            chat.user(request.text)
            chat.call([(tool, request.calls[0])])
            if spec.results and (spec is first or self.rng.random() < 0.4):
                self.answer(chat, (spec, request))
        return chat.done(self.tools(tools, self.few()), "going_on")

    def follow_up(self) -> JsonObject:
        """`And in Paris?`: the same tool again, the other values left out."""
        rng = self.rng
        fit = [s for s in self.part.specs if s.results and sum(p.required for p in s.params) == 1 and s.several]
        while True:
            spec = rng.choice(fit)
            slot = next(param.slot for param in spec.params if param.required)
            request = self.request(spec)
            if set(request.calls[0]) == {slot}:
                break
        chat, tool = self.called(spec, request)
        self.answer(chat, (spec, request))
        again = phrase(spec, rng.choice(FOLLOW_UPS).replace("{s}", slot), rng)
        chat.user(again.text)
        chat.call([(tool, again.calls[0])])
        if rng.random() < 0.5:
            self.answer(chat, (spec, again))
        return chat.done(self.tools([tool], self.few()), "follow_up")

    def chain(self) -> JsonObject:
        rng = self.rng
        chain = rng.choice(self.part.chains)
        drawn = {name: slots.draw(rng, generator) for name, generator in chain.lets}
        values = {name: slot.value for name, slot in drawn.items()}
        # A number that comes back in a result is written in figures.
        words = {name: str(slot.value) if isinstance(slot.value, int) else slot.text for name, slot in drawn.items()}
        calls = [(step.key, arguments_of(step, self.specs[step.key], words, values)) for step in chain.steps]
        used: dict[str, list[str]] = {}
        for key, arguments in calls:
            used.setdefault(key, []).extend(arguments)
        tools: dict[str, Declared] = {}
        while len({tool.name for tool in tools.values()}) < len(used):
            tools = {key: declare(self.specs[key], rng, uses) for key, uses in used.items()}
        chat = self.opening(0.25)
        chat.user(said(expand(rng.choice(chain.requests), rng), words))
        for (key, arguments), step in zip(calls, chain.steps, strict=True):
            chat.call([(tools[key], arguments)])
            chat.result(said(step.result, words, escape=step.result[0] in "[{"))
        chat.say(said(chain.answer, words))
        return chat.done(self.tools(list(tools.values()), self.few()), "chain")

    def question(self) -> JsonObject:
        """Knowledge, chat and writing, with tools that have nothing to do with it."""
        question, answer = self.rng.choice(self.part.questions)
        chat = self.opening(0.25)
        chat.user(varied(question, self.rng))
        chat.say(answer)
        return chat.done(self.tools([], self.rng.choice([1, 1, 2, 3, 4, 5, 7]), KNOWING), "question")

    def plain_chat(self) -> JsonObject:
        """The same without tools."""
        question, answer = self.rng.choice(self.part.chats)
        chat = self.opening(0.2)
        chat.user(varied(question, self.rng))
        chat.say(answer)
        if self.rng.random() < 0.25:
            question, answer = self.rng.choice(self.part.questions)
            chat.user(question)
            chat.say(answer)
        return chat.done([], "plain_chat")

    def toolless(self) -> JsonObject:
        """A request that needs a tool where there is none."""
        spec = self.rng.choice([spec for spec in self.part.specs if spec.key not in ABLE])
        chat = self.opening(0.2)
        several = spec.several and self.rng.random() < 0.2
        chat.user(phrase(spec, self.rng.choice(spec.several if several else spec.requests), self.rng).text)
        chat.say(self.rng.choice(TOOLLESS).format(deed=spec.deed))
        if self.rng.random() < 0.3:
            question, answer = self.rng.choice(self.part.questions)
            chat.user(varied(question, self.rng))
            chat.say(answer)
        return chat.done([], "toolless")

    def refusal(self) -> JsonObject:
        """A request that none of the tools can do."""
        spec = self.rng.choice([spec for spec in self.part.specs if spec.key not in ABLE])
        request = self.request(spec)
        near = {other.key for other in self.part.specs if other.domain == spec.domain}
        chat = self.opening(0.15)
        chat.user(request.text)
        chat.say(self.rng.choice(REFUSALS).format(deed=spec.deed))
        banned = ABLE | near | rivals_of(spec.key)
        return chat.done(self.tools([], self.rng.choice([1, 1, 2, 2, 3, 4, 6]), banned), "refusal")

    def missing(self) -> JsonObject:
        """Something needed is missing: ask, and call once it is said."""
        rng = self.rng
        spec = rng.choice([spec for spec in self.part.specs if spec.lacking])
        asked, question = rng.choice(spec.lacking)
        required = [param.slot for param in spec.params if param.required]
        chat = self.opening(0.25)
        chat.user(varied(asked, rng))
        chat.say(question)
        if len(required) == 1 and rng.random() < 0.55:
            reply = rng.choice(["${s}", "${s}", "${s} please", "It's ${s}.", "${s}, thanks"])
            request = phrase(spec, reply.replace("{s}", required[0]), rng)
            chat.user(request.text)
            tool = self.declared(spec, request.calls)
            chat.call([(tool, request.calls[0])])
        else:
            tool = self.declared(spec, [])
        return chat.done(self.tools([tool], self.few()), "missing")

    def pythonic(self) -> JsonObject:
        """Calls in Python syntax, which knows no name with a hyphen."""
        rng = self.rng
        chat = Chat([{"role": "system", "content": rng.choice(self.part.pythonic)}])
        kind = rng.random()
        if kind < 0.7:
            if kind < 0.5:
                spec = self.spec()
                request = self.request(spec)
            else:
                spec = rng.choice([spec for spec in self.part.specs if spec.several])
                request = phrase(spec, rng.choice(spec.several), rng)
            tools = [self.declared(spec, request.calls, python=True)]
            calls = [(tools[0], call) for call in request.calls]
            chat.user(request.text)
        else:
            partners = self.partners()
            requests = [self.request(spec) for spec in partners]
            tools = self.pair(partners, requests, python=True)
            calls = [(tool, request.calls[0]) for tool, request in zip(tools, requests, strict=True)]
            chat.user(joined([request.text for request in requests], rng))
        chat.call(calls, pythonic=True)
        declared = [tool for tool in self.tools(tools, self.few()) if "-" not in tool["function"]["name"]]
        return chat.done(declared, "pythonic", "pythonic")

    def foreign(self) -> JsonObject:
        """A request in another language."""
        language, key, template = self.rng.choice(self.part.foreign)
        spec = self.specs[key]
        chat, tool = self.called(spec, phrase(spec, template, self.rng, language), 0.15)
        return chat.done(self.tools([tool]), "foreign")
