"""`abruzzi serve`."""

from __future__ import annotations

from typing import Any

import click

from abruzzi.cli.engine_options import connected, with_engine_options
from abruzzi.cli.server_options import serve_engine, settings_of, with_server_options
from abruzzi.server.listener import listen
from abruzzi.server.loading import Loading
from abruzzi.server.logs import configure


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond this machine with keys.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@with_server_options
@with_engine_options
def serve(host: str, port: int, **options: Any) -> None:
    """Serve the chat APIs in front of the engine.

    Keys are read from ABRUZZI_API_KEYS, too, with commas between them: there they don't show in the list of processes.
    """
    settings = settings_of(host, options)  # what is left then is the engine's
    configure(settings.log or "text")
    with listen(host, port) as listening:
        with Loading(listening):
            engine = connected(**options)
        serve_engine(engine, settings, listening)
