"""Why the server itself turns a request down. Each goes out in the dialect that the client speaks."""

from __future__ import annotations

from abruzzi.protocol.errors import AbruzziError, EngineUnavailable, RequestError

Headers = tuple[tuple[bytes, bytes], ...]


class Refusal(RequestError):
    """`headers` go with the response."""

    headers: Headers = ()


class NoSuchPath(Refusal):
    """There is nothing at this path."""

    status = 404
    code = "not_found"


class NoSuchModel(NoSuchPath):
    """No model of this name is served."""

    code = "model_not_found"


class WrongMethod(Refusal):
    """There is, but for another method."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.headers = ((b"allow", allowed.encode()),)


class NoKey(Refusal):
    """A key is needed, and none that is known came with the request."""

    status = 401
    code = "invalid_api_key"
    headers = ((b"www-authenticate", b'Bearer realm="abruzzi"'),)


class NotFromHere(Refusal):
    """A web page may be behind the request that has no business here."""

    status = 403
    code = "origin_not_allowed"


class BodyTooLarge(Refusal):
    """The request's body is too long."""

    status = 413
    code = "request_too_large"


class BodyTooSlow(Refusal):
    """The request's body doesn't come."""

    status = 408
    code = "request_timeout"
    headers = ((b"connection", b"close"),)


class NoRoom(EngineUnavailable):
    """Too much of other requests' bodies is on its way."""

    code = "server_busy"
    headers: Headers = ((b"retry-after", b"1"),)


class NotHttp(Refusal):
    """What came is no request of HTTP."""

    code = "bad_request"
    headers = ((b"connection", b"close"),)


class HeadTooLarge(Refusal):
    """The request's head is too long."""

    status = 431
    code = "request_header_too_large"
    headers = ((b"connection", b"close"),)


class NotJson(Refusal):
    """The request says that its body is no JSON."""

    status = 415
    code = "unsupported_media_type"


class TooMany(Refusal):
    """Too many requests, at once or in a minute."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.headers = ((b"retry-after", str(seconds).encode()),)


class Stopping(EngineUnavailable):
    """The server was told to stop. Another one may take its place at the same address."""

    code = "server_stopping"
    headers: Headers = ((b"retry-after", b"5"), (b"connection", b"close"))

    def __init__(self) -> None:
        super().__init__("the server is stopping")


class ServerFault(AbruzziError):
    """A mistake of the server's own. What it was stands in the log: it may hold what other people wrote."""

    status = 500
    code = "internal_error"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"something went wrong in the server; its log tells what, under {request_id}")
