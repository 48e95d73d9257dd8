"""SGLang (0.5.23; https://docs.sglang.ai/advanced_features/structured_outputs.html)."""

from __future__ import annotations

from abruzzi.engines.api import Api, Constraint

# Fields that SGLang doesn't know it drops.
_TAG = Constraint("response_format", lambda grammar, ids: {"response_format": grammar.structural_tag(ids)})
# With `--grammar-backend llguidance`, which takes Lark where the field's name says otherwise.
_LARK = Constraint("ebnf", lambda grammar, ids: {"ebnf": grammar.lark_tokens})

SGLANG = Api(
    name="SGLang",
    owner="sglang",
    version="/server_info",
    fields={"skip_special_tokens": False},
    stops_at_ids=True,
    ids_out={"return_token_ids": True},
    tokenize=lambda model, text: ("/tokenize", {"model": model, "prompt": text, "add_special_tokens": False}),
    constraints=(_TAG, _LARK),
)
