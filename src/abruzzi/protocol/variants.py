"""The prompt formats that are known, a row each.

A new member of the K2 family is a new row; a format that isn't K2's (Kimi K3's) would be a second template and parser
with the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from abruzzi.protocol.declare import instructed_signatures, json_declaration, signatures
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Role, Tool

SECTION_BEGIN = "<|tool_calls_section_begin|>"
SECTION_END = "<|tool_calls_section_end|>"
CALL_BEGIN = "<|tool_call_begin|>"
ARGUMENT_BEGIN = "<|tool_call_argument_begin|>"
CALL_END = "<|tool_call_end|>"
# The order in which they follow one another in a section.
MARKERS = (SECTION_BEGIN, CALL_BEGIN, ARGUMENT_BEGIN, CALL_END, SECTION_END)


@dataclass(frozen=True, slots=True)
class Variant:
    """How one model family writes a conversation.

    A turn is `turn_begin[role]` + label + `middle` + content + `turn_end` + `after_turn`; the label is `labels[role]`,
    or the message's name where the family shows names. Of these, whatever stands in `controls` is a control token; all
    else is ordinary text.
    """

    name: str
    turn_begin: Mapping[Role, str]
    labels: Mapping[Role, str]
    middle: str
    turn_end: str
    after_turn: str
    controls: frozenset[str]
    """Spellings that are single tokens of the model's vocabulary and that no content may ever form."""
    shows_names: bool
    result: str
    """How a tool's result is put, with `{id}` and `{content}`."""
    declare: Callable[[Sequence[Tool]], str]
    declare_label: str
    default_system: str
    after_default_system: str


def _k2_controls() -> frozenset[str]:
    turns = ("<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>")
    media = ("<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>")
    others = ("[BOS]", "[EOS]", "[EOT]", "[UNK]", "[PAD]", "<|start_header_id|>", "<|end_header_id|>")
    return frozenset((*turns, *media, *others, *MARKERS))


_ROLES: Mapping[Role, str] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}

K2 = Variant(
    name="k2",
    turn_begin={
        "system": "<|im_system|>",
        "user": "<|im_user|>",
        "assistant": "<|im_assistant|>",
        "tool": "<|im_system|>",
    },
    labels=_ROLES,
    middle="<|im_middle|>",
    turn_end="<|im_end|>",
    after_turn="",
    controls=_k2_controls(),
    shows_names=True,
    result="## Return of {id}\n{content}",
    declare=json_declaration,
    declare_label="tool_declare",
    default_system="You are Kimi, an AI assistant created by Moonshot AI.",
    # The published template leaves one literal newline behind the default system turn, and only there.
    after_default_system="\n",
)

# The embedded model speaks ChatML and has no tokens for K2's markers: it spells them out, as it was trained to.
SMOLLM2 = Variant(
    name="smollm2",
    turn_begin=dict.fromkeys(("system", "user", "assistant", "tool"), "<|im_start|>"),
    labels=_ROLES,
    middle="\n",
    turn_end="<|im_end|>",
    after_turn="\n",
    controls=frozenset(("<|im_start|>", "<|im_end|>", "<|endoftext|>")),
    shows_names=False,
    result="## Return of {id}\n{content}",
    declare=signatures,
    declare_label="tools",
    default_system="You are a helpful assistant.",
    after_default_system="",
)

# A general model that was never trained on K2's format: it is told how to write it, and knows no role `tool`.
QWEN25 = replace(
    SMOLLM2,
    name="qwen2.5",
    labels={**_ROLES, "tool": "user"},
    result="{id} has returned:\n{content}\nUse it to answer me in words.",
    declare=instructed_signatures,
)

VARIANTS: Mapping[str, Variant] = {variant.name: variant for variant in (K2, SMOLLM2, QWEN25)}


def variant_named(name: str) -> Variant:
    """The row with this name. Raises RequestError with the names there are."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise RequestError(f"unknown variant {name!r}: expected one of {', '.join(VARIANTS)}") from None
