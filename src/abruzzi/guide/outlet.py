"""Text on its way out, the end of which may be held back."""

from __future__ import annotations

from abruzzi.protocol.text import Text


class Outlet:
    """Takes text; what comes behind a mark is held until all marks are released, and may be dropped."""

    __slots__ = ("_all", "_held", "_marks", "_out", "length", "written")

    def __init__(self) -> None:
        self._all = Text()
        self._out: list[str] = []
        self._held: list[str] = []
        self._marks: list[tuple[int, int]] = []  # the pieces held before each, and their characters
        self.length = 0  # of what is held
        self.written = 0  # characters in all, held or not

    def put(self, piece: str) -> None:
        self.written += len(piece)
        if self._marks:
            self._held.append(piece)
            self.length += len(piece)
        else:
            self._out.append(piece)

    def mark(self) -> None:
        self._marks.append((len(self._held), self.length))

    def release(self) -> None:
        """What is behind the last mark stands."""
        self._marks.pop()
        if not self._marks:
            self._out += self._held
            self._held, self.length = [], 0

    def drop(self) -> None:
        """What is behind the last mark never was."""
        pieces, length = self._marks.pop()
        self.written -= self.length - length
        self.length = length
        del self._held[pieces:]

    def take(self) -> str:
        """What is sure by now and wasn't taken before."""
        if not self._out:
            return ""
        sure = "".join(self._out)
        self._out.clear()
        self._all.add(sure)
        return sure

    @property
    def marked(self) -> str:
        """What is behind the last mark."""
        return "".join(self._held[self._marks[-1][0] :])

    @property
    def held(self) -> str:
        return "".join(self._held)

    @property
    def taken(self) -> str:
        """All that was taken."""
        return str(self._all)

    def __str__(self) -> str:
        """All of it, held or not."""
        return f"{self._all}{''.join(self._out)}{self.held}"
