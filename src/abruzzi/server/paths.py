"""The server's paths: what answers at which, by which method, in whose dialect."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from abruzzi.server.dialect import Dialect
from abruzzi.server.exchange import Exchange

Handler = Callable[[Exchange], Awaitable[None]]
_VERSIONS = re.compile(r"\A(?:/v1(?=/))+")


@dataclass(frozen=True, slots=True)
class Path:
    """`name` is how it is told of and counted. What stands in braces is any text without slashes."""

    name: str
    handlers: Mapping[str, Handler]
    """By method."""
    dialect: Dialect | None = None
    """None where clients of several use it."""
    is_work: bool = False
    """Whether a model answers: such requests are limited."""
    has_slashes: bool = False
    """Whether what stands in braces may have slashes, as the names of models do."""
    absent: str | None = None
    """Why there is nothing here, though the API has it elsewhere."""

    def handler(self, method: str) -> Handler | None:
        """What answers; HEAD is a GET of which the body isn't sent."""
        return self.handlers.get("GET" if method == "HEAD" else method)

    @property
    def allowed(self) -> str:
        """Its methods, as a header has them."""
        return ", ".join([*self.handlers, *(["HEAD"] if "GET" in self.handlers else [])])

    def pattern(self) -> re.Pattern[str]:
        """What it is at."""
        begin, _, rest = self.name.partition("{")
        end = rest.partition("}")[2]
        return re.compile(re.escape(begin) + (r".+" if self.has_slashes else r"[^/]+") + re.escape(end), re.DOTALL)


class Paths:
    """Finds the path that a request means."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.all = tuple(paths)
        self._exact = {path.name: path for path in self.all if "{" not in path.name}
        self._open = [(path.pattern(), path) for path in self.all if "{" in path.name]

    def find(self, text: str) -> Path | None:
        """The path, or None where there is none."""
        found = self._exact.get(text)
        if found is not None:
            return found
        return next((path for pattern, path in self._open if pattern.fullmatch(text)), None)

    def why_not(self, text: str) -> str:
        """What to do about a path that isn't there: mostly the base URL has a `/v1` too many, or too few."""
        meant = "/v1" + _VERSIONS.sub("", text).rstrip("/")
        if meant not in self._exact:
            return "GET / tells what there is"
        if meant == text.rstrip("/"):
            return f"expected {meant}, without a slash at its end"
        return f"expected {meant} (in a base URL OpenAI's clients want the /v1, Anthropic's add it)"
