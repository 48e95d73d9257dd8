"""The command and its subcommands."""

from __future__ import annotations

import sys
from typing import Any

import click

import abruzzi
from abruzzi.cli.doctor import doctor
from abruzzi.cli.launch import launch
from abruzzi.cli.models import models
from abruzzi.cli.parse import parse_text
from abruzzi.cli.render import render_request
from abruzzi.cli.run import run
from abruzzi.cli.serve import serve
from abruzzi.cli.terminal import err
from abruzzi.protocol.errors import AbruzziError


class _Group(click.Group):
    """Turns what goes wrong into one line on stderr and an exit code: 1 it failed, 2 it was asked wrongly."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            err.print("abruzzi: stopped")
            sys.exit(1)
        except AbruzziError as error:
            err.print(f"abruzzi: {error}", markup=False)
            sys.exit(2 if error.status == 400 else 1)
        except OSError as error:  # nobody reads what is printed
            sys.stdout = None
            err.print(f"abruzzi: {error}", markup=False)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(abruzzi.__version__, prog_name="abruzzi")
def main() -> None:
    """Tool calling for Kimi K2 that holds, on any engine."""


for _command in (run, serve, launch, doctor, models, parse_text, render_request):
    main.add_command(_command)
