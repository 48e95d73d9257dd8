"""What the launcher knows of an engine's command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from abruzzi.engines.launch.arguments import Arguments
from abruzzi.protocol.variants import variant_of_model

Mended = tuple[Arguments, tuple[str, ...]]
"""Arguments with which the engine works, and a line for each thing that had to be changed, or should be known."""

NO_TEXT = "it couldn't read a prompt of text then"
NO_ANSWERS = "it would answer no requests for text: start it as it is"
NO_TLS = "it is reached on loopback alone; put a proxy with TLS in front of abruzzi"


def as_it_is(arguments: Arguments, *, checks_files: bool, is_k2: bool) -> Mended:
    return arguments, ()


def last_kimi(arguments: Arguments) -> str | None:
    """The last word, where it is no option and names a Kimi."""
    last = arguments.words[-1] if arguments.words else "-"
    return last if not last.startswith("-") and variant_of_model(last) is not None else None


def always(arguments: Arguments) -> str | None:
    """An engine whose every process serves an API."""
    return None


@dataclass(frozen=True, slots=True)
class Program:
    """An engine's command, and its arguments as far as they matter. Options are named with dashes, which stand for
    underscores, too.
    """

    name: str
    usage: str
    """How it is started, for an error."""
    commands: tuple[tuple[str, ...], ...]
    """The words by which it is known; of the first one the path doesn't matter."""
    modules: tuple[str, ...] = ()
    """Python's modules that are it, with `-m`."""
    model: Callable[[Arguments], str | None] = field(kw_only=True)
    """Which model it is to serve, where the command says so."""
    trust: str | None = None
    """The option without which it refuses K2, whose checkpoint brings code of its own."""
    key_options: tuple[str, ...] = ()
    key_variable: str | None = None
    """Where the key stands that its clients have to send."""
    mend: Callable[..., Mended] = as_it_is
    """Raises RequestError for what can't work. `checks_files`: whether files that it names are looked into. `is_k2`:
    whether the model is known as one.
    """
    refused: Mapping[str, str] = field(default_factory=dict)
    """Options with which nothing can stand in front of it, and why; behind an option may stand the value that is meant,
    `--runner pooling`.
    """
    worker: Callable[[Arguments], str | None] = always
    """Which option makes it a part of a group that has no API of its own."""
