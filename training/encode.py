"""Turns conversations into token ids and loss weights.

    python -m training.encode --model MODEL.gguf IN.jsonl OUT.jsonl

Writes `{"ids": [...], "weights": [...]}` a line: `weights[i]` is the weight of predicting `ids[i]`, 0 for what is only
read. The conversations of one set become one line, a tree: what they share, and behind it each one's rest; `starts`
says where those begin. Prompts are rendered by the product's own template, so that training and use can't part.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from abruzzi.engines.local.tokenizer import Tokenizer
from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN, CALL_END, SECTION_BEGIN, SECTION_END
from abruzzi.protocol.messages import Message, Tool
from abruzzi.protocol.template import render_prompt

VARIANT = "smollm2"
MAX_TOKENS, MAX_TREE = 1200, 2000
DECIDED = 1.0
# What a grammar would force anyway still has to be likely, or the unguided model stumbles.
FORCED = 0.2

Piece = tuple[str, float]


def encode(row: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """The ids of a conversation and the weight of each."""
    messages = [Message.from_openai(message, f"messages[{i}]") for i, message in enumerate(row["messages"])]
    tools = [Tool.from_openai(tool, f"tools[{i}]") for i, tool in enumerate(row["tools"])]
    end = tokenizer.controls["<|im_end|>"]
    ids = tokenizer.encode(render_prompt(messages, tools=tools, variant=VARIANT))
    weights = [0.0] * len(ids)
    last = 0
    for i, message in enumerate(row["messages"]):
        if not message.get("train"):
            continue
        start = len(tokenizer.encode(render_prompt(messages[:i], tools=tools, variant=VARIANT)))
        stop = ids.index(end, start)
        mark(ids, weights, start, stop, pieces(messages, i, row["tools"]), tokenizer)
        weights[start] = weights[stop] = DECIDED
        last = stop
    return ids[: last + 1], weights[: last + 1]


def trees(sequences: Sequence[tuple[list[int], list[float]]]) -> Iterator[Mapping[str, Any]]:
    """The sequences as lines of the file: as few trees as fit MAX_TREE."""
    left = list(sequences)
    while left:
        shared = shared_length(left)
        count, tokens = 0, shared
        while count < len(left) and (not count or tokens + len(left[count][0]) - shared <= MAX_TREE):
            tokens += len(left[count][0]) - shared
            count += 1
        chosen, left = left[:count], left[count:]
        if count == 1:
            yield {"ids": chosen[0][0], "weights": chosen[0][1]}
            continue
        tree: dict[str, list[Any]] = {"ids": chosen[0][0][:shared], "weights": [0.0] * shared, "starts": []}
        for ids, weights in chosen:
            tree["starts"].append(len(tree["ids"]))
            tree["ids"] += ids[shared:]
            tree["weights"] += weights[shared:]
        yield tree


def shared_length(sequences: Sequence[tuple[list[int], list[float]]]) -> int:
    """How many tokens all of them begin with; nothing that has a weight is shared."""
    firsts = zip(*(ids for ids, _ in sequences), strict=False)
    alike = sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, firsts))
    return min(alike, *(next(i for i, weight in enumerate(weights) if weight) for _, weights in sequences))


def mark(
    ids: Sequence[int], weights: list[float], start: int, stop: int, written: Sequence[Piece], tokenizer: Tokenizer
) -> None:
    """Set the weights of the tokens from `start` to `stop`: each takes the highest among its bytes."""
    by_byte = [weight for text, weight in written for _ in text.encode()]
    at = 0
    for i in range(start, stop):
        size = len(tokenizer.decode(ids[i : i + 1]))
        weights[i] = max(by_byte[at : at + size])
        at += size
    if at != len(by_byte):
        raise ValueError("the turn that was rendered is not the one that was weighed")


def pieces(messages: Sequence[Message], index: int, tools: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """The text of an assistant's turn, cut into what is decided and what is forced."""
    message = messages[index]
    found: list[Piece] = [(message.content or "", DECIDED)]
    if not message.tool_calls:
        return found
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    count = sum(len(earlier.tool_calls) for earlier in messages[:index])
    found.append((SECTION_BEGIN, FORCED))
    for i, call in enumerate(message.tool_calls):
        # Whether another call begins is decided where its marker parts from the section's end.
        found += forked(CALL_BEGIN) if i else [(CALL_BEGIN, FORCED)]
        found += [("functions.", FORCED), (call.function.name, DECIDED), (f":{count + i}", FORCED)]
        found.append((ARGUMENT_BEGIN, FORCED))
        found += argument_pieces(call.function.arguments, schemas.get(call.function.name, {}))
        found.append((CALL_END, FORCED))
    found += forked(SECTION_END)
    return found


def forked(marker: str) -> Iterator[Piece]:
    """`<|tool_call_begin|>` and `<|tool_calls_section_end|>` part after `<|tool_call`."""
    head = "<|tool_"
    yield head, FORCED
    yield marker[len(head) : len(head) + 5], DECIDED
    yield marker[len(head) + 5 :], FORCED


def argument_pieces(text: str, schema: Mapping[str, Any]) -> Iterator[Piece]:
    """Keys are forced where no optional one could stand instead; values are decided."""
    arguments = json.loads(text)
    declared = list(schema.get("properties") or {})
    required = set(schema.get("required") or ())
    yield "{", FORCED
    at = 0
    for i, (key, value) in enumerate(arguments.items()):
        place = declared.index(key) if key in declared else at
        free = any(name not in required for name in declared[at : place + 1])
        yield (", " if i else "") + json.dumps(key, ensure_ascii=False) + ": ", DECIDED if free else FORCED
        yield json.dumps(value, ensure_ascii=False), DECIDED
        at = place + 1
    yield "}", DECIDED if any(name not in required for name in declared[at:]) else FORCED


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.encode", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="the GGUF whose tokenizer is used")
    parser.add_argument("source", type=Path, help="conversations, as training.data writes them")
    parser.add_argument("target", type=Path, help="file to write")
    options = parser.parse_args()
    tokenizer = Tokenizer(options.model)
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with options.target.open("w", encoding="utf-8") as out:
        rows = enumerate(map(json.loads, options.source.read_text(encoding="utf-8").splitlines()))
        for _, same in itertools.groupby(rows, lambda entry: entry[1].get("set", -1 - entry[0])):
            sequences = []
            for _, row in same:
                ids, weights = encode(row, tokenizer)
                fits = len(ids) <= MAX_TOKENS
                if fits:
                    sequences.append((ids, weights))
                for count in (table[row["source"]], table["all"]):
                    count["kept"] += fits
                    count["dropped"] += not fits
                    count["tokens"] += len(ids) * fits
                    count["learned"] += sum(map(bool, weights)) * fits
            out.writelines(json.dumps(example) + "\n" for example in trees(sequences))
    print(f"{'kind':22}{'kept':>7}{'dropped':>9}{'tokens':>10}{'learned':>9}")
    for kind, count in sorted(table.items()):
        print(f"{kind:22}{count['kept']:7}{count['dropped']:9}{count['tokens']:10}{count['learned']:9}")


if __name__ == "__main__":
    main()
