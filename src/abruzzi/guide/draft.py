"""What we write of a turn in the engine's place."""

from __future__ import annotations

from abruzzi.guide.spelling import Spelling
from abruzzi.protocol.events import Event


class Draft:
    """What we wrote behind the engine's text: it goes out when the engine goes on from there, and else never was."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.before: tuple[Spelling, int, int] | None = None
        """The spelling, the calls and how many events there were before a call that only we have begun."""

    def take(self) -> list[Event]:
        """All of it goes out."""
        events, self.events, self.before = self.events, [], None
        return events
