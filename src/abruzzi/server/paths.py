"""The server's paths: what answers at which, by which method, in whose dialect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from abruzzi.server.dialect import Dialect
from abruzzi.server.exchange import Exchange

Handler = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Path:
    """`name` is how it is told of and counted. What stands in braces at its end is any text, with slashes in it."""

    name: str
    handlers: Mapping[str, Handler]
    """By method."""
    dialect: Dialect | None = None
    """None where clients of several use it."""
    is_work: bool = False
    """Whether a model answers: such requests are limited, and waited for when the server stops."""

    def handler(self, method: str) -> Handler | None:
        """What answers; HEAD is a GET of which the body isn't sent."""
        return self.handlers.get("GET" if method == "HEAD" else method)

    @property
    def allowed(self) -> str:
        """Its methods, as a header has them."""
        return ", ".join([*self.handlers, *(["HEAD"] if "GET" in self.handlers else [])])


class Paths:
    """Finds the path that a request means."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.all = tuple(paths)
        self._exact = {path.name: path for path in self.all if "{" not in path.name}
        self._open = [(path.name.partition("{")[0], path) for path in self.all if "{" in path.name]

    def find(self, text: str) -> Path | None:
        """The path, or None where there is none."""
        found = self._exact.get(text)
        if found is not None:
            return found
        return next((path for begin, path in self._open if text.startswith(begin) and len(text) > len(begin)), None)
