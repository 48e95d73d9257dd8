"""Makes the conversations that the embedded model's adapter is trained on.

    python -m training.data --shared SHARED --distilled distilled.jsonl --out FOLDER

Writes `train.jsonl` and `valid.jsonl`, a conversation a line:
`{"messages": [...], "tools": [...], "tool_format": "k2" | "pythonic", "source": "...", "set": N}`. Conversations of one
set stand together and have the same tools.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from training.data import dialogues
from training.data.catalog import load_tools
from training.data.corpus import build
from training.data.evals import Evals, load_evals
from training.data.irrelevant import Row, second_stage
from training.data.maker import Maker
from training.data.parts import divided, load_distilled, load_strangers
from training.data.places import third_stage
from training.data.sets import Sets, fifth_stage
from training.data.signatures import fourth_stage, load_signatures, made

_STAGES: dict[int, Callable[[Sequence[Row], random.Random], Sequence[Row]]] = {
    1: lambda rows, rng: rows,
    2: second_stage,
    3: third_stage,
}
# Of tools that are never trained.
VALID_SETS, VALID_STORIES = 24, 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.data", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder with dialogues/, schemas/, evals/")
    parser.add_argument("--distilled", type=Path, required=True, help="what training.distill wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--stage",
        type=int,
        choices=(1, 2, 3, 4, 5),
        default=1,
        help="2 and more: for training on from the adapter of the stage before",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of conversations made")
    options = parser.parse_args()
    specs = load_tools()
    evals = load_evals(options.shared / "evals")
    rng = random.Random(options.seed)
    strangers = load_strangers(options.shared / "schemas" / "mcp_tools.jsonl.xz", evals, rng)
    sources = dialogues.ALL if options.stage >= 4 else dialogues.SOURCES
    real = dialogues.load(options.shared / "dialogues", rng, sources)
    parts = divided(specs, load_distilled(options.distilled), strangers, real)
    options.out.mkdir(parents=True, exist_ok=True)
    train, valid = build(parts, specs, evals, seed=options.seed, scale=options.scale)
    rng = random.Random(options.seed)
    if options.stage >= 4:
        signatures = load_signatures(options.shared / "schemas" / "mcp_tools.jsonl.xz", evals)
        if options.stage == 4:
            train = shuffled(fourth_stage(train, signatures[0], rng), evals, rng)
        else:
            maker = Maker(parts[0], specs, rng)
            train = together(fifth_stage(train, signatures[0], maker, rng, options.scale), evals, rng)
            held = Sets(Maker(parts[1], specs, rng))
            valid += together((held.made() for _ in range(VALID_SETS)), evals, rng)
            valid += together((held.stories() for _ in range(VALID_STORIES)), evals, rng)
        valid += shuffled(made(signatures[1], rng, 1), evals, rng)
    else:
        train = list(_STAGES[options.stage](train, rng))
    for name, rows in (("train", train), ("valid", valid)):
        with (options.out / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{name}: {len(rows)} conversations")
        for source, count in sorted(collections.Counter(row["source"] for row in rows).items()):
            print(f"  {source:20} {count}")


def shuffled(rows: Iterable[Row], evals: Evals, rng: random.Random) -> list[Row]:
    """Without what touches an evaluation."""
    kept = [row for row in rows if not evals.overlap(row)]
    rng.shuffle(kept)
    return kept


def together(sets: Iterable[Sequence[Row]], evals: Evals, rng: random.Random) -> list[Row]:
    """The same with sets: the conversations of one stay beside each other."""
    kept = [found for rows in sets if (found := [row for row in rows if not evals.overlap(row)])]
    rng.shuffle(kept)
    return [{**row, "set": number} for number, rows in enumerate(kept) for row in rows]


if __name__ == "__main__":
    main()
