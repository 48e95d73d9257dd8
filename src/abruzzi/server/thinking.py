"""Whether the model is to think before it answers, in the fields that OpenAI's APIs, vLLM's and Moonshot's have for it.

A switch that the model hasn't got changes nothing, as with vLLM and SGLang, whose templates don't look at it: agents
send one whatever model they speak to, and must get an answer.
"""

from __future__ import annotations

from typing import Any

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.variants import Variant
from abruzzi.server.dialect import Fields

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def switched(thinking: bool | None, variant: Variant) -> bool | None:
    """The switch, where the model has one; None leaves it to the model's kind."""
    return thinking if variant.opens_thinking else None


def effort_of(fields: Fields, key: str) -> bool | None:
    """An effort as a switch: no model of K2's family knows more of one than whether to make it."""
    return False if fields.one_of(key, *_EFFORTS) in ("none", "minimal") else None


def thinking_asked(fields: Fields) -> bool | None:
    """What a request of the chat API asks for: the model's own switch counts, then that of others, then the effort."""
    effort = effort_of(fields, "reasoning_effort")
    template = fields.object("chat_template_kwargs")
    switches = [
        thinking_of(holder.value.get(key), holder.at(key))
        for holder, key in ((template, "thinking"), (template, "enable_thinking"), (fields, "thinking"))
    ]
    return next((one for one in (*switches, effort) if one is not None), None)


def keeps_thinking(fields: Fields) -> bool:
    """Whether the reasoning of all turns is to stay in the history: vLLM's switch, or that of Moonshot's API."""
    moonshots = fields.value.get("thinking")
    if isinstance(moonshots, dict) and Fields(moonshots, "thinking").one_of("keep", "all"):
        return True
    return fields.object("chat_template_kwargs").boolean("preserve_thinking", default=False)


def thinking_of(value: Any, where: str = "thinking") -> bool | None:
    """The switch as vLLM has it (true or false), or as Moonshot's API has it (`{"type": "enabled" | "disabled"}`)."""
    if isinstance(value, dict) and value.get("type") in ("enabled", "disabled"):
        return bool(value["type"] == "enabled")
    if not isinstance(value, bool | None):
        raise RequestError(f'expected true, false or {{"type": "enabled" | "disabled"}}, got {value!r}', where)
    return value
