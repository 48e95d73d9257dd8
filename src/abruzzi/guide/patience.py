"""How long an engine that goes wrong is asked to go on."""

from __future__ import annotations

# How often an engine is asked to go on before a call of its is finished without it: in a row without a whole call, in
# a row in vain, and in all. An engine is asked at most one time more.
_RESUMES = 8
_VAIN = 3
_RESUMES_IN_ALL = 32


class Patience:
    """What is left of it with an engine that goes wrong: resumes without a whole call, in a row in vain, and in all."""

    def __init__(self) -> None:
        self.resumes = 0
        self.vain = 0  # in a row
        self.resampled = 0
        self._most = _RESUMES
        self._has_helped = False  # whether anything of the engine's could stand
        self._has_given_up = False

    def note(self, *, is_vain: bool, is_whole: bool) -> None:
        """The engine has gone wrong once more, after it brought nothing, something, or a whole call."""
        self.vain = self.vain + 1 if is_vain else 0
        self._has_helped |= not is_vain
        if is_whole:
            self._most = self.resumes + _RESUMES

    @property
    def is_left(self) -> bool:
        return self.vain < _VAIN and self.resumes < min(self._most, _RESUMES_IN_ALL)

    @property
    def is_nearly_lost(self) -> bool:
        return self.vain == _VAIN - 1

    def resume(self) -> None:
        self.resumes += 1
        self.resampled += self.vain > 0

    def give_up(self) -> bool:
        """A call was finished without the engine. Returns whether the engine is asked for what may follow: once, if it
        has brought anything.
        """
        may_go_on = self._has_helped and not self._has_given_up and self.resumes < _RESUMES_IN_ALL
        self._has_given_up = True
        self.vain = 0
        self.resumes += may_go_on
        return may_go_on
