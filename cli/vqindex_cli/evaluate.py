"""``vqindex eval``: recall and speed of an index on data with known nearest neighbors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex.arguments import DEFAULT_OVERSAMPLE
from vqindex.backends.registry import Device
from vqindex_bench.measure import time_search
from vqindex_datasets import VectorSource, exact_knn, is_annbench, load_annbench, open_vectors
from vqindex_datasets.recall import recall_1_at_k, recall_at_k

from .opening import open_index
from .options import confidence_option, graph_options, rerank_options, reranking, threads_option, walking
from .output import json_option, progress_bar, show_fields, show_json
from .paths import InputPath
from .samples import differs_from_origin, holds_others, origin_of, sample_of
from .stopping import checkpoint

__all__ = ["evaluate"]


def _truth(
    index: vqindex.VQIndex, path: Path, data: Path, queries: Path | None, k: int, exact: bool, other: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the queries and the rows of their true neighbors, which are read from the file or computed."""
    metric = index.spec.metric
    dataset = None
    if is_annbench(data) and queries is None:
        known = load_annbench(data)
        with known.train as source:
            _check_data(index, path, data, source, other)
        if not exact:
            if known.metric != metric:
                raise click.ClickException(
                    f"{data} has neighbors for distance {known.distance!r}, the index has metric {metric!r}; "
                    "--exact computes the right ones"
                )
            if known.gt_k < k:
                raise click.ClickException(
                    f"{data} has {known.gt_k} neighbors a query, k is {k}; --exact computes more"
                )
            return known.test, known.neighbors
        test, dataset = known.test, "train"
    elif queries is None:
        raise click.UsageError(f"{data} holds no queries of its own: give them with --queries FILE")
    else:
        with open_vectors(queries, "test" if is_annbench(queries) else None) as source:
            test = np.asarray(source.read(), np.float32)
    with open_vectors(data, dataset) as source:
        _check_data(index, path, data, source, other)
        with progress_bar("exact neighbors") as report:
            truth, _ = exact_knn(source, test, k, metric, progress=report)
    return test, truth


def _check_data(index: vqindex.VQIndex, path: Path, data: Path, source: VectorSource, other: bool) -> None:
    """Raise for data whose rows are not those of the index; with `other`, only for another number or dimension."""
    origin = origin_of(index)
    known = f" ({path} was {origin})" if origin else ""
    if source.shape != (index.ntotal, index.dim):
        raise click.ClickException(
            f"{data} holds {source.shape[0]} vectors of dim {source.shape[1]}, the index {index.ntotal} of dim "
            f"{index.dim}; expected the data the index was built from{known}"
        )
    if other:
        return
    sample = sample_of(source)
    if holds_others(index, index.ids[sample.rows], sample.vectors):
        raise click.ClickException(
            f"{data} holds other vectors than {path}: the codes of sampled rows do not fit; expected the data the "
            f"index was built from{known}, or --other-data to measure anyway"
        )
    if differs_from_origin(index, sample):
        click.echo(f"warning: {data} is not what {path} was built from: {path} was {origin}", err=True)


@click.command("eval")
@click.argument("index", type=InputPath())
@click.argument("data", type=InputPath())
@click.option("-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--queries", type=InputPath(), help="Query vectors, if DATA is not an ann-benchmarks file.")
@click.option("--other-data", is_flag=True, help="Measure also if DATA holds other vectors than INDEX.")
@click.option("--exact", is_flag=True, help="Compute the true neighbors instead of reading them from DATA.")
@click.option("--mmap/--no-mmap", default=False, show_default=True, help="Map the index instead of reading it.")
@rerank_options
@graph_options
@threads_option
@confidence_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
@json_option
def evaluate(
    index: Path,
    data: Path,
    k: int,
    queries: Path | None,
    other_data: bool,
    exact: bool,
    mmap: bool,
    rerank: bool,
    rerank_from: Path | None,
    oversample: float | None,
    effort: int | None,
    recall: float | None,
    scan: bool,
    threads: int | None,
    confidence: float,
    device: Device,
    as_json: bool,
) -> None:
    """Measure recall, speed and size of INDEX, built from DATA.

    DATA is an ann-benchmarks HDF5 file, or the base vectors in any format with --queries; the true neighbors are then
    computed. Recall is the overlap of id lists; recall 1@k is the share of queries whose nearest neighbor is among k
    results.
    """
    loaded = open_index(index, mmap=mmap, device=device)
    if k > loaded.ntotal:
        raise click.ClickException(f"k is {k}, but the index holds {loaded.ntotal} vectors")
    test, rows = _truth(loaded, index, data, queries, k, exact, other_data)
    if len(test) == 0:
        raise click.ClickException(f"{queries or data} holds no queries")
    truth = loaded.ids[rows]

    with reranking(loaded, rerank, rerank_from, oversample) as exactly:

        def search(vectors: NDArray[np.float32]) -> vqindex.SearchResult:
            checkpoint()
            result: vqindex.SearchResult = loaded.search(vectors, k, **how, **exactly)
            return result

        how = {"threads": threads, "confidence": confidence, **walking(effort, recall, scan)}
        first = loaded.search(test, k, explain=True, **how, **exactly)
        found, walks = first.ids, first.explanation
        assert walks is not None
        times = time_search(search, test)
    stats = loaded.stats()
    report: dict[str, Any] = {
        "index": str(index),
        "data": str(data),
        "n": stats["ntotal"],
        **{key: stats[key] for key in ("dim", "bits", "metric", "codec", "sketch")},
        "device": device,
        "backend": stats["backend"],
        "queries": len(test),
        "k": k,
        "threads": threads,
        "confidence": confidence,
        "effort": walks.effort,
        "scored": None if walks.effort is None else float(walks.scored.mean()),
        "rerank": "kept vectors" if rerank else None if rerank_from is None else str(rerank_from),
        "oversample": (oversample or DEFAULT_OVERSAMPLE) if rerank or rerank_from is not None else None,
        "recall_at_k": recall_at_k(found, truth, k),
        "recall_1_at_k": recall_1_at_k(found, truth, k),
        "recall_1_at_1": recall_1_at_k(found, truth, 1),
        "bytes_per_vector": stats["bytes_per_vector"],
        "id_bytes": stats["id_bytes"],
        "link_bytes": stats["link_bytes"],
        "vector_bytes": stats["vector_bytes"],
        "build_seconds": loaded.meta.get("build_seconds"),
        "encode_seconds": loaded.meta.get("encode_seconds"),
        **asdict(times),
    }
    if as_json:
        show_json(report)
    else:
        show_fields(f"{index} on {data}", report)
