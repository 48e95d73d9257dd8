"""vLLM (0.32; https://docs.vllm.ai/en/latest/features/structured_outputs.html)."""

from __future__ import annotations

import json

from abruzzi.engines.api import Api, Constraint

# With either backend and with `auto`, which hands Lark to llguidance. That one comes first: xgrammar lets raw control
# characters into strings of a bounded length. Fields that vLLM doesn't know it ignores.
_LARK = Constraint("structured_outputs.grammar", lambda grammar, ids: _structured("grammar", grammar.lark_tokens))
_TAG = Constraint(
    "structured_outputs.structural_tag",
    lambda grammar, ids: _structured("structural_tag", json.dumps(grammar.structural_tag(ids))),
)


def _structured(kind: str, text: str) -> dict[str, dict[str, str]]:
    return {"structured_outputs": {kind: text}}


VLLM = Api(
    name="vLLM",
    owner="vllm",
    version="/version",
    fields={"skip_special_tokens": False, "spaces_between_special_tokens": False},
    stops_at_ids=True,
    ids_out={"return_token_ids": True},
    tokenize=lambda model, text: ("/tokenize", {"model": model, "prompt": text, "add_special_tokens": False}),
    constraints=(_LARK, _TAG),
)
