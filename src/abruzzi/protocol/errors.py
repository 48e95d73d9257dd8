"""What can go wrong, and whose fault it is.

    AbruzziError
    ├── RequestError           the client's: a schema, role or choice that makes no sense (HTTP 400)
    │   ├── PromptTooLong      the model reads no prompt of that length (HTTP 400)
    │   └── ...                it may not come in, or not now, or not like that (HTTP 4xx; abruzzi.server.refusals)
    ├── ToolError              the caller's: a function or file that can't be made tools of (HTTP 400; abruzzi.tools)
    ├── OutputError            the model's: no valid output could be had from it (HTTP 502)
    └── EngineError            the engine's: it refused or failed (HTTP 502)
        ├── Refused            it wants no such request (abruzzi.engines.refusal)
        ├── Failed             it is there, and failed at this request (abruzzi.engines.refusal)
        ├── EngineUnavailable  it can't be reached or can't start (HTTP 503)
        │   └── KeyRefused     it asks for another key (abruzzi.engines.served)
        └── EngineTimeout      it went silent (HTTP 504)

A message says what was expected, what came instead, and where.
"""

from __future__ import annotations

from collections.abc import Mapping


class AbruzziError(Exception):
    """Base of every error that this package raises on purpose.

    `code` is a word for it that programs may rely on, as OpenAI's API has them; None where the status says it all.
    """

    status = 500
    code: str | None = None


class RequestError(AbruzziError):
    """The request can't be served as it stands.

    `param` is the path of the fault in the client's own request, such as
    `tools[3].function.parameters`, or None where the whole request is meant.
    """

    status = 400

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(f"{message} (at {param})" if param else message)
        self.reason = message
        self.param = param


class PromptTooLong(RequestError):
    """The prompt, or the prompt and the limit of the answer, is longer than what the model reads."""

    code = "context_length_exceeded"


class OutputError(AbruzziError):
    """The model's output could not be turned into anything valid. `violations`: how often it could not go on as it was,
    by kind; `engine`: what the engine is called that wrote it, where that is known.
    """

    status = 502
    engine = ""
    code = "invalid_output"

    def __init__(self, message: str, violations: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.violations = dict(violations or {})


class EngineError(AbruzziError):
    """The engine refused the request or failed while it answered."""

    status = 502
    code = "engine_error"


class EngineUnavailable(EngineError):
    """The engine can't be reached, can't be started, or has too much to do. `retry_after`: in how many seconds it wants
    to be asked again, where it says so.
    """

    status = 503
    code = "engine_unavailable"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineTimeout(EngineError):
    """The engine stopped answering."""

    status = 504
    code = "engine_timeout"
