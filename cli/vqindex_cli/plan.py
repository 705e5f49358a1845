"""``vqindex plan``: which codec and width reach a recall, from a sample of the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex.planning import MOST_ROWS
from vqindex.spec import METRICS
from vqindex_bench.plots import has_matplotlib, plot_plan
from vqindex_datasets import VectorSource, is_annbench, open_vectors

from .output import json_option, progress_bar, show_json, show_table
from .paths import InputPath, OutputPath, check_output
from .samples import choose_metric, sample_of

__all__ = ["plan"]

_RUN = 64  # neighboring rows of a file that are read together


class _Count(click.ParamType):  # type: ignore[type-arg]
    """A number of vectors, such as 10000000 or 1e7."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not (number >= 1 and number.is_integer()):
            self.fail(f"{value!r} is no number of vectors; expected one such as 1e7", param, ctx)
        return int(number)


def _read_sample(source: VectorSource, rows: int) -> NDArray[Any]:
    """Return random runs of rows of a file, `rows` in all, or all rows of a shorter file."""
    count = source.shape[0]
    with progress_bar("reading a sample") as report:
        if count <= rows:
            report(0, 1)
            return np.asarray(source.read())
        starts = np.arange(0, count - _RUN + 1, _RUN)
        chosen = np.sort(np.random.default_rng(0).choice(starts, min(len(starts), rows // _RUN), replace=False))
        parts = []
        for at in chosen.tolist():
            parts.append(np.asarray(source.read(at, at + _RUN)))
            report(len(parts), len(chosen))
    return np.concatenate(parts)


def _read_queries(data: Path, queries: Path | None, dataset: str | None) -> NDArray[Any] | None:
    """Return the queries of a file, or those of DATA if it is an ann-benchmarks file; None if there are none."""
    if queries is None and (dataset is not None or not is_annbench(data)):
        return None
    path = data if queries is None else queries
    with open_vectors(path, "test" if is_annbench(path) else None) as source:
        return np.asarray(source.read())


@click.command()
@click.argument("data", type=InputPath())
@click.option(
    "--recall",
    "target",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    required=True,
    help="Recall at k to reach, such as 0.95.",
)
@click.option("--n", type=_Count(), help="Vectors that the index will have, such as 1e7. Default: those of DATA.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Results per query.")
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    help="Default: the metric of an ann-benchmarks file; else ip for rows of length 1, and cosine for others.",
)
@click.option("--queries", type=InputPath(), help="A file of queries. Default: those of an ann-benchmarks file.")
@click.option("--dataset", help="Which dataset of DATA to use.")
@click.option(
    "--sample",
    "rows",
    type=click.IntRange(1000),
    default=20_000,
    show_default=True,
    help=f"Rows of DATA to look at, at most {MOST_ROWS:,}.",
)
@click.option(
    "--plot", type=OutputPath("a picture is not written to stdout"), help="Write a picture here (needs matplotlib)."
)
@json_option
def plan(
    data: Path,
    target: float,
    n: int | None,
    k: int,
    metric: str | None,
    queries: Path | None,
    dataset: str | None,
    rows: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Choose codec and width for a recall, from a sample of DATA.

    Encodes nothing. The index may have more vectors of the kind (--n). A star marks the smallest choice that reaches
    the recall, one without and one with re-ranking.
    """  # fmt: skip
    if plot is not None:
        check_output(plot, data, queries)
        if not has_matplotlib():
            raise click.ClickException("matplotlib is not installed; --plot needs: pip install 'vqindex[plot]'")
    with open_vectors(data, dataset) as source:
        why = "by --metric"
        if metric is None:
            metric, why = choose_metric(data, dataset, sample_of(source))
        sample, total = _read_sample(source, min(rows, MOST_ROWS)), source.shape[0]
    found = vqindex.plan(
        sample, n=max(total, len(sample)) if n is None else n, target_recall=target, k=k,
        queries=_read_queries(data, queries, dataset), metric=metric,
    )  # fmt: skip
    if plot is not None:
        plot_plan(plot, found)
    if as_json:
        show_json(found.as_dict())
    else:
        _show(found, why, plot)


def _show(found: vqindex.Plan, why: str, plot: Path | None) -> None:
    """Print the table, the choice, and what it rests on."""
    chosen = [one for one in (found.best, found.best_reranked) if one is not None]
    show_table(
        ("", "codec", "bits", "center", "rerank", "bytes", "low", "high", "reads"),
        [
            (
                "*" if any(one is other for other in chosen) else "",
                one.codec, one.bits, one.center or "-", "yes" if one.rerank else "no", one.bytes_per_vector,
                f"{one.recall[0]:.3f}", f"{one.recall[1]:.3f}", "-" if one.reads is None else f"{one.reads}",
            )
            for one in found.table
        ],
    )  # fmt: skip
    whose = "real ones" if found.has_queries else "rows of the sample; --queries gives real ones"
    click.echo(
        f"{found.n:,} vectors of {found.dim} dimensions, metric {found.metric} ({why}); {found.sample_rows:,} looked at"
    )
    click.echo(f"{found.sample_queries:,} queries: {whose}")
    if found.best is None:
        click.echo(f"no choice without rerank is expected to reach a recall@{found.k} of {found.target_recall:g}")
    if plot is not None:
        click.echo(f"plot: {plot}")
