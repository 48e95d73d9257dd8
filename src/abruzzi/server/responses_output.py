"""Answers of the Responses API: events written as its stream, or their sum as one `Response`.

Whichever it is, the response says the same. A call that the limit of tokens cut is in none: its stream has the deltas,
but no `response.output_item.done`, at which agents run calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from abruzzi.chat import Report
from abruzzi.protocol.errors import AbruzziError, RequestError
from abruzzi.protocol.events import (
    ArgumentsDelta,
    ContentDelta,
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    ToolCallBegin,
    ToolCallEnd,
)
from abruzzi.protocol.messages import Message
from abruzzi.server.custom_tools import input_of
from abruzzi.server.dialect import event
from abruzzi.server.response_store import Item
from abruzzi.server.responses_input import carried, new_id


class Encoder:
    """`told`: what the response repeats of the request. `keep` gets the response when it is whole."""

    def __init__(
        self,
        told: Mapping[str, Any],
        *,
        bare: bool = False,
        carries: bool = False,
        names: Mapping[str, tuple[str, str]] | None = None,
        custom: Collection[str] = (),
        keep: Callable[[Mapping[str, Any]], object] = lambda _: None,
    ) -> None:
        """`bare`: without `abruzzi`. `carries`: reasoning comes as `encrypted_content`, too. `names`: namespace and
        name there by the name that the model knows a tool by. `custom`: the names of tools that take free text.
        """
        self.id = new_id("resp")
        self._head = {"id": self.id, "object": "response", "created_at": int(time.time())}
        self._told = told
        self._bare = bare
        self._carries = carries
        self._names = names or {}
        self._custom = custom
        self._keep = keep
        self._done: list[Item] = []
        self._open: Item | None = None
        self._text: list[str] = []
        self._count = 0
        self._reason: FinishReason = "stop"
        self._report: Report | None = None

    # The whole

    def whole(self, answers: Sequence[tuple[Message, Report]]) -> dict[str, Any]:
        ((message, report),) = answers
        items = []
        if message.reasoning_content:
            items.append(self._written({"type": "reasoning", "id": new_id("rs")}, message.reasoning_content))
        if message.content:
            items.append(self._written({"type": "message", "id": new_id("msg")}, message.content))
        items += [
            self._written(self._call(call.id, call.function.name), call.function.arguments)
            for call in message.tool_calls
        ]
        if items and not message.tool_calls and _cuts_text(message.finish_reason, report):
            items[-1]["status"] = "incomplete"
        return self._finished(items, message.finish_reason, report)

    def _finished(self, output: list[Item], reason: FinishReason | None, report: Report) -> dict[str, Any]:
        is_cut = reason == "length"
        response = {
            **self._response("incomplete" if is_cut else "completed", output),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "completed_at": None if is_cut else int(time.time()),
            "usage": _usage(output, report),
            **({} if self._bare else {"abruzzi": report.told()}),
        }
        self._keep(response)
        return response

    def _response(self, status: str, output: Sequence[Item] = ()) -> dict[str, Any]:
        state = {"status": status, "error": None, "incomplete_details": None, "output": output}
        return {**self._head, **state, **self._told}

    def _call(self, id: str, name: str) -> Item:
        if name in self._custom:
            return {"type": "custom_tool_call", "id": new_id("ctc"), "call_id": id, "name": name}
        namespace, own = self._names.get(name, (None, name))
        item = {"type": "function_call", "id": new_id("fc"), "call_id": id, "name": own}
        return {**item, "namespace": namespace} if namespace else item

    def _written(self, item: Item, text: str, status: str = "completed") -> Item:
        """An item with its text, or one that is just beginning."""
        begins = status == "in_progress"
        match item["type"]:
            case "reasoning":
                part = {"type": "reasoning_text", "text": text}
                encrypted = {"encrypted_content": carried(text)} if self._carries and not begins else {}
                return {**item, "summary": [], "content": [] if begins else [part], **encrypted, "status": status}
            case "message":
                return {
                    **item,
                    "role": "assistant",
                    "content": [] if begins else [_output_text(text)],
                    "status": status,
                }
            case "custom_tool_call":
                return {**item, "input": "" if begins else input_of(text), "status": status}
        return {**item, "arguments": text, "status": status}

    # The stream

    def begin(self) -> bytes:
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def frames(self, items: Sequence[Event | Report], index: int) -> bytes:
        return b"".join(map(self._frame, items))

    def end(self) -> bytes:
        assert self._report is not None
        last = b""
        if self._open is not None and self._open["type"] in _TEXT_EVENTS:
            last = self._close("incomplete" if _cuts_text(self._reason, self._report) else "completed")
        response = self._finished(self._done, self._reason, self._report)
        return last + self._event(f"response.{response['status']}", response=response)

    def failed(self, error: AbruzziError) -> bytes:
        """Clients of the Responses API are told by the response itself; what was whole by then stands."""
        code = "invalid_prompt" if isinstance(error, RequestError) else "server_error"
        code = "rate_limit_exceeded" if error.status == 429 else code
        response = {**self._response("failed", self._done), "error": {"code": code, "message": str(error)}}
        return self._event("response.failed", response=response)

    def _frame(self, item: Event | Report) -> bytes:
        match item:
            case ReasoningDelta(text) if text:
                return self._add("reasoning", "rs", text)
            case ContentDelta(text) if text:
                return self._add("message", "msg", text)
            case ToolCallBegin(_, id, name):
                return self._close() + self._start(self._call(id, name))
            case ArgumentsDelta(_, text) if text:
                self._text.append(text)
                if self._open is not None and self._open["type"] == "custom_tool_call":
                    return b""  # JSON, of which the input is made when it is whole
                return self._event("response.function_call_arguments.delta", **self._place(), delta=text)
            case ToolCallEnd():
                return self._close()
            case Finish(reason):
                self._reason = reason
            case Report():
                self._report = item
        return b""

    def _add(self, kind: str, prefix: str, text: str) -> bytes:
        """More text, in the item of its kind."""
        frames = b""
        if self._open is None or self._open["type"] != kind:
            frames = self._close() + self._start({"type": kind, "id": new_id(prefix)})
            frames += self._event("response.content_part.added", **self._place(), content_index=0, part=_part(kind, ""))
        self._text.append(text)
        return frames + self._event(f"{_TEXT_EVENTS[kind]}.delta", **self._place(), **_in_part(kind), delta=text)

    def _start(self, item: Item) -> bytes:
        self._open, self._text = item, []
        index = len(self._done)
        return self._event(
            "response.output_item.added", output_index=index, item=self._written(item, "", "in_progress")
        )

    def _close(self, status: str = "completed") -> bytes:
        """End the item that is open."""
        if self._open is None:
            return b""
        text, place, kind = "".join(self._text), self._place(), self._open["type"]
        item = self._written(self._open, text, status)
        if kind == "function_call":
            frames = self._event(
                "response.function_call_arguments.done", **place, name=self._open["name"], arguments=text
            )
        elif kind == "custom_tool_call":
            frames = self._event("response.custom_tool_call_input.delta", **place, delta=item["input"])
            frames += self._event("response.custom_tool_call_input.done", **place, input=item["input"])
        else:
            frames = self._event(f"{_TEXT_EVENTS[kind]}.done", **place, **_in_part(kind), text=text)
            frames += self._event("response.content_part.done", **place, content_index=0, part=_part(kind, text))
        self._done.append(item)
        self._open = None
        return frames + self._event("response.output_item.done", output_index=place["output_index"], item=item)

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._done)}

    def _event(self, kind: str, /, **values: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._count, **values}
        self._count += 1
        return event(kind, value)


_TEXT_EVENTS = {"reasoning": "response.reasoning_text", "message": "response.output_text"}


def _in_part(kind: str) -> dict[str, Any]:
    return {"content_index": 0, **({"logprobs": []} if kind == "message" else {})}


def _part(kind: str, text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text} if kind == "reasoning" else _output_text(text)


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _cuts_text(reason: FinishReason | None, report: Report) -> bool:
    """Whether the limit ended the output in its text or reasoning, and not in a call behind it."""
    return reason == "length" and all(problem.kind != "truncated" for problem in report.problems)


def _usage(output: Sequence[Item], report: Report) -> dict[str, Any]:
    """No engine counts the tokens of reasoning apart: they are told by its share of the characters."""
    reasoning = sum(len(part["text"]) for item in output if item["type"] == "reasoning" for part in item["content"])
    usage = report.usage
    share = min(1.0, reasoning / max(1, len(report.output)))
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": round(usage.completion * share)},
        "total_tokens": usage.prompt + usage.completion,
    }
