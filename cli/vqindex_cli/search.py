"""``vqindex search``: search for the queries of a file; write results to a file or the terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from vqindex.backends.registry import Device
from vqindex_datasets import is_annbench, open_vectors

from .opening import open_index
from .options import confidence_option, graph_options, rerank_options, reranking, threads_option, walking
from .output import json_option, show_table
from .paths import InputPath, OutputPath, check_output

__all__ = ["search"]

_SHOWN = 10


def _plain(ids: NDArray[Any]) -> NDArray[Any]:
    """Return ids as an array that NumPy saves without pickle; "" stands for a missing result."""
    return ids if ids.dtype != object else np.array([[string or "" for string in row] for row in ids], str)


@click.command()
@click.argument("index", type=InputPath())
@click.argument("queries", type=InputPath())
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Results per query.")
@click.option(
    "-o",
    "--output",
    type=OutputPath("results are written to a file; --json writes them to stdout"),
    help="Write scores and ids here (.npz).",
)
@click.option("--dataset", help="Which dataset of QUERIES to use. Default: test, if it is an ann-benchmarks file.")
@click.option("--mmap/--no-mmap", default=False, show_default=True, help="Map the index instead of reading it.")
@rerank_options
@graph_options
@threads_option
@confidence_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
@json_option
def search(
    index: Path,
    queries: Path,
    k: int,
    output: Path | None,
    dataset: str | None,
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
    """Search INDEX for the vectors of QUERIES.

    With --json, prints one line per query: {"query": 0, "ids": [...], "scores": [...]}.
    """
    if output is not None and output.suffix != ".npz":
        raise click.BadParameter(f"{output} should end in .npz", param_hint="--output")
    if output is not None:
        check_output(output, index, queries, rerank_from)
    if dataset is None and is_annbench(queries):
        dataset = "test"
    loaded = open_index(index, mmap=mmap, device=device)
    with open_vectors(queries, dataset) as source, reranking(loaded, rerank, rerank_from, oversample) as exact:
        how = {"threads": threads, "confidence": confidence, **walking(effort, recall, scan)}
        result = loaded.search(source.read(), k, **how, **exact)
    if output is not None:
        temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp.npz")
        try:
            np.savez(temporary, scores=result.scores, ids=_plain(result.ids))
            os.replace(temporary, output)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        click.echo(f"wrote {result.ids.shape[0]} x {k} results to {output}", err=True)
    if as_json:
        for i, (scores, ids) in enumerate(zip(result.scores, result.ids, strict=True)):
            mask = np.isfinite(scores)
            line = {"query": i, "ids": ids[mask].tolist(), "scores": [float(f"{s:.9g}") for s in scores[mask]]}
            click.echo(json.dumps(line, allow_nan=False))
    elif output is None:
        rows = [
            (i, " ".join(f"{d}:{s:.4g}" for d, s in zip(ids, scores, strict=True) if np.isfinite(s)))
            for i, (scores, ids) in enumerate(zip(result.scores[:_SHOWN], result.ids[:_SHOWN], strict=True))
        ]
        show_table(("query", "id:score, best first"), rows)
        if len(result.ids) > _SHOWN:
            click.echo(f"... and {len(result.ids) - _SHOWN} more queries; -o FILE.npz or --json gives all")
