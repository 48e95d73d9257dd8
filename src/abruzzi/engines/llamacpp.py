"""llama.cpp's llama-server (https://github.com/ggml-org/llama.cpp/tree/master/tools/server)."""

from __future__ import annotations

from abruzzi.engines.api import Api, Constraint

_GBNF = Constraint("grammar", lambda grammar, ids: {"grammar": grammar.gbnf})

LLAMACPP = Api(
    name="llama-server",
    owner="llamacpp",
    version="/props",
    version_key="build_info",
    unlimited=True,
    renamed={"repetition_penalty": "repeat_penalty"},
    tokenize=lambda model, text: ("/tokenize", {"content": text, "parse_special": True}),
    constraints=(_GBNF,),
)
