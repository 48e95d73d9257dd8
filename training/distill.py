"""Has the base model itself answer general prompts, so that training does not unlearn them.

    python -m training.distill --model MODEL.gguf --out distilled.jsonl

Writes `{"prompt": ..., "answer": ...}` a line, for every prompt of material/prompts.txt that got a usable answer.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import xllamacpp

from training.data import material

SYSTEM = "You are a helpful assistant."


def whole_sentences(text: str) -> str:
    """Cut after the last full stop, at most three sentences."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", text)]
    # The number of a list's item ends no sentence.
    ends = [end for end in ends if not re.search(r"(?:^|\s)\d+\.$", text[:end])]
    return text[: ends[min(len(ends), 3) - 1]].strip() if ends else ""


def load_server(model: Path) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = 512
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.verbosity = -1
    return xllamacpp.Server(params)


def answer(server: xllamacpp.Server, prompt: str) -> str:
    turns = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    reply = server.handle_completions({"prompt": turns, "n_predict": 60, "temperature": 0.0, "stop": ["<|im_end|>"]})
    return whole_sentences(reply["choices"][0]["text"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.distill", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="the base model, GGUF")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    server = load_server(options.model)
    with options.out.open("w", encoding="utf-8") as out:
        for prompt in material.lines("prompts"):
            text = answer(server, prompt)
            # It introduces itself by a name that is not the product's.
            if text and "SmolLM" not in text:
                out.write(json.dumps({"prompt": prompt, "answer": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
