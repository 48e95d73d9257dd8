"""Requests to real tools, made of their signatures alone: what the description says that a tool does, said in other
words, with values for its parameters.

Thousands of tools of MCP servers, each with a name, a description and parameters that nobody wrote for training: from
these a model learns to read signatures. Requests for what none of the tools does are made in the same way.
"""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data import slots
from training.data.catalog import JsonObject
from training.data.evals import Evals
from training.data.irrelevant import REFUSED, irrelevant
from training.data.slots import Slot, join_words

# What a description begins with, and other ways to ask for it.
_VERBS: Mapping[str, Sequence[str]] = {
    "get": ("get", "fetch", "show me", "find out", "I need", "give me", "look up", "retrieve"),
    "retrieve": ("retrieve", "get", "pull up", "show me", "I'd like to see"),
    "fetch": ("fetch", "get", "grab", "show me", "load"),
    "list": ("list", "show me", "give me", "I want to see", "what are"),
    "show": ("show me", "display", "I want to see"),
    "search": ("search", "look", "do a search"),
    "find": ("find", "look for", "search for", "locate"),
    "query": ("query", "look up", "get"),
    "read": ("read", "open", "show me", "what's in"),
    "view": ("view", "show me", "open"),
    "check": ("check", "verify", "look up", "tell me"),
    "create": ("create", "make", "set up", "I need", "add"),
    "add": ("add", "put in", "create"),
    "insert": ("insert", "add", "put in"),
    "generate": ("generate", "make", "produce", "create"),
    "update": ("update", "change", "edit", "modify"),
    "edit": ("edit", "change", "modify"),
    "set": ("set", "change"),
    "delete": ("delete", "remove", "get rid of"),
    "remove": ("remove", "delete", "take away"),
    "send": ("send", "deliver"),
    "post": ("post", "publish"),
    "run": ("run", "execute", "start"),
    "execute": ("execute", "run", "perform"),
    "start": ("start", "begin", "launch"),
    "stop": ("stop", "end", "halt"),
    "open": ("open", "show me"),
    "calculate": ("calculate", "compute", "work out", "what is", "determine"),
    "compute": ("compute", "calculate", "work out"),
    "convert": ("convert", "turn", "change"),
    "analyze": ("analyze", "examine", "take a look at"),
    "validate": ("validate", "check"),
    "download": ("download", "get"),
    "upload": ("upload", "send up"),
    "translate": ("translate",),
    "extract": ("extract", "pull out", "get"),
    "move": ("move",),
    "copy": ("copy", "duplicate"),
    "rename": ("rename",),
    "cancel": ("cancel", "call off"),
    "book": ("book", "reserve"),
    "assign": ("assign", "give"),
    "enable": ("enable", "turn on", "switch on"),
    "disable": ("disable", "turn off", "switch off"),
    "count": ("count", "tell me the number of"),
    "compare": ("compare",),
    "summarize": ("summarize", "sum up"),
    "estimate": ("estimate", "give me an idea of"),
    "plan": ("plan", "work out"),
    "schedule": ("schedule", "plan", "set up"),
}
# A parameter's value by the words in its name, the first that fits: a generator of slots.py or words.py.
_GENERATORS: Sequence[tuple[str, str]] = (
    (r"e?mail", "email"),
    (r"url|uri|link|webhook|endpoint", "url"),
    (r"(?:file|image|output|input|source|target|local|doc\w*)_?(?:path|name)|path|file", "path"),
    (r"dir|directory|folder|workspace", "dir"),
    (r"sql", "sql"),
    (r"repo|repository", "repo"),
    (r"owner|user_?name|user|author|assignee|handle|account|login|org|organization|member", "user"),
    (r"phone|mobile", "phone"),
    (r"branch|ref|base|head", "branch"),
    (r"issue_?key|ticket|key", "tkey"),
    (r"ticker|symbol|stock", "ticker"),
    (r"coin|token|crypto|asset|base_?currency", "coin"),
    (r"currency|cur", "cur"),
    (r"lat|latitude", "lat"),
    (r"lon|lng|longitude", "lon"),
    (r"origin|destination|city|town|location|place|region", "city"),
    (r"country", "country"),
    (r"address", "addr"),
    (r"ip|ip_?address", "ip"),
    (r"host|hostname|server|node|instance", "host"),
    (r"service|deployment|app|application|component", "service"),
    (r"pod", "pod"),
    (r"namespace|ns", "ns"),
    (r"database|db|schema|dataset", "dbname"),
    (r"table|collection|model|entity", "dbtable"),
    (r"(?:start|end|from|to|due|begin|until|since|birth)?_?date|day|since|until|deadline", "iso"),
    (r"time|start_?time|end_?time", "hhmm"),
    (r"time_?zone|tz", "tz"),
    (r"(?:source_?|target_?|from_?|to_?)?lang(?:uage)?", "lang"),
    (r"query|q|search|keywords?|term|question|prompt|topic|subject_?matter", "query"),
    (r"subject|title|headline|summary", "subj"),
    (r"message|text|body|content|comment|description|note|instructions?|caption|reason", "msg"),
    (r"project|team|channel|group|board|space|list|label|tag|category|playlist", "channel"),
    (r"version|release", "version"),
    (r"package|library|module|dependency", "pkg"),
    (r"command|cmd", "shell"),
    (r"code|script|snippet", "code"),
    (r"pattern|glob|filter", "glob"),
    (r"color|colour", "color"),
    (r"company|vendor|customer|client|brand", "company"),
    (r"product|item|sku", "product"),
    (r"song|track", "song"),
    (r"artist", "artist"),
    (r"movie|film", "movie"),
    (r"book", "book"),
    (r"uuid|guid", "uuid"),
    (r"(?:first_?|last_?|full_?|display_?)?name|person|recipient|contact|employee|patient", "person"),
    (r"\w*_?id|hash|sha|slug|identifier|reference", "id()"),
)  # fmt: skip
_NUMBERS: Sequence[tuple[str, str]] = (
    (r"limit|count|max\w*|top_?k|size|per_?page|num\w*|n|amount_of\w*|results", "int(1,100)"),
    (r"page|offset|start|index", "int(1,40)"),
    (r"year", "int(1950,2027)"),
    (r"price|amount|cost|budget|value|total|balance|rate|salary|fee", "money"),
    (r"lat\w*", "lat"),
    (r"lon\w*|lng", "lon"),
    (r"\w*", "int(1,999)"),
)
_OPENINGS = ("", "", "", "please ", "can you ", "could you ", "I want you to ", "hey, ", "now ")
_MAX_DESCRIPTION = 110


@dataclass(frozen=True)
class Signature:
    """A real tool that can be asked for: its deed as its description tells it, and what fills its parameters."""

    server: str
    openai: JsonObject
    verb: str
    rest: str
    generators: Mapping[str, str]
    required: Sequence[str]

    @property
    def name(self) -> str:
        return str(self.openai["function"]["name"])

    @property
    def words(self) -> frozenset[str]:
        return frozenset(re.findall(r"[a-z]{4,}", self.rest.lower()))


def signature(server: str, tool: JsonObject) -> Signature | None:
    """The tool as one that can be asked for; None without a deed in plain English, or where nothing fills a required
    parameter.
    """
    function = tool["function"]
    told = re.split(r"(?<=[.!])\s|\n", str(function.get("description") or "").strip())[0].rstrip(".! ")
    told = re.sub(r"\s*\([^)]*\)", "", told)
    first, _, rest = told.partition(" ")
    verb = next((one for one in (first.lower(), first.lower()[:-1], first.lower()[:-2]) if one in _VERBS), None)
    named = re.fullmatch(r"[\w.-]{3,40}", function["name"], re.ASCII)
    if verb is None or not named or not rest.isascii() or not 8 <= len(rest) <= 90 or "`" in rest:
        return None
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    required = [name for name in schema.get("required") or () if name in properties]
    generators = {name: found for name, one in properties.items() if (found := _generator(name, one)) is not None}
    if len(required) > 4 or not generators.keys() >= set(required):
        return None
    return Signature(server, _declared(tool, properties, required, generators), verb, rest, generators, required)


def _declared(
    tool: JsonObject, properties: JsonObject, required: Sequence[str], known: Mapping[str, str]
) -> JsonObject:
    """The tool without what it says at length, and without optional parameters that nothing fills."""
    function = tool["function"]
    description = re.split(r"\n\s*\n|\n", str(function["description"]).strip())[0]
    kept = {name: _shortened(one) for name, one in properties.items() if name in required or name in known}
    parameters = {"type": "object", "properties": dict(list(kept.items())[:8]), "required": list(required)}
    for name in required:
        parameters["properties"].setdefault(name, kept[name])
    return {
        "type": "function",
        "function": {"name": function["name"], "description": description[:_MAX_DESCRIPTION], "parameters": parameters},
    }


def _shortened(schema: JsonObject) -> JsonObject:
    kept = {key: schema[key] for key in ("type", "enum") if key in schema}
    if schema.get("type") == "array":
        kept["items"] = {"type": "string"}
    if text := str(schema.get("description") or "").split("\n")[0]:
        kept["description"] = re.split(r"(?<=\.)\s", text)[0][:60]
    return kept


def _generator(name: str, schema: Any) -> str | None:
    """What draws a value of the parameter; None where nothing does."""
    if not isinstance(schema, dict):
        return None
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    if enum := schema.get("enum"):
        texts = [one for one in enum if isinstance(one, str) and re.fullmatch(r"[\w. -]{1,24}", one)]
        return f"of({'/'.join(texts)})" if texts and len(texts) == len(enum) <= 12 else None
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return next(generator for pattern, generator in _NUMBERS if re.fullmatch(pattern, words))
    items = schema.get("items")
    if kind == "array" and isinstance(items, dict) and items.get("type") == "string" and "enum" not in items:
        words, kind = words.removesuffix("s"), "string"
    if kind != "string":
        return None
    for pattern, generator in _GENERATORS:
        if re.fullmatch(rf"(?:\w+_)?(?:{pattern})", words):
            return generator
    return None


@dataclass(frozen=True)
class Asked:
    """A request: its words, and the arguments of each of its calls."""

    text: str
    calls: Sequence[Mapping[str, Any]]


def asked(tool: Signature, rng: random.Random, count: int = 1) -> Asked:
    """A request for the tool, for `count` calls of it that differ in one value."""
    properties = tool.openai["function"]["parameters"]["properties"]
    optional = [name for name in properties if name not in tool.required and name in tool.generators]
    names = [*tool.required, *rng.sample(optional, min(len(optional), rng.choice([0, 0, 0, 1, 1, 2])))]
    names = [name for name in properties if name in names]
    varied = rng.choice(names) if names and count > 1 else None
    drawn: dict[str, list[Slot]] = {}
    for name in names:
        drawn[name] = _values(properties[name], tool.generators[name], rng, count if name == varied else 1)
    calls = []
    for i in range(min(count, len(drawn[varied])) if varied else 1):
        calls.append({name: several[i if name == varied else 0].value for name, several in drawn.items()})
    words = {name: join_words([one.text for one in several]) for name, several in drawn.items()}
    return Asked(_said(tool, words, rng), calls)


def _values(schema: JsonObject, generator: str, rng: random.Random, count: int) -> list[Slot]:
    found: dict[str, Slot] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        slot = slots.draw(rng, generator)
        if schema.get("type") == "array":
            several = [slot, *(slots.draw(rng, generator) for _ in range(rng.choice([0, 1, 1, 2])))]
            texts = list(dict.fromkeys(one.text for one in several))
            slot = Slot(join_words(texts), texts)
        elif schema.get("type") == "integer" and not isinstance(slot.value, int):
            slot = slots.draw(rng, "int(1,999)")
        elif schema.get("type") == "string" and not isinstance(slot.value, str):
            slot = Slot(str(slot.value), str(slot.value))
        found.setdefault(slot.text.lower(), slot)
    return list(found.values())


def _said(tool: Signature, words: Mapping[str, str], rng: random.Random) -> str:
    deed = f"{rng.choice(_VERBS[tool.verb])} {tool.rest}"
    if rng.random() < 0.3:  # without what goes into detail
        deed = re.split(r"\s(?:using|from|via|with|based on|including|by|through)\s", deed)[0]
    labelled = {_label(name): value for name, value in words.items()}
    if not labelled:
        text = deed
    elif len(labelled) == 1 and rng.random() < 0.5:
        ((label, value),) = labelled.items()
        text = rng.choice(
            (f"{deed} for {value}", f"{deed}: {value}", f"{deed} for {label} {value}", f"{value}: {deed}")
        )
    else:
        text = rng.choice(
            (
                f"{deed} with {_listed(labelled, ' ')}",
                f"{deed}. {_listed(labelled, ': ')}",
                f"{deed} ({_listed(labelled, '=')})",
                f"{deed}; the {_listed(labelled, ' is ', ' and the ')}",
                f"{deed}, {_listed(labelled, ' ')}",
                f"for {_listed(labelled, ' ')}, {deed}",
            )
        )
    opening = rng.choice(_OPENINGS)
    if deed.startswith(("I ", "I'", "what")):
        opening = ""
    text = opening + text
    end = "?" if opening.startswith(("can", "could")) or text.startswith("what") else rng.choice((".", "", ".", "!"))
    text += end
    is_copied = not opening and any(map(text.startswith, words.values()))
    return text if is_copied or rng.random() < 0.2 else text[0].upper() + text[1:]


def _label(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").replace("-", " ").lower()


def _listed(labelled: Mapping[str, str], between: str, last: str = " and ") -> str:
    return join_words([f"{label}{between}{value}" for label, value in labelled.items()], last)


def load_signatures(path: Path, evals: Evals) -> tuple[list[Signature], list[Signature]]:
    """Those for training and, of every tenth server, for validation; none with a name that an evaluation's tool has."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = [one for row in rows if (one := signature(row["server"], row["tool"])) is not None]
    found = [one for one in found if one.name not in evals.tool_names]
    held = set(sorted({one.server for one in found})[::10])
    return [one for one in found if one.server not in held], [one for one in found if one.server in held]


class Signatures:
    """Makes conversations of one part's signatures."""

    def __init__(self, tools: Sequence[Signature], rng: random.Random) -> None:
        self._tools, self._rng = tools, rng
        self._by_server: dict[str, list[Signature]] = {}
        for tool in tools:
            self._by_server.setdefault(tool.server, []).append(tool)

    def single(self) -> JsonObject:
        tool = self._rng.choice(self._tools)
        return self._done([(tool, asked(tool, self._rng))], "signature")

    def several(self) -> JsonObject:
        """Calls of one tool that differ in a value."""
        tool = self._rng.choice([one for one in self._tools if one.required])
        return self._done([(tool, asked(tool, self._rng, self._rng.choice([2, 2, 3, 4])))], "signature_several")

    def together(self) -> JsonObject:
        """Calls of two or three tools, now and then more than one of each."""
        rng = self._rng
        first = rng.choice(self._tools)
        chosen = {first.name: first}
        while len(chosen) < rng.choice([2, 2, 3]):
            other = rng.choice(rng.choice([self._tools, self._by_server[first.server]]))
            if not any(one.words & other.words and one.verb == other.verb for one in chosen.values()):
                chosen.setdefault(other.name, other)
            elif len(self._by_server[first.server]) < 3:
                chosen.setdefault((other := rng.choice(self._tools)).name, other)
        counts = rng.choice([(1, 1, 1), (1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 2, 1)])
        return self._done(
            [(tool, asked(tool, rng, count)) for tool, count in zip(chosen.values(), counts, strict=False)],
            "signature_together",
        )

    def none(self) -> JsonObject:
        """What none of the tools does."""
        rng = self._rng
        tool = rng.choice(self._tools)
        others = self._others([tool], rng.choices([1, 2, 3, 5], [50, 25, 15, 10])[0], near=0.0)
        return _row(_refused(asked(tool, rng).text, rng), [one.openai for one in others], "signature_none")

    def shared(self) -> list[JsonObject]:
        """Several requests to the same tools, and one that is strange to them."""
        rng = self._rng
        first = rng.choice(self._tools)
        tools = [first, *self._others([first], rng.choices([0, 1, 2, 3, 5, 8, 12], [15, 20, 20, 18, 14, 9, 4])[0], 0.4)]
        declared = [tool.openai for tool in tools]
        rng.shuffle(declared)
        rows = []
        for _ in range(rng.randint(3, 5)):
            count = min(len(tools), rng.choices([1, 2, 3], [70, 22, 8])[0])
            chosen = [(tool, asked(tool, rng, rng.choice([1, 1, 1, 2, 3]))) for tool in rng.sample(tools, count)]
            rows.append(self._done(chosen, "signature_set", declared))
        for stranger in self._others(tools, 1, near=0.0):
            rows.append(_row(_refused(asked(stranger, rng).text, rng), declared, "signature_none"))
        return rows

    def _done(
        self, several: Sequence[tuple[Signature, Asked]], source: str, declared: list[JsonObject] | None = None
    ) -> JsonObject:
        rng = self._rng
        texts = [one.text for _, one in several]
        text = texts[0]
        for more in texts[1:]:
            text = text.rstrip(".!") + rng.choice([". ", ". Also, ", " and ", ", then ", ". And "]) + more
        calls = [(tool, arguments) for tool, one in several for arguments in one.calls]
        written = [
            {
                "id": f"functions.{tool.name}:{i}",
                "type": "function",
                "function": {"name": tool.name, "arguments": json.dumps(arguments, ensure_ascii=False)},
            }
            for i, (tool, arguments) in enumerate(calls)
        ]
        if declared is None:
            count = rng.choices([0, 1, 2, 3, 5, 8, 14], [22, 16, 18, 18, 14, 9, 3])[0]
            tools = [tool for tool, _ in several]
            declared = [one.openai for one in (*tools, *self._others(tools, count, near=0.4))]
            rng.shuffle(declared)
        messages: list[JsonObject] = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": "", "tool_calls": written, "train": True},
        ]
        return _row(messages, declared, source)

    def _others(self, tools: Sequence[Signature], count: int, near: float) -> list[Signature]:
        """Tools that can't do the work of these; some of the same server."""
        rng, found = self._rng, {tool.name: tool for tool in tools}
        words = frozenset[str]().union(*(tool.words for tool in tools))
        for _ in range(count * 8):
            if len(found) == count + len(tools):
                break
            other = rng.choice(self._by_server[tools[0].server] if rng.random() < near else self._tools)
            # A tool that shares a word is no stranger; one that does the same to other things is told apart by these.
            alike = len(words & other.words)
            if alike == 0 or (near and alike < len(other.words) / 2):
                found.setdefault(other.name, other)
        return list(found.values())[len(tools) :]


# How many of each kind the fourth stage has, for training and for validation, and how much of the first's rows.
_COUNTS: Mapping[Callable[[Signatures], JsonObject], tuple[int, int]] = {
    Signatures.single: (500, 15),
    Signatures.several: (300, 10),
    Signatures.together: (350, 10),
    Signatures.none: (550, 15),
}
_SHARE, _IRRELEVANT = 0.25, 0.5


def fourth_stage(rows: Sequence[JsonObject], tools: Sequence[Signature], rng: random.Random) -> Iterator[JsonObject]:
    """The conversations for a training on more of what is real: all dialogues, the same without the right tool for a
    half of them, requests made of signatures, and a part of all else.
    """
    yield from (row for row in rows if row["source"].startswith("dialogue_") or rng.random() < _SHARE)
    yield from (row for row in irrelevant(rows, rng) if rng.random() < _IRRELEVANT)
    yield from made(tools, rng, 0)


def made(tools: Sequence[Signature], rng: random.Random, part: int) -> Iterator[JsonObject]:
    """Conversations of every kind, for training (part 0) or validation (1)."""
    maker = Signatures(tools, rng)
    for kind, counts in _COUNTS.items():
        yield from (kind(maker) for _ in range(counts[part]))


def _refused(text: str, rng: random.Random) -> list[JsonObject]:
    return [
        {"role": "user", "content": text},
        {"role": "assistant", "content": rng.choice(REFUSED), "train": True},
    ]


def _row(messages: list[JsonObject], tools: list[JsonObject], source: str) -> JsonObject:
    return {"messages": messages, "tools": tools, "tool_format": "k2", "source": source}
