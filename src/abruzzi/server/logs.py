"""A line a request on stderr; and the form of what else is logged."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from abruzzi.server.exchange import Exchange
from abruzzi.server.metrics import error_type

_PLAIN = re.compile(r"[\w./:+@-]+", re.ASCII)


class RequestLog:
    """Writes what became of each request, and with `with_content` what was asked and what the model wrote."""

    def __init__(self, form: Literal["text", "json"], *, with_content: bool = False) -> None:
        self._shown = _as_json if form == "json" else _as_text
        self._with_content = with_content

    def done(self, exchange: Exchange) -> None:
        """An exchange is over."""
        fields = _fields(exchange)
        if self._with_content:
            fields["request"] = exchange.body
            fields["outputs"] = [report.output for report in exchange.reports.values()]
        # Straight to the file: logging's own way there takes as long as all the rest of this. That nobody reads it any
        # more is no reason to end a connection.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(self._shown(fields))


def _fields(exchange: Exchange) -> dict[str, Any]:
    reports, first, began = exchange.reports.values(), exchange.first, exchange.began
    usage = exchange.usage if reports else None
    return {
        "time": _time(exchange.at),
        "request_id": exchange.id,
        "method": exchange.scope["method"],
        "path": exchange.scope["path"],
        "status": exchange.status or None,
        "ms": round((time.perf_counter() - began) * 1000, 1),
        "first_ms": None if first is None else round((first - began) * 1000, 1),
        "streamed": exchange.streamed,
        "prompt_tokens": None if usage is None else usage.prompt,
        "completion_tokens": None if usage is None else usage.completion,
        "violations": _violations(exchange),
        "resumes": sum(report.resumes for report in reports),
        "finish": ",".join(exchange.finish_reasons) or None,
        "ignored": (exchange.call and ",".join(exchange.call.ignored)) or None,
        "error": None if exchange.error is None else error_type(exchange.error),
    }


def _violations(exchange: Exchange) -> dict[str, int]:
    sources = (*exchange.reports.values(), exchange.error)
    told = [found for one in sources if (found := getattr(one, "violations", None))]
    return dict(sum(map(Counter, told), Counter[str]())) if told else {}


def _as_json(fields: dict[str, Any]) -> str:
    return msgspec.json.encode(fields).decode() + "\n"


def _as_text(fields: dict[str, Any]) -> str:
    """key=value, without what there is none of."""
    return " ".join(f"{key}={_value(value)}" for key, value in fields.items() if value not in (None, {})) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    # A line stays one, whatever a client sends for a path.
    return text if _PLAIN.fullmatch(text) else msgspec.json.encode(text).decode()


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON, its traceback with it."""

    def format(self, record: logging.LogRecord) -> str:
        told = {"time": _time(record.created), "level": record.levelname.lower(), "logger": record.name}
        told["message"] = record.getMessage()
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(told).decode()


def configure(form: Literal["text", "json"]) -> None:
    """Have this process log to stderr."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
