"""Events encoded to the response of Anthropic's `POST /v1/messages`.

Reference: https://docs.anthropic.com/en/api/messages-streaming. A call that `max_tokens` cuts off is in no message; in
a stream its block ends with what has gone out, and `stop_reason` tells.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from abruzzi.chat import Report
from abruzzi.protocol.errors import AbruzziError, PromptTooLong
from abruzzi.protocol.events import (
    ArgumentsDelta,
    ContentDelta,
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    ToolCallBegin,
)
from abruzzi.protocol.messages import Message
from abruzzi.server.dialect import event

_STOP_REASONS: Mapping[FinishReason, str] = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}
# Clients send thinking back only with a signature. It proves nothing here: whoever writes the prompt may well write
# what the model is to have thought.
_SIGNATURE = "abruzzi"
_ERRORS: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# Where faults of tools are told in OpenAI's form, in which the rest of the program has them.
_TOOL_PATH = re.compile(r"\btools\[(\d+)\]\.function\.(parameters\b)?")


@dataclass
class Encoder:
    """`model` is the name that the response gives; a `bare` one holds no `abruzzi`."""

    model: str
    bare: bool = False
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")
    _blocks: int = 0
    """How many have begun."""
    _open: str | None = None
    """The type of the last one, while it goes on."""
    _due: Mapping[str, Any] | None = None
    """A call's block that hasn't begun: one that is cut before its arguments would be taken for a call without any."""
    _finish: FinishReason = "stop"

    def whole(self, answers: Sequence[tuple[Message, Report]]) -> dict[str, Any]:
        ((message, report),) = answers
        blocks: list[dict[str, Any]] = []
        if message.reasoning_content:
            blocks.append({"type": "thinking", "thinking": message.reasoning_content, "signature": _SIGNATURE})
        if message.content:
            blocks.append({"type": "text", "text": message.content})
        for call in message.tool_calls:
            # As they were written: numbers that no double holds stay what they are.
            arguments = msgspec.Raw(call.function.arguments.encode())
            blocks.append({**_tool_use(call.function.name), "input": arguments})
        return {**self._head(blocks), **_stop(message.finish_reason or "stop", report.stop), **self._tail(report)}

    def begin(self) -> bytes:
        # What the prompt costs is known at the end only; counts are cumulative, and the last ones stand.
        message = {**self._head([]), **_stop(None), "usage": _usage(0, 0, 0)}
        return _frame("message_start", message=message)

    def frames(self, items: Sequence[Event | Report], index: int) -> bytes:
        return b"".join(map(self._frames, items))

    def end(self) -> bytes:
        return _frame("message_stop")

    def failed(self, error: AbruzziError) -> bytes:
        return event("error", error_body(error))

    def _frames(self, item: Event | Report) -> bytes:
        match item:
            case ReasoningDelta(text):
                opening = self._opening({"type": "thinking", "thinking": "", "signature": ""})
                return opening + self._delta("thinking_delta", thinking=text)
            case ContentDelta(text):
                return self._opening({"type": "text", "text": ""}) + self._delta("text_delta", text=text)
            case ToolCallBegin(_, _, name):
                self._due = {**_tool_use(name), "input": {}}
                return self._closing()
            case ArgumentsDelta(_, text):
                opening, self._due = self._opening(self._due) if self._due else b"", None
                return opening + self._delta("input_json_delta", partial_json=text)
            case Finish(reason):
                self._finish = reason
            case Report():
                return self._closing() + _frame(
                    "message_delta", delta=_stop(self._finish, item.stop), **self._tail(item)
                )
        return b""

    def _opening(self, block: Mapping[str, Any]) -> bytes:
        """What begins this block, unless one of its type goes on."""
        if self._open == block["type"]:
            return b""
        closing = self._closing()
        self._open = block["type"]
        self._blocks += 1
        return closing + _frame("content_block_start", index=self._blocks - 1, content_block=block)

    def _delta(self, kind: str, **more: str) -> bytes:
        return _frame("content_block_delta", index=self._blocks - 1, delta={"type": kind, **more})

    def _closing(self) -> bytes:
        """What ends the block that goes on, if one does."""
        if self._open is None:
            return b""
        signature = self._delta("signature_delta", signature=_SIGNATURE) if self._open == "thinking" else b""
        self._open = None
        return signature + _frame("content_block_stop", index=self._blocks - 1)

    def _head(self, content: Sequence[Any]) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content}

    def _tail(self, report: Report) -> dict[str, Any]:
        used = report.usage
        usage = _usage(max(0, used.prompt - used.cached), used.completion, used.cached)
        return {"usage": usage} if self.bare else {"usage": usage, "abruzzi": report.told()}


def _frame(kind: str, **more: Any) -> bytes:
    return event(kind, {"type": kind, **more})


def _tool_use(name: str) -> dict[str, Any]:
    """A call without its arguments. Its id is new: K2's `functions.NAME:N` breaks Anthropic's rule for ids,
    `^[a-zA-Z0-9_-]+$`, which holds as soon as a conversation is carried on elsewhere
    (https://github.com/maximhq/bifrost/issues/5097), and N begins anew where an agent sums up its conversation.
    """
    return {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": name}


def _stop(reason: FinishReason | None, sequence: str | None = None) -> dict[str, Any]:
    by_sequence = reason == "stop" and sequence is not None
    return {
        "stop_reason": "stop_sequence" if by_sequence else None if reason is None else _STOP_REASONS[reason],
        "stop_sequence": sequence if by_sequence else None,
        "stop_details": None,
    }


def _usage(prompt: int, completion: int, cached: int) -> dict[str, int]:
    """`input_tokens` are those that had to be read, unlike OpenAI's `prompt_tokens`."""
    return {
        "input_tokens": prompt,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": completion,
    }


def error_body(error: AbruzziError) -> dict[str, Any]:
    """An error as Anthropic's clients expect it: the path of the fault is in its message, `details` are where it has
    any.
    """
    kind = _ERRORS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    message = _TOOL_PATH.sub(lambda found: f"tools[{found[1]}]." + ("input_schema" if found[2] else ""), str(error))
    if isinstance(error, PromptTooLong):
        # By these words Claude Code knows that it has to sum up its conversation and ask again.
        message = f"prompt is too long: {message}"
    details = getattr(error, "details", None)
    told = (
        {"type": kind, "message": message}
        if details is None
        else {"type": kind, "message": message, "details": details}
    )
    return {"type": "error", "error": told}
