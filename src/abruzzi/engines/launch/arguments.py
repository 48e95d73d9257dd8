"""The words of an engine's command line: options found, taken out and added, all else left as it stands."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

# What a secret's option or variable ends in; tokens are counted.
_SECRET = re.compile(r"(?:^|[-_])(?:(?:api_?key|key|password|secret)s?|token|hft)", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether what an option or a variable of this name holds is shown to nobody."""
    return any(found.end() == len(name) for found in _SECRET.finditer(name))


@dataclass(frozen=True, slots=True)
class Arguments:
    """The words behind the engine's name. `--name value` and `--name=value` are the same; of an option that stands
    there twice the last counts, as in argparse and click.
    """

    words: tuple[str, ...]

    def has(self, *names: str) -> bool:
        return any(name in names for _, name, _ in self._options())

    def value(self, *names: str) -> str | None:
        """The option's value, or None where it isn't there or has none."""
        values = self.values(*names)
        return values[0] if values else None

    def values(self, *names: str) -> tuple[str, ...]:
        """All values of an option that takes several, up to the next option."""
        found: tuple[str, ...] = ()
        for at, name, given in self._options():
            if name in names:
                found = (given,) if given is not None else tuple(self._behind(at))
        return found

    def without(self, *names: str) -> Arguments:
        """The options taken out, each with one value."""
        kept, skips = [], False
        dropped = {at: given is None for at, name, given in self._options() if name in names}
        for at, word in enumerate(self.words):
            if at in dropped:
                skips = dropped[at]
            elif skips and not word.startswith("-"):
                skips = False
            else:
                kept.append(word)
                skips = False
        return Arguments(tuple(kept))

    def plus(self, *words: str) -> Arguments:
        return Arguments((*self.words, *words))

    def before(self, *words: str) -> Arguments:
        return Arguments((*words, *self.words))

    def positional(self, flags: Collection[str]) -> list[str]:
        """What is no option and no option's value; `flags` are the options that have none."""
        found, is_value = [], False
        for word in self.words:
            if is_value:
                is_value = False
            elif word.startswith("-"):
                is_value = "=" not in word and word not in flags
            else:
                found.append(word)
        return found

    def masked(self) -> Arguments:
        """The values of options that hold a secret, by their names, made unreadable."""
        words = list(self.words)
        for at, name, given in self._options():
            if is_secret(name):
                if given is not None:
                    words[at] = f"{words[at].partition('=')[0]}=..."
                for offset in range(at + 1, at + 1 + (0 if given is not None else len(self._behind(at)))):
                    words[offset] = "..."
        return Arguments(tuple(words))

    def _options(self) -> Iterator[tuple[int, str, str | None]]:
        """Where it stands, its name, and its value behind an equals sign. An underscore is the same as a dash."""
        for at, word in enumerate(self.words):
            if word.startswith("-") and len(word) > 1:
                name, equals, given = word.partition("=")
                yield at, name.replace("_", "-"), given if equals else None

    def _behind(self, at: int) -> Sequence[str]:
        words = self.words[at + 1 :]
        end = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
        return words[:end]
