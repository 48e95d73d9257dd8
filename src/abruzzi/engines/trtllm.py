"""TensorRT-LLM's trtllm-serve (1.2; https://nvidia.github.io/TensorRT-LLM/features/guided-decoding.html)."""

from __future__ import annotations

from abruzzi.engines.api import Api, Constraint

# Its xgrammar (0.1.32) knows no tokens: markers are text to it.
_TAG = Constraint("response_format", lambda grammar, ids: {"response_format": grammar.structural_tag()})

TRTLLM = Api(
    name="TensorRT-LLM",
    owner="tensorrt_llm",
    version="/version",
    # A field that it doesn't know is a 400. Text would get a [BOS] that the template has not written.
    fields={"skip_special_tokens": False, "spaces_between_special_tokens": False, "add_special_tokens": False},
    unlimited=True,
    stops_at_ids=True,  # ids of what it writes come only in place of the text
    constraints=(_TAG,),
)
