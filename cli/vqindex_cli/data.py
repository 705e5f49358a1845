"""``vqindex datasets``: list, download and make data sets with exact neighbors."""

from __future__ import annotations

from pathlib import Path

import click

import vqindex_datasets as vd

from .output import json_option, progress_bar, show_json, show_table
from .paths import InputPath, OutputPath, check_output

__all__ = ["datasets"]


@click.group()
def datasets() -> None:
    """List, download and make ann-benchmarks data sets."""


@datasets.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the data sets that `fetch` can download or make."""
    entries = vd.list_datasets()
    if as_json:
        show_json([vars(entry) for entry in entries])
        return
    rows = [(e.name, e.n, e.dim, e.nq, e.distance, e.size / 1e6, e.kind, e.description) for e in entries]
    show_table(("name", "n", "dim", "queries", "distance", "MB", "kind", "what"), rows)


@datasets.command()
@click.argument("name", type=click.Choice(sorted(vd.CATALOG)), metavar="NAME")
@click.option("-d", "--directory", type=InputPath(), help="Default: VQINDEX_DATA or ~/.cache/vqindex.")
@click.option("--base-url", help="A mirror of the ann-benchmarks files.")
def fetch(name: str, directory: Path | None, base_url: str | None) -> None:
    """Download or make the data set NAME. Prints its path.

    An interrupted download resumes where it stopped.
    """
    with progress_bar(f"fetching {name}") as report:
        path = vd.fetch(name, directory, progress=report, base_url=base_url)
    click.echo(str(path))


@datasets.command(short_help="Make a seeded synthetic data set with exact neighbors.")
@click.argument("kind", type=click.Choice(sorted(vd.SYNTHETIC)), metavar="KIND")
@click.option(
    "-o", "--output", type=OutputPath("HDF5 is not written to stdout"), required=True, help="HDF5 file to write."
)
@click.option("-n", type=click.IntRange(1), default=20000, show_default=True, help="Base vectors.")
@click.option("--dim", type=click.IntRange(1), default=128, show_default=True)
@click.option("--queries", type=click.IntRange(1), default=500, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("-k", type=click.IntRange(1), default=100, show_default=True, help="True neighbors per query.")
@click.option("--metric", type=click.Choice(("ip", "cosine", "l2")), help="Default: the one that suits the set.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")
def make(
    kind: str, output: Path, n: int, dim: int, queries: int, seed: int, k: int, metric: str | None, force: bool
) -> None:
    """Make a seeded synthetic data set of a KIND with exact neighbors; `datasets list` shows the kinds."""
    if output.suffix.lower() not in (".hdf5", ".h5"):
        raise click.BadParameter(f"{output} should end in .hdf5 or .h5", param_hint="--output")
    check_output(output)
    if output.exists() and not force:
        raise click.ClickException(f"{output} exists; choose another name or give --force")
    with progress_bar("exact neighbors") as report:
        path = vd.make_synthetic_file(kind, output, n, dim, queries, seed, min(k, n), metric, report)
    click.echo(str(path))
