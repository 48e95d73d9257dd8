"""Which JSON Schemas can be held, and how well: by our guard, by llguidance's three modes, and by xgrammar's.

    python bench/schemas.py [--data DIR | --schemas FILE ...] [--n N] [--seed N] [--only NAME ...] [--limit SECONDS]
                            [--cache DIR] [--verbose]

Four sources out of DIR (default: `shared/data` beside the checkout): maskbench's real-world schemas, the tools of MCP
servers, those of Moonshot's own validator (MFJS), and the official JSON-Schema-Test-Suite; or FILEs of JSON lines,
`{"id": ..., "schema": ..., "tests": [{"data": ..., "valid": ...}, ...]}`, `.xz` or not. What is valid is the data's to
say; where there are no tests (tools, MFJS) they are made up from the schema, seeded, and judged by jsonschema-rs.

Arguments are an object: a schema whose root may be one is asked about objects, and any other instance is an invalid
one. `wrapped` are all of a source's schemas as the property `value` of an object, so that all kinds of roots are
asked about. Left out, and counted on stderr, are schemas that lead outside themselves, and those that jsonschema-rs
doesn't judge as the data does once they are wrapped.

Every instance is written in up to nine spellings: compact, spaced and indented, in its own order of properties and
shuffled, with and without escapes, and twice in the order of the schema, for grammars that know no other. `best` are
the valid instances that are accepted in at least one spelling, `every` those that are in all; an invalid one is
rejected when no spelling is accepted. Instances of a refused schema count as not accepted; `wrongly` are the refused
schemas with an instance that is valid (others may be right to refuse: nothing satisfies some). `loose` are the schemas
that compile and accept an invalid instance; times are a schema's CPU time, nothing cached, over a vocabulary of bytes.
(xgrammar works its token masks out here and llguidance later: bench/guard.py has both over K2's vocabulary.) Who takes
longer than `--limit` over a schema, or dies of it, is started again and has refused it.

xgrammar's newest wheel is fetched by pip on the first run (delete its folder in the cache for a newer one) and runs as
published; torch and transformers, which it imports and doesn't need here, are replaced by stand-ins.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import jsonschema_rs
from llguidance import LLMatcher, LLTokenizer
from rich.console import Console
from rich.table import Table

from abruzzi import __version__
from abruzzi.engines.local.weights import cache_directory
from abruzzi.protocol.errors import RequestError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHOWN = 160
"""Characters of a schema's fault or an instance that --verbose repeats."""

progress = Console(stderr=True)

# What is asked


@dataclass(frozen=True)
class Case:
    """A schema of an object, and instances with whether they are valid."""

    source: str
    id: str
    schema: dict[str, Any]
    tests: Sequence[tuple[Any, bool]]


@dataclass(frozen=True)
class Group:
    """A line of a source: any schema; `tests` is None where instances have to be made up."""

    id: str
    schema: Any
    tests: Sequence[tuple[Any, bool]] | None


def lines(path: Path) -> Iterator[Any]:
    with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
        yield from map(json.loads, file)


def maskbench(folder: Path) -> Iterator[Group]:
    for line in lines(folder / "maskbench.jsonl.xz"):
        tests = [*((data, True) for data in line["valid"]), *((data, False) for data in line["invalid"])]
        yield Group(line["id"], line["schema"], tests)


def mcp_tools(folder: Path) -> Iterator[Group]:
    for number, line in enumerate(lines(folder / "mcp_tools.jsonl.xz")):
        function = line["tool"]["function"]
        yield Group(f"{number}:{function['name']}", function["parameters"], None)


def mfjs(folder: Path, valid: bool) -> Iterator[Group]:
    """Schemas that Moonshot's validator takes, or those that it refuses: some are no JSON."""
    for number, line in enumerate(lines(folder / "mfjs.jsonl.xz")):
        if line["valid"] == valid:
            text = line["schema"] if valid else json.loads(line["schema"])["schema"]
            try:
                yield Group(f"{number}:{line['suite']}", json.loads(text), None)
            except ValueError:
                continue


def test_suite(folder: Path) -> Iterator[Group]:
    for line in lines(folder / "json_schema_test_suite_2020-12.jsonl.xz"):
        if line["file"] not in ("format.json", "vocabulary.json"):  # which want keywords to be left unasked
            tests = [(test["data"], test["valid"]) for test in line["tests"]]
            yield Group(f"{line['file']}:{line['description']}", line["schema"], tests)


def of_a_file(path: Path) -> Iterator[Group]:
    for number, line in enumerate(lines(path)):
        tests = line.get("tests")
        told = None if tests is None else [(test["data"], test["valid"]) for test in tests]
        yield Group(str(line.get("id", number)), line["schema"], told)


def cases(source: str, groups: Iterable[Group], seed: int, wrap: bool) -> Iterator[Case]:
    """Those of the source whose root may be an object, and all of them wrapped when asked for."""
    left_out: Counter[str] = Counter()
    for group in groups:
        try:
            judge = validator(group.schema)
        except (ValueError, RecursionError, OSError) as error:
            kind = "leads outside itself" if "not present in a registry" in str(error) else "is no JSON Schema"
            left_out[kind] += group.tests is not None
            judge = None
            if group.tests is not None or not isinstance(group.schema, dict):
                continue
        tests = group.tests
        if tests is None:
            rng = random.Random(f"{seed}:{group.id}")
            tests = [] if judge is None else [(each, judge(each)) for each in instances(group.schema, rng)]
        if takes_objects(group.schema):
            told = [(data, valid and isinstance(data, dict)) for data, valid in tests]
            yield Case(source, group.id, group.schema, told)
        if wrap and judge is not None:
            schema = wrapped(group.schema)
            if schema is None:
                left_out["can't be moved"] += 1
                continue
            inside = [({"value": data}, valid) for data, valid in tests]
            try:
                moved = validator(schema)
                same = all(moved(data) == valid for data, valid in inside)
            except (ValueError, RecursionError, OSError):
                same = False
            if same:
                yield Case(f"{source}, wrapped", group.id, schema, [*inside, ({}, False)])
            else:
                left_out["can't be moved"] += 1
    for why, count in left_out.items():
        if count:
            progress.print(f"{source}: left out {count}, as the schema {why}", highlight=False)


def validator(schema: Any) -> Callable[[Any], bool]:
    """jsonschema-rs's judgement. Raises ValueError for what is no schema, or leads outside itself."""
    draft = schema.get("$schema") if isinstance(schema, dict) else None
    if draft is not None and not (isinstance(draft, str) and "//json-schema.org/draft" in draft):
        schema = {key: value for key, value in schema.items() if key != "$schema"}

    def retrieve(uri: str) -> Any:
        raise ValueError(f"not present in a registry: {uri}")

    try:
        built = jsonschema_rs.validator_for(schema, validate_formats=True, retriever=retrieve)
    except jsonschema_rs.ValidationError as error:
        raise ValueError(error.message) from None
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(str(error)) from None
    return built.is_valid


def takes_objects(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    kinds = schema.get("type", "object")
    return "object" in (kinds if isinstance(kinds, list) else [kinds])


_DATA = frozenset(("const", "default", "enum", "example", "examples"))
_NAMED = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))
_AT = "#/properties/value"


def wrapped(schema: Any) -> dict[str, Any] | None:
    """An object whose property `value` is of this schema, or None where its references can't be moved."""
    moved = schema
    root = {}
    if isinstance(schema, dict):
        root = {key: schema[key] for key in ("$schema",) if key in schema}
        inside = {key: value for key, value in schema.items() if key not in ("$schema", "$id", "id")}
        ids = {key: value for key, value in schema.items() if key in ("$id", "id") and isinstance(value, str)}
        strings = list(_strings(inside))
        if any(key in ("$id", "id", "$dynamicRef", "$recursiveRef") for key, _ in strings) or (
            ids and any(key == "$ref" and not value.startswith("#") for key, value in strings)
        ):
            return None
        moved = _with_references_moved(inside)
    return {**root, "type": "object", "properties": {"value": moved}, "required": ["value"]}


def _strings(node: Any, names: bool = False) -> Iterator[tuple[str, str]]:
    """The keywords of a schema that have a string, and those of all schemas in it."""
    if isinstance(node, list):
        for each in node:
            yield from _strings(each)
    elif isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str) and not names:
                yield key, value
            elif names or key not in _DATA:
                yield from _strings(value, not names and key in _NAMED)


def _with_references_moved(node: Any, names: bool = False) -> Any:
    if isinstance(node, list):
        return [_with_references_moved(each) for each in node]
    if not isinstance(node, dict):
        return node
    moved = {}
    for key, value in node.items():
        if key == "$ref" and not names and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            moved[key] = _AT + value[1:]
        elif key in _DATA and not names:
            moved[key] = value
        else:
            moved[key] = _with_references_moved(value, not names and key in _NAMED)
    return moved


# Instances made up


def instances(schema: Any, rng: random.Random) -> list[Any]:
    """Values that mostly follow the schema, and the same damaged."""
    made: dict[str, Any] = {}
    for _ in range(3):
        value = example(schema, schema, rng, 0)
        for each in (value, damaged(value, rng), damaged(value, rng)):
            made.setdefault(json.dumps(each, sort_keys=True), each)
    return list(made.values())


_FORMATS = {
    "date": "2026-02-28",
    "date-time": "2026-02-28T12:00:00Z",
    "email": "anna@example.org",
    "ipv4": "192.0.2.1",
    "time": "12:00:00Z",
    "uri": "https://example.org/a?b=c",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
}
_WORDS = ("Lisbon", "naïve café", 'say "hi"\n', "C:\\new", "東京 🗼", "<|tool_call_end|>", "a", "0", " ", "2026-02-28")
_OTHERS: tuple[Any, ...] = ("x", "", 7, -1.5, None, True, [], {}, ["x"], {"x": 1})


def example(schema: Any, root: Any, rng: random.Random, depth: int) -> Any:
    """A value that follows the schema as far as that is easily had."""
    if not isinstance(schema, dict):
        return rng.choice(_OTHERS)
    if isinstance(reference := schema.get("$ref"), str) and depth < 12:
        return example(_resolved(reference, root), root, rng, depth + 1)
    if "const" in schema:
        return schema["const"]
    if isinstance(options := schema.get("enum"), list) and options:
        return rng.choice(options)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if isinstance(parts := schema.get(keyword), list) and parts:
            rest = {key: value for key, value in schema.items() if key != keyword}
            picked = parts if keyword == "allOf" else [rng.choice(parts)]
            return example(_merged(rest, picked, root), root, rng, depth + 1)
    kinds = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else None)
    kind = rng.choice(kinds) if isinstance(kinds, list) and kinds else kinds
    if kind == "object":
        return _object(schema, root, rng, depth)
    if kind == "array":
        least, most = _number(schema, "minItems", 0), _number(schema, "maxItems", 3)
        count = rng.randint(int(least), int(max(least, min(most, least + 2))))
        prefix = schema.get("prefixItems") or []
        parts = [*prefix, *[schema.get("items", {})] * count][: max(count, len(prefix))]
        return [example(part, root, rng, depth + 1) for part in parts] if depth < 8 else []
    if kind in ("integer", "number"):
        return _amount(schema, rng, kind)
    if kind == "string":
        return _text(schema, rng)
    return {"boolean": rng.random() < 0.5, "null": None}.get(str(kind), rng.choice(_OTHERS))


def _object(schema: Mapping[str, Any], root: Any, rng: random.Random, depth: int) -> dict[str, Any]:
    required = schema.get("required") or []
    properties = schema.get("properties") or {}
    likely = 0.6 / (1 + depth)
    value = {
        name: example(part, root, rng, depth + 1)
        for name, part in (properties.items() if isinstance(properties, dict) else ())
        if (isinstance(required, list) and name in required) or (rng.random() < likely and depth < 8)
    }
    if isinstance(others := schema.get("additionalProperties"), dict) and rng.random() < likely:
        value["other"] = example(others, root, rng, depth + 1)
    return value


def _amount(schema: Mapping[str, Any], rng: random.Random, kind: str) -> Any:
    least = _number(schema, "minimum", _number(schema, "exclusiveMinimum", -1) + 1)
    most = _number(schema, "maximum", max(_number(schema, "exclusiveMaximum", least + 101) - 1, least))
    step = _number(schema, "multipleOf", 0)
    value = rng.uniform(least, max(least, most))
    if step > 0:
        value = math.ceil(least / step) * step
    if kind == "integer" or rng.random() < 0.3:
        value = math.ceil(value) if value < most else math.floor(most)
    return value if kind == "integer" else round(value, 3)


def _text(schema: Mapping[str, Any], rng: random.Random) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    text = rng.choice(_WORDS)
    least, most = int(_number(schema, "minLength", 0)), int(_number(schema, "maxLength", 10_000))
    return (text + "x" * max(0, min(least, 10_000) - len(text)))[: max(0, most)]


def _number(schema: Mapping[str, Any], keyword: str, default: float) -> float:
    value = schema.get(keyword)
    return default if isinstance(value, bool) or not isinstance(value, (int, float)) else value


def _resolved(reference: str, root: Any) -> Any:
    node = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node


def _merged(schema: Mapping[str, Any], parts: Sequence[Any], root: Any) -> dict[str, Any]:
    merged = dict(schema)
    for part in parts:
        target = _resolved(part["$ref"], root) if isinstance(part, dict) and "$ref" in part else part
        for key, value in (target if isinstance(target, dict) else {}).items():
            known = merged.get(key)
            if isinstance(known, dict) and isinstance(value, dict):
                merged[key] = {**known, **value}
            elif isinstance(known, list) and isinstance(value, list) and key == "required":
                merged[key] = [*known, *value]
            else:
                merged[key] = value
    return merged


def damaged(value: Any, rng: random.Random) -> Any:
    """The value with one thing in it changed, left out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.75:
        name = rng.choice(list(value))
        draw = rng.random()
        if draw < 0.2:
            return {key: each for key, each in value.items() if key != name}
        if draw < 0.35:
            return {**value, rng.choice(("unknown", f"{name}s", name.upper())): rng.choice(_OTHERS)}
        return {**value, name: damaged(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.75:
        at = rng.randrange(len(value))
        return [*value[:at], damaged(value[at], rng), *value[at + 1 :]] if rng.random() < 0.7 else [*value, value[at]]
    if isinstance(value, str) and rng.random() < 0.4:
        return rng.choice((value + "x", value[1:], value.upper(), f" {value}"))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.6:
        return rng.choice((value + 0.5, -value, value + 1000, str(value)))
    return {"unknown": value} if isinstance(value, dict) else rng.choice(_OTHERS)


# How instances are written


def spellings(data: Any, schema: Any, rng: random.Random) -> list[str]:
    """The instance's texts, each once; the first two are in the order of the schema."""
    ordered, shuffled = in_order(data, schema, schema, 0), _shuffled(data, rng)
    texts = [
        json.dumps(ordered, ensure_ascii=False, separators=(",", ":")),
        json.dumps(ordered, ensure_ascii=False),
        json.dumps(data, separators=(",", ":")),
        json.dumps(data, ensure_ascii=False, separators=(",", ":")),
        json.dumps(data),
        json.dumps(data, ensure_ascii=False),
        json.dumps(data, ensure_ascii=False, indent=2),
        json.dumps(shuffled),
        json.dumps(shuffled, ensure_ascii=False, separators=(",", ":")),
    ]
    return [text for text in dict.fromkeys(texts) if _is_utf8(text)]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shuffled(data: Any, rng: random.Random) -> Any:
    if isinstance(data, list):
        return [_shuffled(each, rng) for each in data]
    if not isinstance(data, dict):
        return data
    return {name: _shuffled(data[name], rng) for name in rng.sample(list(data), len(data))}


def in_order(data: Any, schema: Any, root: Any, depth: int) -> Any:
    """The instance with its properties in the order in which the schema speaks of them, others behind."""
    if isinstance(data, list):
        prefix = _lists(schema, root, depth)
        return [in_order(each, prefix[at] if at < len(prefix) else prefix[-1], root, depth + 1)
                for at, each in enumerate(data)] if prefix else data  # fmt: skip
    if not isinstance(data, dict):
        return data
    known = dict(_properties(schema, root, depth))
    names = [name for name in known if name in data] + [name for name in data if name not in known]
    return {name: in_order(data[name], known.get(name), root, depth + 1) for name in names}


def _parts(schema: Any, root: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The schema and those that speak of the same value."""
    if not isinstance(schema, dict) or depth > 30:
        return
    yield schema
    if isinstance(reference := schema.get("$ref"), str):
        yield from _parts(_resolved(reference, root), root, depth + 8)
    for keyword in ("allOf", "anyOf", "oneOf"):
        if isinstance(members := schema.get(keyword), list):
            for member in members:
                yield from _parts(member, root, depth + 8)


def _properties(schema: Any, root: Any, depth: int) -> Iterator[tuple[str, Any]]:
    for part in _parts(schema, root, depth):
        if isinstance(properties := part.get("properties"), dict):
            yield from properties.items()


def _lists(schema: Any, root: Any, depth: int) -> list[Any]:
    for part in _parts(schema, root, depth):
        prefix, items = part.get("prefixItems"), part.get("items")
        if isinstance(prefix, list) or isinstance(items, dict):
            return [*(prefix if isinstance(prefix, list) else []), items]
    return []


# Who is asked

Accept = Callable[[str], bool]
Compile = Callable[[dict[str, Any]], Accept]


class RefusedError(Exception):
    """The contender can't compile the schema."""


def clear_caches() -> None:
    """Empty every functools cache of those modules of abruzzi.guide's that are loaded."""
    for module in [module for name, module in sys.modules.items() if name.startswith("abruzzi.guide")]:
        for owner in (module, *(each for each in vars(module).values() if isinstance(each, type))):
            for value in vars(owner).values():
                value = getattr(value, "__func__", value)
                if callable(getattr(value, "cache_clear", None)) and not isinstance(value, type):
                    value.cache_clear()


def ours(cache: Path) -> tuple[str, Compile]:
    from abruzzi.guide import accepts, compile

    def start(schema: dict[str, Any]) -> Accept:
        try:
            compile(schema)
        except RequestError as error:
            raise RefusedError(str(error)) from None
        return lambda text: accepts(schema, text)

    return __version__, start


def llguidance(options: Mapping[str, bool]) -> Callable[[Path], tuple[str, Compile]]:
    def contender(cache: Path) -> tuple[str, Compile]:
        from importlib.metadata import version

        vocabulary = LLTokenizer("byte")

        def start(schema: dict[str, Any]) -> Accept:
            schema = {**schema, "type": "object", "x-guidance": options}
            matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_json_schema(schema))
            if matcher.is_error():
                raise RefusedError(matcher.get_error())

            def accept(text: str) -> bool:
                data = text.encode()
                fresh = matcher.deep_copy()
                return fresh.try_consume_tokens(list(data)) == len(data) and fresh.is_accepting()

            return accept

        return version("llguidance"), start

    return contender


def xgrammar(**options: bool) -> Callable[[Path], tuple[str, Compile]]:
    def contender(cache: Path) -> tuple[str, Compile]:
        xgr = load_xgrammar(cache)
        end = 256
        vocabulary = xgr.TokenizerInfo(
            [*(bytes((byte,)) for byte in range(end)), b"<end>"], xgr.VocabType.RAW, stop_token_ids=[end]
        )
        compiler = xgr.GrammarCompiler(vocabulary, max_threads=1, cache_enabled=False)

        def start(schema: dict[str, Any]) -> Accept:
            try:
                compiled = compiler.compile_json_schema(json.dumps({**schema, "type": "object"}), **options)
            except (RuntimeError, ValueError) as error:
                raise RefusedError(str(error)) from None

            def accept(text: str) -> bool:
                matcher = xgr.GrammarMatcher(compiled)
                return bool(matcher.accept_string(text) and matcher.accept_token(end))

            return accept

        return xgrammar_version(cache), start

    return contender


CONTENDERS: dict[str, Callable[[Path], tuple[str, Compile]]] = {
    "ours": ours,
    "llguidance": llguidance({}),
    "llguidance, coerce_one_of": llguidance({"coerce_one_of": True}),
    "llguidance, lenient": llguidance({"lenient": True}),
    "xgrammar": xgrammar(),
    "xgrammar, not strict": xgrammar(strict_mode=False),
    "xgrammar, any order": xgrammar(strict_mode=False, any_order=True),
}

# Where xgrammar comes from

_NEEDS = ("apache-tvm-ffi", "numpy", "pydantic", "typing-extensions")
"""What it really runs with; the rest of what it asks for are several GB."""
_STAND_INS = ("torch", "transformers")


def fetch_xgrammar(cache: Path) -> None:
    """Have pip put the newest xgrammar into the cache where there is none. Raises ImportError."""
    folder = _xgrammar_folder(cache)
    if folder.exists():
        return
    progress.print("fetching xgrammar and what it needs with pip, about 50 MB ...")
    cache.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
    for options in (("--no-deps", "xgrammar"), _NEEDS):
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        done = subprocess.run([*command, "--target", str(scratch), *options], stdout=sys.stderr)
        if done.returncode:
            shutil.rmtree(scratch, ignore_errors=True)
            raise ImportError(f"pip failed with exit status {done.returncode}")
    scratch.rename(folder)


def load_xgrammar(cache: Path) -> Any:
    """The module, for a process of its own: it comes with other versions of what we may use, and with stand-ins."""
    if not _xgrammar_folder(cache).exists():
        raise ImportError("xgrammar isn't in the cache")
    sys.path.insert(0, str(_xgrammar_folder(cache)))
    import_module("tvm_ffi")  # it looks for torch, which it shall not find
    for name in _STAND_INS:
        sys.modules[name] = MagicMock()
    # It warns of every keyword that it doesn't know, past Python's stderr.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return import_module("xgrammar")


def xgrammar_version(cache: Path) -> str:
    found = next(_xgrammar_folder(cache).glob("xgrammar-*.dist-info"), None)
    return found.name.split("-")[1].removesuffix(".dist") if found else "?"


def _xgrammar_folder(cache: Path) -> Path:
    return cache / f"xgrammar-{sys.implementation.cache_tag}"


# Asking


@dataclass
class Answer:
    """What became of a case: why it was refused, the CPU seconds of compiling, and of each instance the spellings and
    which of them were accepted.
    """

    refused: str | None = None
    seconds: float | None = None
    accepted: list[list[bool]] = field(default_factory=list)


def _ask(compile: Compile, case: Case, seed: int) -> Answer:
    clear_caches()
    begun = time.process_time()
    try:
        accept = compile(case.schema)
    except RefusedError as error:
        return Answer(str(error), time.process_time() - begun)
    except Exception as error:
        return Answer(f"RAISED {error!r}")
    answer = Answer(None, time.process_time() - begun)
    for number, (data, _) in enumerate(case.tests):
        rng = random.Random(f"{seed}:{case.id}:{number}")
        answer.accepted.append([])
        for text in spellings(data, case.schema, rng):
            try:
                answer.accepted[-1].append(accept(text))
            except Exception as error:
                return replace(answer, refused=f"RAISED {error!r} on {text[:SHOWN]}", accepted=[])
    return answer


def _serve(pipe: Connection, name: str, cache: Path, seed: int) -> None:
    """A contender's process."""
    try:
        version, compile = CONTENDERS[name](cache)
    except Exception as error:  # whatever a peer's newest version may have in store for us
        pipe.send(error if isinstance(error, ImportError) else ImportError(repr(error)))
        return
    pipe.send(version)
    while (case := pipe.recv()) is not None:
        pipe.send(_ask(compile, case, seed))


class Worker:
    """A contender in a process of its own, started again when it dies or takes too long."""

    def __init__(self, name: str, cache: Path, seed: int, limit: float) -> None:
        """Raises ImportError where it can't be loaded."""
        self._arguments = name, cache, seed
        self._limit = limit
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        said = self._pipe.recv()
        if isinstance(said, ImportError):
            raise said
        self.version: str = said

    def ask(self, case: Case) -> Answer:
        self._pipe.send(case)
        try:
            if self._pipe.poll(self._limit):
                answer = self._pipe.recv()
                assert isinstance(answer, Answer)
                return answer
            fault = f"took longer than {self._limit:g} s"
        except EOFError:
            fault = "died"
        self._process.kill()
        self._process.join()
        self._start()
        return Answer(fault)

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


@dataclass
class Result:
    """A contender's figures over one source."""

    schemas: int = 0
    compiled: int = 0
    wrongly: int = 0
    valid: int = 0
    best: int = 0
    every: int = 0
    invalid: int = 0
    rejected: int = 0
    loose: int = 0
    seconds: list[float] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, case: Case, answer: Answer, seed: int) -> None:
        self.schemas += 1
        self.valid += sum(valid for _, valid in case.tests)
        self.invalid += sum(not valid for _, valid in case.tests)
        if answer.seconds is not None:
            self.seconds.append(answer.seconds)
        if answer.refused is not None:
            self.rejected += sum(not valid for _, valid in case.tests)
            self.wrongly += any(valid for _, valid in case.tests)
            self.remarks.append(f"refused {case.id}: {answer.refused[:SHOWN]}")
            return
        self.compiled += 1
        loose = False
        for number, ((data, valid), accepted) in enumerate(zip(case.tests, answer.accepted, strict=True)):
            if valid:
                self.best += any(accepted)
                self.every += all(accepted)
            else:
                self.rejected += not any(accepted)
                loose = loose or any(accepted)
            if any(accepted) != valid or all(accepted) != valid:
                texts = spellings(data, case.schema, random.Random(f"{seed}:{case.id}:{number}"))
                text = next(text for text, was in zip(texts, accepted, strict=True) if was != valid)
                kind = "rejected a valid" if valid else "accepted an invalid"
                self.remarks.append(f"{kind} instance ({number}) of {case.id}: {text[:SHOWN]}")
        self.loose += loose


def measure(name: str, cases: Sequence[Case], arguments: argparse.Namespace) -> tuple[str, dict[str, Result]] | None:
    """The contender's version and its figures by source, or None where it can't be had."""
    try:
        worker = Worker(name, arguments.cache, arguments.seed, arguments.limit)
    except (ImportError, EOFError) as error:
        progress.print(f"{name} is left out, as it can't be loaded: {error!r}", markup=False)
        return None
    results: dict[str, Result] = {}
    begun = time.perf_counter()
    for case in cases:
        if case.source not in results:
            progress.print(f"{name}: {case.source}, {time.perf_counter() - begun:.0f} s in ...", highlight=False)
        results.setdefault(case.source, Result()).add(case, worker.ask(case), arguments.seed)
    worker.close()
    return worker.version, results


def comparison(measured: Mapping[str, Mapping[str, Result]]) -> Table:
    """A row for each contender on each source."""
    right = ("compiled", "refused", "wrongly", "loose", "best", "every", "invalid rejected", "median", "p99 ms")
    table = Table("source", "contender", box=None)
    for title in right:
        table.add_column(title, justify="right")
    for source in dict.fromkeys(source for results in measured.values() for source in results):
        for name, results in measured.items():
            result = results[source]
            milliseconds = sorted(each * 1e3 for each in result.seconds) or [math.nan]
            table.add_row(
                source,
                name,
                f"{result.compiled} of {result.schemas}",
                str(result.schemas - result.compiled),
                str(result.wrongly),
                str(result.loose),
                _share(result.best, result.valid),
                _share(result.every, result.valid),
                f"{result.rejected} of {result.invalid}",
                f"{statistics.median(milliseconds):.2f}",
                f"{milliseconds[math.ceil(len(milliseconds) * 0.99) - 1]:.1f}",
            )
        table.add_row()
    return table


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else ""


def load(arguments: argparse.Namespace) -> list[Case]:
    """All the cases, `--n` of each source."""
    folder = arguments.data / "schemas"
    sources: dict[str, tuple[Callable[[], Iterator[Group]], bool]] = {
        "maskbench": (lambda: maskbench(folder), True),
        "mcp_tools": (lambda: mcp_tools(folder), False),
        "mfjs": (lambda: mfjs(folder, True), True),
        "mfjs, refused there": (lambda: mfjs(folder, False), False),
        "test suite": (lambda: test_suite(folder), True),
    }
    if arguments.schemas:
        sources = {path.name: (lambda path=path: of_a_file(path), True) for path in arguments.schemas}  # type: ignore[misc]
    elif not folder.is_dir():
        raise SystemExit(f"expected the schemas in {folder}: say where they are with --data DIR, or use --schemas FILE")
    found: list[Case] = []
    for source, (groups, wrap) in sources.items():
        progress.print(f"{source}: reading ...")
        all_groups = list(groups())
        if arguments.n is not None and arguments.n < len(all_groups):
            picked = random.Random(arguments.seed).sample(range(len(all_groups)), arguments.n)
            all_groups = [all_groups[at] for at in sorted(picked)]
        found += cases(source, all_groups, arguments.seed, wrap)
    return sorted(found, key=lambda case: case.source)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that has `schemas`")
    parser.add_argument("--schemas", type=Path, nargs="+", help="files of JSON lines to take instead")
    parser.add_argument("--n", type=int, help="schemas of each source, sampled; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="the contenders")
    parser.add_argument("--limit", type=float, default=20, help="seconds that a contender has for a schema")
    parser.add_argument("--cache", type=Path, default=cache_directory() / "bench", help="where xgrammar is kept")
    parser.add_argument("--verbose", action="store_true", help="list what was refused, and what went wrong")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    found = load(arguments)
    names = list(dict.fromkeys(arguments.only))
    if any(name.startswith("xgrammar") for name in names):
        try:
            fetch_xgrammar(arguments.cache)
        except ImportError as error:
            progress.print(f"xgrammar can't be fetched: {error}", markup=False)
    with ThreadPoolExecutor(max_workers=2) as threads:
        answers = dict(zip(names, threads.map(lambda name: measure(name, found, arguments), names), strict=True))
    measured = {name: answer[1] for name, answer in answers.items() if answer is not None}
    versions = {name.partition(",")[0]: answer[0] for name, answer in answers.items() if answer is not None}

    console = Console(width=None if sys.stdout.isatty() else 160)
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    console.print(f"Python {sys.version.split()[0]}, {told}\n", highlight=False)
    console.print(comparison(measured))
    if arguments.verbose:
        for name, results in measured.items():
            for source, result in results.items():
                for remark in result.remarks:
                    print(f"{name}, {source}: {remark}")


if __name__ == "__main__":
    main()
