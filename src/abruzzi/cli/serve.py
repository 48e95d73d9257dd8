"""`abruzzi serve`."""

from __future__ import annotations

import gc
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import click

from abruzzi.cli.engine_options import connected, with_engine_options
from abruzzi.cli.terminal import err
from abruzzi.server.access import Access, keys_of
from abruzzi.server.app import create_app
from abruzzi.server.limits import Rate
from abruzzi.server.listener import Listener, listen
from abruzzi.server.logs import configure
from abruzzi.server.settings import Settings

_DEFAULTS = Settings()


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond this machine with keys.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--api-key", "api_keys", multiple=True, help="A key that lets in; may be given several times.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="A file of keys, one a line; # begins a comment.")
@click.option("--insecure", is_flag=True, help="Serve everybody who can reach the address, without a key.")
@click.option("--allow-host", "allow_hosts", multiple=True, help="Another name that a server on loopback answers to.")
@click.option("--allow-origin", "allow_origins", multiple=True, help="An origin whose web pages may use it, or *.")
@click.option(
    "--max-concurrent",
    default=_DEFAULTS.max_concurrent,
    show_default=True,
    type=click.IntRange(1),
    help="Requests that are answered at once.",
)
@click.option(
    "--rate", "rate_text", metavar="N/min", help="Requests from one key, or one address: 60/min, 2/s, 1000/h."
)
@click.option(
    "--max-body",
    default=_DEFAULTS.max_body,
    show_default=True,
    type=click.IntRange(1),
    help="Bytes of a request's body.",
)
@click.option(
    "--grace",
    default=_DEFAULTS.grace,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds for open requests to end in when it is stopped.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-content", is_flag=True, help="Log what is asked and what the model writes, too.")
@with_engine_options
def serve(
    host: str,
    port: int,
    api_keys: tuple[str, ...],
    api_key_file: Path | None,
    insecure: bool,
    rate_text: str | None,
    log_format: Literal["text", "json"],
    **options: Any,
) -> None:
    """Serve the chat APIs in front of the engine.

    Keys are read from ABRUZZI_API_KEYS, too, with commas between them: there they don't show in the list of processes.
    """
    if not host:
        raise click.UsageError("--host is empty: 127.0.0.1 is this machine alone, 0.0.0.0 all its networks")
    keys = keys_of(api_keys, api_key_file, os.environ.get("ABRUZZI_API_KEYS"))
    # What is left then is the engine's.
    own = {field.name: options.pop(field.name) for field in fields(Settings) if field.name in options}
    settings = Settings(
        host=host, api_keys=keys, rate=Rate.parse(rate_text) if rate_text is not None else None, log=log_format, **own
    )
    _check_access(settings, insecure=insecure)
    listening = listen(host, port)
    configure(log_format)
    engine = connected(**options)
    bound = listening.getsockname()[1]
    address = f"http://{f'[{host}]' if ':' in host else host}:{bound}/v1"
    err.print(f"{engine.capabilities.model} is served at {address} (Ctrl-C stops it)", markup=False)
    app = create_app(engine, settings)
    # What is loaded by now stays: the garbage collector needn't walk through it again and again beside the streams.
    gc.collect()
    gc.freeze()
    Listener(app).run(sockets=[listening])


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
