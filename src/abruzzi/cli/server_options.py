"""The options of a server, and the server that they make."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import click

from abruzzi.cli.seconds import Seconds
from abruzzi.cli.terminal import err
from abruzzi.engines.base import Engine
from abruzzi.engines.connect import told
from abruzzi.server.access import Access, keys_of
from abruzzi.server.app import create_app
from abruzzi.server.limits import Rate
from abruzzi.server.listener import Listener
from abruzzi.server.settings import Settings

logger = logging.getLogger(__name__)
_DEFAULTS = Settings()
_OPTIONS = (
    click.option("--api-key", "api_keys", multiple=True, help="A key that lets in; may be given several times."),
    click.option(
        "--api-key-file",
        type=click.Path(path_type=Path),
        help="A file of keys, one a line; a # at its beginning or behind a space begins a comment.",
    ),
    click.option("--insecure", is_flag=True, help="Serve everybody who can reach the address, without a key."),
    click.option(
        "--allow-host", "allow_hosts", multiple=True, help="Another name that a server on loopback answers to."
    ),
    click.option("--allow-origin", "allow_origins", multiple=True, help="An origin whose web pages may use it, or *."),
    click.option(
        "--max-concurrent",
        default=_DEFAULTS.max_concurrent,
        show_default=True,
        type=click.IntRange(1),
        help="Requests that are answered at once.",
    ),
    click.option(
        "--rate", "rate_text", metavar="N/min", help="Requests from one key, or one address: 60/min, 2/s, 1000/h."
    ),
    click.option(
        "--max-body",
        default=_DEFAULTS.max_body,
        show_default=True,
        type=click.IntRange(1),
        help="Bytes of a request's body.",
    ),
    click.option(
        "--grace",
        default=_DEFAULTS.grace,
        show_default=True,
        type=Seconds(0),
        help="Seconds for open requests to end in when it is stopped.",
    ),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
    click.option("--log-content", is_flag=True, help="Log what is asked and what the model writes, too."),
)


def with_server_options(function: Any) -> Any:
    """A command that takes what `settings_of` takes, but for the address."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def settings_of(host: str, options: dict[str, Any], *, more_keys: tuple[str, ...] = ()) -> Settings:
    """What the options say; they are taken out of `options`. `more_keys` let in where no option says who may come.

    Raises UsageError for a server that is open by mistake, RequestError for what can't be a key, a rate or an origin.
    """
    if not host:
        raise click.UsageError("--host is empty: 127.0.0.1 is this machine alone, 0.0.0.0 all its networks")
    insecure: bool = options.pop("insecure")
    rate_text: str | None = options.pop("rate_text")
    log: Literal["text", "json"] = options.pop("log_format")
    given = keys_of(options.pop("api_keys"), options.pop("api_key_file"), os.environ.get("ABRUZZI_API_KEYS"))
    own = {field.name: options.pop(field.name) for field in fields(Settings) if field.name in options}
    settings = Settings(
        host=host,
        api_keys=given or (() if insecure else more_keys),
        rate=Rate.parse(rate_text) if rate_text is not None else None,
        log=log,
        **own,
    )
    _check_access(settings, insecure=insecure)
    return settings


def address(host: str, port: int) -> str:
    """The URL of the API."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def serve_engine(
    engine: Engine, settings: Settings, listening: socket.socket, prepare: Callable[[Listener], object] | None = None
) -> None:
    """Serve until a signal comes, and close the engine. `prepare` is given the server before it starts."""
    at = address(settings.host, listening.getsockname()[1])
    _say(settings, f"{engine.capabilities.model} is served at {at} (Ctrl-C stops it)")
    for line, is_trouble in told(engine):
        _say(settings, f"abruzzi: {line}", is_trouble=is_trouble)
    server = Listener(create_app(engine, settings))
    if prepare is not None:
        prepare(server)
    _settle_memory()
    server.run(sockets=[listening])


def _settle_memory() -> None:
    """What is loaded by now stays: the garbage collector needn't walk through it again and again beside the streams."""
    came: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    # What a signal's handler raises is lost where it comes inside of a `__del__`.
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {one: signal.signal(one, lambda number, _: came.append(number)) for one in numbers}
    gc.collect()
    gc.freeze()
    for one, handler in before.items():
        signal.signal(one, handler)
    for number in came:
        signal.raise_signal(number)


def _say(settings: Settings, line: str, *, is_trouble: bool = False) -> None:
    """On stderr, in the form that the log has there."""
    if settings.log == "json":
        logger.log(logging.WARNING if is_trouble else logging.INFO, line)
    else:
        err.print(line, markup=False, style="bold red" if is_trouble else "")


def _check_access(settings: Settings, *, insecure: bool) -> None:
    """Raises UsageError for a server that is open by mistake, or less open than it was meant to be."""
    Access(settings)  # the names and origins are ones
    if settings.api_keys and insecure:
        raise click.UsageError("--insecure is to serve everybody, and there are keys: give one or the other")
    if not (settings.api_keys or insecure or settings.is_loopback):
        raise click.UsageError(
            f"{settings.host} can be reached from other machines: give --api-key KEY, --api-key-file FILE or"
            " ABRUZZI_API_KEYS so that only who has a key comes in, or --insecure to serve everybody"
        )
    if settings.allow_hosts and not settings.is_loopback:
        raise click.UsageError(
            f"--allow-host is for a server on loopback: one at {settings.host} answers to every name"
        )
