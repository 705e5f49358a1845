"""``vqindex demo``: build, save, load and search on real vectors, in a minute or two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from vqindex_bench.compare import Built, build_faiss_pq, build_ours, has_faiss
from vqindex_bench.plots import has_matplotlib, plot_recall_curves
from vqindex_datasets import load_annbench, sample_path
from vqindex_datasets.recall import recall_1_at_k, recall_at_k

from .output import json_option, show_json, show_table

__all__ = ["demo"]

_KS = (1, 2, 4, 8, 16, 32, 64)
_FILES = {"vqindex default": "default", "vqindex trellis": "trellis", "prod as in the paper": "paper"}


def _contenders(output: Path, train: NDArray[np.float32], bits: int, metric: str, peers: bool) -> Iterator[Built]:
    for label, name in _FILES.items():
        click.echo(f"  {bits} bits: {label}", err=True)
        yield build_ours(label, train, bits, metric, save_to=output / f"glove-{name}-{bits}.vqi")
    if peers:
        click.echo(f"  {bits} bits: faiss PQ (trains; most of the demo's time)", err=True)
        yield build_faiss_pq(train, bits, metric)


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


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder.")
@click.option("--quick", is_flag=True, help="A quarter of the queries and no faiss.")
@click.option("--plot/--no-plot", default=True, help="Write recall.png (needs matplotlib).")
@json_option
def demo(output: Path, quick: bool, plot: bool, as_json: bool) -> None:
    """Build, save, load and search on real word vectors, beside faiss PQ at the same bytes for codes.

    20,000 GloVe vectors of 100 dimensions and 1,000 held-out queries ship with the package. Writes the index files
    and a plot to the output folder.
    """
    data = load_annbench(sample_path())
    with data.train as source:
        train = np.asarray(source.read(), np.float32)
    queries, truth = data.test, data.neighbors
    if quick:
        queries, truth = queries[:250], truth[:250]
    output.mkdir(parents=True, exist_ok=True)
    click.echo(f"{data.n} GloVe vectors, dim {data.dim}, {len(queries)} queries, cosine", err=True)
    peers = has_faiss() and not quick
    rows: list[dict[str, Any]] = []
    curves: dict[tuple[str, int], list[float]] = {}
    for bits in (2, 4):
        for built in _contenders(output, train, bits, data.metric, peers):
            row, curves[built.label, bits] = _measure(built, queries, truth)
            rows.append(row)
    plotted = output / "recall.png" if plot and has_matplotlib() else None
    if plotted is not None:
        plot_recall_curves(plotted, f"GloVe, {data.n} vectors of {data.dim} dimensions", _KS, curves)
    if as_json:
        show_json(rows)
        return
    show_table(
        ("index", "bits", "bytes/vector", "recall@10", "recall 1@10", "build s", "search s"),
        [tuple(row.values()) for row in rows],
    )
    click.echo("bytes count every scalar; recall without re-ranking; build includes training, which only PQ needs")
    if not peers and not quick:
        click.echo("faiss is not installed, so PQ is skipped: pip install 'vqindex[faiss]'")
    if plotted is not None:
        click.echo(f"plot: {plotted}")
    elif plot:
        click.echo("matplotlib is not installed, so no plot is drawn: pip install 'vqindex[plot]'")
    click.echo(f"indexes: {', '.join(sorted(str(p) for p in output.glob('*.vqi')))}")
