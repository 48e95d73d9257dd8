"""TensorRT-LLM's YAML of further options (`--extra_llm_api_options`, `--config`), checked before anything starts: the
engine forbids keys that it doesn't know, and says so after minutes. What pydantic turns into the right type is right.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from abruzzi.engines.launch.llm_api_keys import PLACES, RENAMED, Kind
from abruzzi.engines.launch.program import NO_TEXT
from abruzzi.protocol.errors import RequestError

# How alike two keys are, from 0 to 1, where one is taken for the other misspelled.
_ALIKE = 0.85
GUIDED = (
    "without guided_decoding_backend: xgrammar the engine obeys no grammar: the guard alone keeps calls valid, at the"
    " cost of asking again"
)
LLGUIDANCE = (
    "guided_decoding_backend: llguidance can't take K2's vocabulary (0.7.29, TensorRT-LLM's, ends at tokens of 256"
    " bytes, of which K2 has two): take xgrammar"
)
_DIGITS = re.compile(r"[+-]?\d+(?:_\d+)*(?:\.0*)?", re.ASCII)
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "y", "t", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "f", "0"), False),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a file says: its keys, and what there is to know of them."""

    keys: frozenset[str]
    """Those of a section as `section.key`, too."""
    notes: tuple[str, ...]


def check(file: Path, *, is_k2: bool = False) -> Found:
    """Raises RequestError, with the file and the line, for all keys that are misspelled, misplaced or renamed or have
    values of a wrong type, or one with which the model can't be served; and for what is no YAML.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"can't read {file}: {getattr(error, 'strerror', None) or error}") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise RequestError(f"expected keys and values in {file}, got {_kind_of(node)}")
        faults = [f"{file}:{line}: {fault}" for line, fault in sorted(_faults(loader, node, "", is_k2))]
        entries = dict(_entries(loader, node))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise RequestError(f"{file}{line}: expected YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise RequestError(f"{file}: expected a few levels, got one inside another too many times") from None
    if faults:
        raise RequestError("\n".join(("expected other options for TensorRT-LLM (--no-check skips this):", *faults)))
    inner = {f"{place}.{key}" for place, section in _sections(entries) for key in section}
    return Found(frozenset(entries) | inner, tuple(f"{file}: {note}" for note in _notes(entries)))


def _entries(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Iterator[tuple[str, Any]]:
    for key, value in node.value:
        yield str(key.value), _read(loader, value)


def _sections(entries: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Those whose keys are known."""
    for place, value in entries.items():
        if place in PLACES and isinstance(value, dict):
            yield place, value


def _read(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """The value; raises YAMLError, with its line, for one that its type has not: a date of month 13, digits by the
    thousand.
    """
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, LookupError, AttributeError, OverflowError, TypeError) as error:
        problem = f"a value that is none ({type(error).__name__}: {str(error)[:80]})"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


def _faults(loader: yaml.SafeLoader, node: yaml.MappingNode, place: str, is_k2: bool) -> Iterator[tuple[int, str]]:
    """The line of each fault, and what it is, at a place: `kv_cache_config`, or nothing for the file as a whole."""
    known, seen = PLACES[place], dict[str, int]()
    for key, _ in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if not isinstance(key, yaml.ScalarNode):
            yield line, "expected a name for a key, got a list or keys and values"
            return
        if name in seen:
            yield line, f"{name} stands twice, in line {seen[name]} too"
        seen[name] = line
    loader.flatten_mapping(node)
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        kind = known.get(name)
        if kind is None:
            if told := _misspelled(name, place):
                yield line, told
            continue
        if name in PLACES and isinstance(value, yaml.MappingNode):
            # Before it is constructed, which takes merged keys for its own.
            yield from _faults(loader, value, name, is_k2)
            continue
        read = _read(loader, value)
        if not _fits(read, kind):
            yield line, f"expected {_expected(kind)} for {name}, got {_shown(read)}"
        elif name == "skip_tokenizer_init" and _truth(read) is True:
            yield line, f"{name} can't stay: {NO_TEXT}"
        elif name == "trust_remote_code" and is_k2 and _truth(read) is False:
            yield line, f"{name} can't be false: K2's checkpoint brings code of its own, and what stands here counts"


def _misspelled(name: str, place: str) -> str:
    """What is wrong with a key that isn't known here; nothing where it may be a newer version's."""
    where = f" in {place}" if place else ""
    if now := RENAMED.get((place, name)):
        return f"{name}{where} is {now} since version 1.0"
    elsewhere = [other for other, keys in PLACES.items() if name in keys]
    if elsewhere:
        belongs = f"in {elsewhere[0]}" if elsewhere[0] else "at the top, not indented"
        return f"{name} has no meaning{where or ' at the top'}: it belongs {belongs}"
    close = difflib.get_close_matches(name.replace("-", "_").lower(), PLACES[place], n=1, cutoff=_ALIKE)
    return f"unknown key {name}{where}: {close[0]} is meant?" if close else ""


def _fits(value: Any, kind: Kind) -> bool:
    if value is None:
        return kind.is_optional
    if kind.choices:
        return isinstance(value, str) and value in kind.choices
    return _FITTING[kind.type](value)


def _truth(value: Any) -> bool | None:
    """As pydantic reads a boolean; None for what is none."""
    if isinstance(value, str):
        return _BOOLEANS.get(value.lower())
    return bool(value) if isinstance(value, bool) or value in (0, 1) else None


def _is_boolean(value: Any) -> bool:
    return _truth(value) is not None


def _is_number(value: Any) -> bool:
    """YAML 1.1 takes 1e-3 for a text, and pydantic reads it all the same."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return False
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_integer(value: Any) -> bool:
    """Of texts pydantic takes digits alone: 1e3, which YAML 1.1 has for a text, is none."""
    if isinstance(value, str):
        return _DIGITS.fullmatch(value.strip()) is not None
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list_of_integers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_integer, value))


_FITTING: Mapping[str, Callable[[Any], bool]] = {
    "true or false": _is_boolean,
    "an integer": _is_integer,
    "a number": _is_number,
    "a text": lambda value: isinstance(value, str),
    "any": lambda value: True,
    "keys and values": lambda value: isinstance(value, dict),
    "a list of integers": _is_list_of_integers,
}


def _expected(kind: Kind) -> str:
    return (" or ".join(kind.choices) if kind.choices else kind.type) + (" or null" if kind.is_optional else "")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "keys and values"
    text = repr(value) if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    return text if len(text) < 60 else f"{text[:57]}..."


def _kind_of(node: yaml.Node | None) -> str:
    return "nothing" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _notes(entries: Mapping[str, Any]) -> Iterator[str]:
    """What the keys that matter mean, a line each."""
    if "cuda_graph_config" in entries:
        yield f"cuda_graph_config: {_graphs(entries['cuda_graph_config'])}"
    if _truth(entries.get("enable_attention_dp")) is True:
        yield (
            "enable_attention_dp: each GPU attends to requests of its own, and max_batch_size is a GPU's: more tokens"
            " in all, slower for a single request"
        )
    backend = entries.get("guided_decoding_backend")
    if backend is None:
        yield GUIDED
    elif backend == "llguidance":
        yield LLGUIDANCE
    for place, keys in ("", entries), *_sections(entries):
        for key in keys:
            if key not in PLACES[place] and key != "<<":
                where = f" in {place}" if place else ""
                yield f"{key}{where} isn't known here, and goes to the engine as it stands"


def _graphs(config: Any) -> str:
    if config is None:
        return "off, so that the CPU starts each kernel of each token: slower where few requests run at once"
    sizes = config.get("batch_sizes") or []
    most = max(map(float, sizes)) if sizes else config.get("max_batch_size") or 128
    padded = "; others are padded to the next of them" if _truth(config.get("enable_padding")) else ""
    which = f"{len(sizes)} batch sizes" if sizes else "batch sizes"
    return f"tokens are made by CUDA graphs for {which} up to {float(most):g}{padded}; a larger batch goes without"
