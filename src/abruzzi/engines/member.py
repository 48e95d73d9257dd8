"""One of several engines: how it is, and for how long it is left alone when it fails."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from abruzzi.engines.base import Engine, name_of
from abruzzi.engines.refusal import Failed
from abruzzi.protocol.errors import EngineError, EngineUnavailable

logger = logging.getLogger(__name__)
# Seconds that a sick engine is left alone: the first time, and at the most.
_FIRST_PAUSE = 1.0
_LAST_PAUSE = 60.0
# What makes an engine sick: that it can't be reached, says that it can't take more, breaks off or is silent; two
# requests in a row at which it failed though it answers (an HTTP 500); five of which it is known that others failed at
# them, too. Envoy has five in a row of any kind, nginx one, and ten for HAProxy. None of them knows what others said.
_SICK = 10
_FAILED_ALONE = 5
_FAILED_ALIKE = 2


@dataclass(frozen=True, slots=True)
class Failure:
    """What a request came to on an engine. Times are the pool's clock's."""

    error: EngineError
    request: int
    """The same for each try of the same request."""
    began: float
    ended: float

    @property
    def is_of_engine(self) -> bool:
        """Whether no request could be the cause."""
        return isinstance(self.error, EngineUnavailable)


@dataclass(eq=False)
class Member:
    """An engine, and how it is. Whoever calls it holds the pool's lock."""

    engine: Engine
    jitter: Callable[[], float] = random.random
    outstanding: int = 0
    taken: int = 0
    """Requests in all: of engines that are equally busy, who had the fewest is next."""
    failed: int = 0
    """Requests, in all, that failed here."""
    failures: int = 0
    """That counted, in a row. A request that began before the last of them says nothing new."""
    failed_at: float = 0.0
    retry_at: float | None = None
    """When it may be tried again; None while it is well."""
    asked_until: float = 0.0
    """Until when it asked to be left alone: it isn't tried before, not even where all are sick."""
    error: str | None = None
    _blame: int = 0
    _pauses: int = 0
    _requests: set[int] = field(default_factory=set)
    """That have failed here and say nothing new when they do again."""

    @property
    def name(self) -> str:
        return name_of(self.engine)

    def begin(self, now: float) -> None:
        """A request is handed to it. Where it is sick this one tries it, and others wait."""
        if self.retry_at is not None:
            self.retry_at = now + self._pause()
        self.outstanding += 1
        self.taken += 1

    def note_life(self, began: float, *, is_whole: bool) -> None:
        """Its first piece makes an engine well; its failures are forgotten only with a whole completion."""
        if began < self.failed_at:
            return
        if self.retry_at is not None:
            logger.info("the engine %s is back", self.name)
        self.retry_at, self.asked_until = None, 0.0
        if is_whole:
            self.failures = self._blame = self._pauses = 0
            self.error = None
            self._requests.clear()

    def note_failure(self, failure: Failure, *, is_alike: bool) -> int:
        """A request failed here; `is_alike`: on another engine, too, that could be reached. How much it counts."""
        self.failed += 1
        if self.retry_at is not None and failure.began < self.failed_at:
            return 0  # of many requests that fail at once, one counts
        blame = _SICK
        if not failure.is_of_engine:
            if failure.request in self._requests or (is_alike and self.retry_at is not None):
                return 0
            if is_alike or isinstance(failure.error, Failed):
                self._requests.add(failure.request)
                blame = _FAILED_ALIKE if is_alike else _FAILED_ALONE
        self.failures += 1
        self._blame += blame
        self.error, self.failed_at = str(failure.error), failure.ended
        if self._blame >= _SICK:
            self._leave_alone(failure.error)
        return blame

    def forgive(self, request: int, blame: int) -> None:
        """The request that so much was counted for has failed elsewhere, too."""
        if not blame:
            return
        self._requests.add(request)
        self._blame = max(0, self._blame - blame + _FAILED_ALIKE)
        if self.retry_at is not None and self._blame < _SICK:
            self._pauses = max(0, self._pauses - 1)
            self.retry_at = None
            logger.info("the engine %s is not left alone: the request failed elsewhere, too", self.name)

    def health(self, now: float) -> dict[str, Any]:
        """As `Pool.health` has it."""
        return {
            "url": getattr(self.engine, "url", None),
            "model": self.engine.capabilities.model,
            "status": "ok" if self.retry_at is None else "sick",
            "outstanding": self.outstanding,
            "failed": self.failed,
            "failures": self.failures,
            "retry_in": None if self.retry_at is None else round(max(0.0, self.retry_at - now), 3),
            "error": self.error,
        }

    def _leave_alone(self, error: EngineError) -> None:
        self._pauses += 1
        self._requests.clear()
        pause = self._pause()
        asked = error.retry_after if isinstance(error, EngineUnavailable) else None
        if asked is not None:
            # Not before, and with jitter, for it asks all its clients to come again at the same moment.
            pause = min(_LAST_PAUSE, asked * (1 + 0.25 * self.jitter()))
            self.asked_until = self.failed_at + pause
        self.retry_at = self.failed_at + pause
        # Its words may hold what it was asked: /health has them.
        logger.warning("the engine %s is left alone for %.1f s: %s", self.name, pause, type(error).__name__)

    def _pause(self) -> float:
        """With jitter, so that several servers don't come back to an engine at the same moment."""
        pause = min(_LAST_PAUSE / 1.25, _FIRST_PAUSE * 2.0 ** min(max(self._pauses, 1) - 1, 16))
        return pause * (0.75 + 0.5 * self.jitter())
