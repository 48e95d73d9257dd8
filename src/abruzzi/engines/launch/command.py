"""A user's command for an engine, read, and mended so that it works behind our server."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abruzzi.engines.folder import variant_of_folder
from abruzzi.engines.launch.arguments import Arguments
from abruzzi.engines.launch.head import masked, variable
from abruzzi.engines.launch.llamacpp import LLAMA_SERVER
from abruzzi.engines.launch.port import LOOPBACK
from abruzzi.engines.launch.program import Program
from abruzzi.engines.launch.sglang import SGLANG
from abruzzi.engines.launch.trtllm import TRTLLM
from abruzzi.engines.launch.vllm import VLLM
from abruzzi.protocol.errors import EngineUnavailable, RequestError
from abruzzi.protocol.markers import SECTION_BEGIN
from abruzzi.protocol.variants import Variant, variant_named, variant_of_model

PROGRAMS = (TRTLLM, VLLM, SGLANG, LLAMA_SERVER)
_PYTHON = re.compile(r"python[\d.]*")
# Python's own options that have a value.
_PYTHON_VALUES = frozenset(("-X", "-W"))
# Options of `abruzzi launch` that no engine has.
_OURS = (
    *("--allow-host", "--allow-origin", "--dry-run", "--engine-grace", "--engine-key-file", "--engine-timeout"),
    *("--grace", "--insecure", "--log-content", "--log-format", "--max-body", "--max-concurrent", "--no-check"),
    *("--no-grammar", "--rate", "--startup-timeout", "--variant"),
)
# What these start, a daemon's processes may run in their place.
_BY_DAEMONS = frozenset(
    ("srun", "flux", "prun", "aprun", "jsrun", "mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun")
)
# What these start has a loopback of its own, or outlives them.
_ELSEWHERE = frozenset(("docker", "podman", "kubectl", "ssh"))


@dataclass(frozen=True, slots=True)
class Command:
    """An engine's command. `arguments` are mended, but for the address."""

    program: Program
    head: tuple[str, ...]
    """All up to the engine's arguments: what it is started with, its name, `serve`."""
    arguments: Arguments
    model: str | None
    """As the command names it."""
    variant: Variant | None
    """The format of that model, where its name or its folder tells."""
    host: str | None
    port: int | None
    """Where the user had it listen."""
    keys: tuple[str, ...]
    """That its clients have to send."""
    worker: str | None
    """The option that makes it a part of a group without an API of its own."""
    notes: tuple[str, ...]
    """What was mended, and what should be known: a line each."""

    @property
    def descends(self) -> bool:
        """Whether the engine's processes descend from the one that is started."""
        return not any(Path(word).name in _BY_DAEMONS for word in self.head)

    def words(self, port: int) -> list[str]:
        """What is started, with the engine on this port of loopback. One that has no API is left where it is."""
        address = () if self.worker else ("--host", LOOPBACK, "--port", str(port))
        return [*self.head, *self.arguments.plus(*address).words]

    def shown(self, port: int) -> str:
        """The same as a shell takes it, without secrets."""
        address = () if self.worker else ("--host", LOOPBACK, "--port", str(port))
        return shlex.join([*masked(self.head), *self.arguments.plus(*address).masked().words])

    def check_executable(self) -> None:
        """Raises EngineUnavailable where the command's first word is no program."""
        name = self.head[0]
        if shutil.which(name) is not None:
            return
        if os.sep in name and Path(name).exists():
            what = "a folder" if Path(name).is_dir() else "no program: it isn't executable"
            raise EngineUnavailable(f"can't start {name}: expected a program, it is {what}")
        raise EngineUnavailable(
            f"can't start {name}: no such program on PATH; activate the environment or enter the container"
            f" that has {self.program.name}, or give the program's path"
        )


def read(words: Sequence[str], *, variant: str | None = None, checks_files: bool = True) -> Command:
    """Read and mend a command. `variant` is the model's, where the user has named it.

    Raises RequestError for a command that is no engine's, or that can't work; for a Kimi K3; and for what is wrong in a
    file that it names, with the line, where files are to be looked into.
    """
    program, end = _recognised(words)
    given = Arguments(tuple(words[end:]))
    for option in _OURS:
        if given.has(option):
            raise RequestError(f"{option} is abruzzi's own: it stands before the engine's command, not behind it")
    for refused, reason in program.refused.items():
        option, _, value = refused.partition(" ")
        name = option.replace("_", "-")
        if given.has(name) and (not value or given.value(name) == value):
            raise RequestError(f"{refused} can't stay in the command of {program.name}: {reason}")
    worker = program.worker(given)
    model = program.model(given)
    row = variant_named(variant) if variant is not None else _variant_of(model)
    is_k2 = row is not None and SECTION_BEGIN in row.controls
    mended, notes = program.mend(given, checks_files=checks_files, is_k2=is_k2)
    mended, trusted = _trusting(program, mended, model, is_k2=is_k2)
    port = None
    if worker is None:
        port = _port(given)
        mended = mended.without("--host", "--port")
    return Command(
        program=program,
        head=tuple(words[:end]),
        arguments=mended,
        model=model,
        variant=row,
        host=given.value("--host"),
        port=port,
        keys=_keys(program, given, words[:end]),
        worker=worker,
        notes=(*notes, *trusted),
    )


def _recognised(words: Sequence[str]) -> tuple[Program, int]:
    """The engine, and where its arguments begin. What stands before it (env, mpirun, numactl, uv run) stays."""
    expected = ", ".join(program.usage for program in PROGRAMS)
    if "=" in words[0]:
        raise RequestError(f"expected a program, got {words[0].partition('=')[0]}=...: put env in front of it")
    for at, word in enumerate(words):
        if Path(word).name in _ELSEWHERE:
            raise RequestError(
                f"{word} starts the engine where it can't be watched or reached: run abruzzi launch there, inside, or"
                " start the engine and put abruzzi serve --engine http://HOST:PORT/v1 in front"
            )
        if word.startswith("-") or "=" in word:
            continue
        name = Path(word).name
        for program in PROGRAMS:
            for command in program.commands:
                end = at + len(command)
                if (name, *words[at + 1 : end]) == command:
                    return program, end
        if _PYTHON.fullmatch(name) and (found := _module(words, at + 1)):
            return found
    raise RequestError(
        f"expected an engine's command ({expected}), got {shlex.join(words)[:200]}; in front of any other server that"
        " runs already, abruzzi serve --engine http://HOST:PORT/v1"
    )


def _module(words: Sequence[str], at: int) -> tuple[Program, int] | None:
    """`-m MODULE` behind python, and behind options of its own."""
    while at + 1 < len(words) and words[at].startswith("-"):
        if words[at] == "-m":
            module = words[at + 1]
            found = next((program for program in PROGRAMS if module in program.modules), None)
            return None if found is None else (found, at + 2)
        at += 2 if words[at] in _PYTHON_VALUES else 1
    return None


def _variant_of(model: str | None) -> Variant | None:
    """Raises RequestError for a Kimi K3."""
    if model is None:
        return None
    folder = Path(model).expanduser()
    return variant_of_model(model) or (variant_of_folder(folder) if folder.is_dir() else None)


def _trusting(
    program: Program, arguments: Arguments, model: str | None, *, is_k2: bool
) -> tuple[Arguments, tuple[str, ...]]:
    """With the option that K2 needs. It lets a checkpoint's code run, so that no other model gets it."""
    option = program.trust
    if option is None or arguments.has(option.replace("_", "-")):
        return arguments, ()
    refusal = f"--no-{option[2:]}"
    if arguments.has(refusal.replace("_", "-")):
        return arguments, (f"{refusal} stays: K2's checkpoint brings code of its own (its tokenizer), which won't run",)
    if is_k2:
        return arguments.plus(option), (f"{option} added: K2's checkpoint brings code of its own (its tokenizer)",)
    return arguments, (
        f"{model or 'the model'} isn't known as a K2 by its name or its config.json: where it is one, give --variant,"
        f" or {option} to the engine",
    )


def _port(arguments: Arguments) -> int | None:
    if not arguments.has("--port"):
        return None
    text = arguments.value("--port") or ""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise RequestError(
            f"expected a port from 1 to 65535 in the engine's command, got --port {text[:40] or 'without a value'}"
        )
    return int(text)


def _keys(program: Program, arguments: Arguments, head: Sequence[str]) -> tuple[str, ...]:
    """Of the command's option, else of the variable that the engine reads, set by `env` before it or for all."""
    given = arguments.values(*program.key_options)
    name = program.key_variable
    if not given and name is not None:
        set_here = variable(head, name)
        found = os.environ.get(name) if set_here is None else set_here
        given = (found,) if found else ()
    return tuple(key for value in given for one in value.split(",") if (key := one.strip()))
