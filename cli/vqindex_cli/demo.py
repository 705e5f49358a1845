"""``vqindex demo``: build, save, load and search on real vectors, a result in a second, then beside faiss PQ."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex_bench.compare import Built, build_faiss_pq, build_ours, has_faiss
from vqindex_bench.plots import has_matplotlib, plot_recall_curves
from vqindex_datasets import load_annbench, sample_path
from vqindex_datasets.recall import recall_1_at_k, recall_at_k

from .output import json_option, show_json, show_table
from .paths import OutputPath

__all__ = ["demo"]

_KS = (1, 2, 4, 8, 16, 32, 64)
_WIDTHS = (2, 4)
_FEW = 5  # neighbors of the first result
_FILES = {"vqindex default": "default", "vqindex trellis": "trellis", "prod as in the paper": "paper"}


def _ours(output: Path, train: NDArray[np.float32], label: str, bits: int, metric: str) -> Built:
    return build_ours(label, train, bits, metric, save_to=output / f"glove-{_FILES[label]}-{bits}.vqi")


def _neighbors(file: Path, query: NDArray[np.float32], truth: NDArray[np.int64]) -> str:
    """Return what a search in a saved index finds for one query, beside its true neighbors."""
    result = vqindex.VQIndex.load(file).search(query, _FEW)
    found = [f"{id}:{score:.3f}" for id, score in zip(result.ids, result.scores, strict=True)]
    true = [str(id).ljust(len(other)) for id, other in zip(truth[:_FEW], found, strict=True)]
    return (
        f"  nearest to query 0, as id:cosine  {'  '.join(found)}\n"
        f"  its true nearest                  {'  '.join(true).rstrip()}"
    )


def _measure(
    built: Built, queries: NDArray[np.float32], truth: NDArray[np.int64]
) -> tuple[dict[str, Any], list[float]]:
    """Search once; return a row of the table and the curve of recall 1@k."""
    start = time.perf_counter()
    found = built.search(queries, max(_KS))
    row = {
        "index": built.label,
        "bits": built.bits,
        "bytes_per_vector": built.bytes_per_vector,
        "recall_at_10": recall_at_k(found, truth, 10),
        "recall_1_at_10": recall_1_at_k(found, truth, 10),
        "build_seconds": built.build_seconds,
        "search_seconds": time.perf_counter() - start,
    }
    return row, [recall_1_at_k(found, truth, k) for k in _KS]


def _left_out(quick: bool, plot: bool) -> Iterator[str]:
    if quick:
        yield "--quick leaves out faiss PQ and three quarters of the queries"
    elif not has_faiss():
        yield "faiss is not installed, so PQ is left out: pip install 'vqindex[faiss]'"
    if plot and not has_matplotlib():
        yield "matplotlib is not installed, so no plot is drawn: pip install 'vqindex[plot]'"


@click.command()
@click.option(
    "--output", type=OutputPath("it names a folder for files"), default=Path("demo"), show_default=True,
    help="Folder for the index files and the plot.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="A quarter of the queries and no faiss: done in two seconds.")
@click.option("--plot/--no-plot", default=True, help="Write recall.png (needs matplotlib).")
@json_option
def demo(output: Path, quick: bool, plot: bool, as_json: bool) -> None:
    """Build, save, load and search on real word vectors.

    20,000 GloVe vectors of 100 dimensions and 1,000 held-out queries ship with the package. Shows what vqindex finds
    after a second. Then faiss PQ with codes of the same size, if it is installed, trains for about half a minute on two
    processors. Writes the index files and a plot to the output folder.
    """
    if output.exists() and not output.is_dir():
        raise click.ClickException(f"{output} is no folder; expected a folder or a new name")
    data = load_annbench(sample_path())
    with data.train as source:
        train = np.asarray(source.read(), np.float32)
    queries, truth = data.test, data.neighbors
    if quick:
        queries, truth = queries[:250], truth[:250]
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    curves: dict[tuple[str, int], list[float]] = {}

    def measure(built: Built) -> dict[str, Any]:
        row, curves[built.label, built.bits] = _measure(built, queries, truth)
        rows.append(row)
        return row

    first = measure(_ours(output, train, "vqindex default", 4, data.metric))
    file = output / f"glove-{_FILES['vqindex default']}-4.vqi"
    click.echo(
        f"{data.n:,} GloVe vectors of {data.dim} dimensions, {len(queries):,} queries, {data.metric}\n"
        f"vqindex at 4 bits: built in {first['build_seconds']:.2f} s, saved to {file}, loaded and searched\n"
        f"{_neighbors(file, queries[0], truth[0])}\n"
        f"  recall@10 of all queries: {first['recall_at_10']:.3f}, "
        f"with {first['bytes_per_vector']:g} bytes per vector; float32 takes {4 * data.dim}",
        err=as_json,
    )
    click.echo("now the other codes of vqindex; NumPy runs the one of the paper, which takes seconds", err=True)
    for label, bits in [(label, bits) for bits in _WIDTHS for label in _FILES]:
        if (label, bits) not in curves:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", vqindex.SlowCodecWarning)  # said above
                measure(_ours(output, train, label, bits, data.metric))
    peers = has_faiss() and not quick
    if peers:
        click.echo("now faiss PQ at 2 and 4 bits: it trains, for about half a minute on two processors", err=True)
        for bits in _WIDTHS:
            row = measure(build_faiss_pq(train, bits, data.metric))
            click.echo(f"  {bits} bits: {row['index']} built in {row['build_seconds']:.0f} s", err=True)
    order = [*_FILES, *(row["index"] for row in rows)]
    rows.sort(key=lambda row: (row["bits"], order.index(row["index"])))
    plotted = output / "recall.png" if plot and has_matplotlib() else None
    if plotted is not None:
        plot_recall_curves(plotted, f"GloVe, {data.n} vectors of {data.dim} dimensions", _KS, curves)
    if as_json:
        show_json(rows)
        return
    click.echo()
    show_table(
        ("index", "bits", "bytes/vector", "recall@10", "recall 1@10", "build s", "search s"),
        [tuple(row.values()) for row in rows],
    )
    click.echo("bytes count every scalar; recall without re-ranking; build includes training, which only PQ needs")
    for left_out in _left_out(quick, plot):
        click.echo(left_out)
    if plotted is not None:
        click.echo(f"plot: {plotted}")
    click.echo(f"indexes: {', '.join(sorted(str(p) for p in output.glob('*.vqi')))}")
