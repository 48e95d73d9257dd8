"""`abruzzi launch`: an engine, started with its own command, and the server in front of it."""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.text import Text

from abruzzi.cli.engine_options import engine_key, with_options_of_servers
from abruzzi.cli.seconds import Seconds
from abruzzi.cli.server_options import address, serve_engine, settings_of, with_server_options
from abruzzi.cli.terminal import err, out, printable
from abruzzi.engines.connect import check_tokenizer, connect
from abruzzi.engines.launch.child import Child
from abruzzi.engines.launch.command import Command, read
from abruzzi.engines.launch.port import engine_port
from abruzzi.engines.launch.ready import said_by, wait_until_ready
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.server.access import check_key
from abruzzi.server.listener import Listener, listen
from abruzzi.server.loading import Loading
from abruzzi.server.logs import configure
from abruzzi.server.settings import Settings

# Where nothing can be drawn, seconds between two lines that say that it still loads.
_STILL = 30.0
_OWN = frozenset(("host", "port", "startup_timeout", "engine_grace", "no_check", "dry_run", "command", "variant"))


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--host", help="Where to listen; that of the engine's command when left out, else 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="That of the engine's command when left out, else 8000.")
@click.option(
    "--startup-timeout",
    default=3600.0,
    show_default=True,
    type=Seconds(min=0, min_open=True),
    help="Seconds that the engine has to load in.",
)
@click.option(
    "--engine-grace",
    default=20.0,
    show_default=True,
    type=Seconds(0),
    help="Seconds that the engine has to end in before it is killed.",
)
@click.option("--no-check", is_flag=True, help="Start TensorRT-LLM without looking into its YAML.")
@click.option("--dry-run", is_flag=True, help="Print the commands, and start nothing.")
@with_server_options
@with_options_of_servers
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="ENGINE-COMMAND...")
@click.pass_context
def launch(
    context: click.Context,
    /,
    command: tuple[str, ...],
    host: str | None,
    port: int | None,
    startup_timeout: float,
    engine_grace: float,
    no_check: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Start an engine with its own command, and serve the chat APIs in front of it.

    ENGINE-COMMAND is that of trtllm-serve, vLLM, SGLang or llama-server, as it is without abruzzi; options of abruzzi's
    come before it. It passes as it stands, but for what has to be mended, which is said.
    """
    engine = read(command, variant=options["variant"], checks_files=not no_check)
    for note in engine.notes:
        _say(note)
    if engine.worker is not None:
        _say(f"{engine.worker}: a part of a group that has no API; it is started without a server in front")
        return _launch_worker(engine, engine_grace, dry_run=dry_run)
    host = host if host is not None else engine.host or "127.0.0.1"
    port = port if port is not None else engine.port or 8000
    settings = settings_of(host, options, more_keys=engine.keys)  # what is left then is the engine's
    lets_in = bool(engine.keys) and settings.api_keys == engine.keys
    if lets_in:
        _say("the engine's key lets clients in here, too")
    _check_tokenizer(options["tokenizer"], engine)
    if dry_run:
        with engine_port(port) as at:
            _say(_addresses(host, port, at))
            out.print(engine.shown(at), markup=False)
            return out.print(_serve_command(context, engine, at, host, port, lets_in=lets_in), markup=False)
    engine.check_executable()
    configure(settings.log or "text")
    with _stoppable(), listen(host, port) as listening:
        _serve(engine, settings, listening, startup_timeout, engine_grace, **options)


def _check_tokenizer(folder: Path | None, engine: Command) -> None:
    """Before the engine loads, and not when it has. Raises RequestError."""
    if folder is not None:
        tokenizer = Tokenizer.from_folder(folder)
        if engine.variant is not None:
            check_tokenizer(tokenizer, engine.variant)


def _serve(
    command: Command,
    settings: Settings,
    listening: socket.socket,
    limit: float,
    grace: float,
    *,
    key_file: Path | None,
    variant: str | None,
    **options: Any,
) -> None:
    """Start the engine, wait until it is ready, and serve until a signal comes or the engine ends."""
    key = check_key(command.keys[0], "the engine's key") if command.keys else engine_key(key_file)
    bound = listening.getsockname()[1]
    name = command.program.name
    with engine_port(bound) as port, _started(command, port, grace) as child:
        _say(_addresses(settings.host, bound, port))
        with Loading(listening):
            with _progress(name) as tick:
                served = wait_until_ready(child, name, port, limit=limit, key=key, descends=command.descends, tick=tick)
            # The command's model tells more than the name under which it is served.
            row = variant or (None if command.variant is None else command.variant.name)
            engine = connect(f"http://127.0.0.1:{port}/v1", model=None, variant=row, api_key=key, **options)
        _say(f"{name} is ready: {served.model}, of variant {engine.capabilities.variant.name}")
        watcher = _Watcher(child)
        serve_engine(engine, settings, listening, watcher.watch)
        if watcher.saw_end:
            err.print(f"abruzzi: {name} {child.ending}{said_by(child)}", markup=False)
            sys.exit(child.exit_code or 1)


class _Watcher:
    """Stops the server when the engine ends: there is nothing left to serve, and who supervises us starts both anew."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.saw_end = False
        """Whether the engine ended by itself, and not because the server was told to."""

    def watch(self, server: Listener) -> None:
        threading.Thread(target=self._watch, args=(server,), name="engine-end", daemon=True).start()

    def _watch(self, server: Listener) -> None:
        self._child.wait()
        if not server.should_exit:
            self.saw_end = True
            server.should_exit = True


def _launch_worker(command: Command, grace: float, *, dry_run: bool) -> None:
    """Run an engine without a server, and exit as it does, or with 0 where it was told to end."""
    if dry_run:
        return out.print(command.shown(0), markup=False)
    command.check_executable()
    try:
        with _stoppable(), _started(command, 0, grace) as child:
            child.wait()
            err.print(f"abruzzi: {command.program.name} {child.ending}", markup=False)
            sys.exit(child.exit_code)
    except KeyboardInterrupt:
        sys.exit(0)


def _started(command: Command, port: int, grace: float) -> Child:
    _say(f"starts {command.shown(port)}")
    name = command.program.name

    def show(line: str) -> None:
        if err.is_terminal:
            err.print(Text.assemble((f"{name} | ", "dim"), printable(line)))
        else:  # a hundred times as fast, and an engine may write thousands of lines a second
            err.file.write(f"{name} | {printable(line)}\n")
            err.file.flush()

    return Child(command.words(port), show=show, grace=grace)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does; so does SIGINT for a command in the background, which has it ignored."""
    before = {one: signal.signal(one, signal.default_int_handler) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[float, str], None]]:
    """Shows for how long the engine has been loading: below its log on a terminal, elsewhere as a line now and then."""
    with err.status(f"{name} is loading ...") as status:
        next_line = _STILL

        def tick(elapsed: float, reason: str) -> None:
            nonlocal next_line
            text = f"{name} is loading, for {elapsed:.0f} s by now ({reason})"
            if err.is_terminal:
                status.update(text)
            elif elapsed >= next_line:
                next_line += _STILL
                _say(text)

        yield tick


def _say(text: str) -> None:
    err.print(f"abruzzi: {text}", markup=False)


def _addresses(host: str, own: int, of_engine: int) -> str:
    return f"the engine listens on 127.0.0.1:{of_engine}, abruzzi at {address(host, own)}"


def _serve_command(context: click.Context, engine: Command, at: int, host: str, port: int, *, lets_in: bool) -> str:
    """What serves in front of the engine where somebody else starts it. Keys aren't shown. `lets_in`: whether the
    engine's let clients in.
    """
    words = ["abruzzi", "serve", "--engine", f"http://127.0.0.1:{at}/v1", "--host", host, "--port", str(port)]
    if engine.variant is not None:
        words += ["--variant", engine.variant.name]
    options = {option.name: option for option in context.command.params if isinstance(option, click.Option)}
    for name, value in context.params.items():
        if name in _OWN or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if name == "key_file" and engine.keys:
            continue  # the command's own count
        option = options[name]
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += [option.opts[0], "..." if name == "api_keys" else str(one)]
    variables = ("ABRUZZI_API_KEYS=... " if lets_in else "") + ("ABRUZZI_ENGINE_KEY=... " if engine.keys else "")
    return variables + shlex.join(words)
