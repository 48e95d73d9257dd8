"""The words before an engine's name: what starts it, and the variables that are set for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from abruzzi.engines.launch.arguments import is_secret

# Options of srun, apptainer and their like, whose value is a list of variables with commas between them.
_LISTS = ("--env", "--export")
# In lists with semicolons between them, as Open MPI's -x has them.
_FURTHER = re.compile(r"(?<=;)(\w+)=[^;]*")
# Options of Hydra's, behind which stand a variable's name and its value.
_PAIRS = frozenset(("-env", "-genv", "--genv"))


def variable(head: Sequence[str], name: str) -> str | None:
    """What a variable is set to for the engine; the last counts."""
    found = None
    for option, key, value in zip(head, head[1:], head[2:], strict=False):
        if option in _PAIRS and key == name:
            found = value
    for _, settings in _read(head):
        for setting in settings:
            key, equals, value = setting.partition("=")
            if equals and key == name:
                found = value
    return found


def masked(head: Sequence[str]) -> list[str]:
    """The words with what is secret by its name made unreadable."""
    words = [before + ",".join(_masked(settings)) for before, settings in _read(head)]
    words = [_FURTHER.sub(lambda found: f"{found[1]}=..." if is_secret(found[1]) else found[0], word) for word in words]
    return [
        "..." if option in _PAIRS and is_secret(name) else word
        for option, name, word in zip(("", "", *head), ("", *head), words, strict=False)
    ]


def _read(head: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Of each word, what stands before the variables that it may set, and these."""
    is_list = False
    for word in head:
        option, equals, value = word.partition("=")
        if is_list:
            yield "", word.split(",")
        elif equals and option in _LISTS:
            yield f"{option}=", value.split(",")
        else:
            yield "", [word]
        is_list = word in _LISTS


def _masked(settings: list[str]) -> Iterator[str]:
    hides = False
    for setting in settings:
        name, equals, _ = setting.partition("=")
        if equals:
            hides = is_secret(name)
        # What follows a secret without a name may be the rest of it, which has a comma.
        yield (f"{name}=..." if equals else "...") if hides else setting
