"""``vqindex graph``: link the vectors of an index, or drop its links."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

import vqindex
from vqindex.linking import MAX_LINKS, MIN_LINKS
from vqindex_datasets import is_annbench, open_vectors

from .opening import changing
from .output import json_option, progress_bar, show_fields, show_json, show_table
from .paths import InputPath
from .stopping import checkpoint

__all__ = ["build_graph", "graph", "read_queries", "show_graph"]


def build_graph(index: vqindex.VQIndex, links: int) -> None:
    """Link the rows of an index with a progress bar; stores the seconds spent in ``index.meta``."""
    start = time.perf_counter()
    with progress_bar("linking") as report:
        index.build_graph(links, progress=report)
    index.meta["link_seconds"] = time.perf_counter() - start
    checkpoint()
    if index.stats()["linked"]:
        index.tune()


@click.command()
@click.argument("index", type=InputPath())
@click.option("--links", type=click.IntRange(MIN_LINKS, MAX_LINKS), default=32, show_default=True,
    help="Most links of a vector.",
)  # fmt: skip
@click.option("--drop", is_flag=True, help="Remove the graph.")
@click.option("--queries", type=InputPath(), help="Measure agreement with these queries instead of vectors of INDEX.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Results to compare.")
@json_option
def graph(index: Path, links: int, drop: bool, queries: Path | None, k: int, as_json: bool) -> None:
    """Link the vectors of INDEX, an index file or a store.

    Searches then walk along links and need not scan all vectors. Prints how much of the scan's results walks find,
    against their effort. `search --recall` uses this curve.
    """
    with changing(index) as loaded:
        if drop:
            loaded.drop_graph()
        else:
            build_graph(loaded, links)
            if loaded.stats()["linked"] and (queries is not None or k != 10):
                loaded.tune(None if queries is None else read_queries(queries), k)
        stats = loaded.stats()
        curve = loaded.curve
    summary: dict[str, Any] = {
        "index": str(index),
        **{name: stats[name] for name in ("ntotal", "links", "linked", "link_bytes")},
        "link_seconds": None if drop else loaded.meta["link_seconds"],
    }
    show_graph(f"changed {index}", summary, curve, as_json)


def show_graph(title: str, summary: dict[str, Any], curve: Any, as_json: bool) -> None:
    """Print what was done to a graph, and its curve, a Curve or None."""
    if as_json:
        show_json({**summary, "curve": None if curve is None else curve._asdict()})
        return
    show_fields(title, summary)
    if curve is not None:
        rows = zip(curve.efforts, curve.agreement, curve.error, curve.scored, strict=True)
        show_table(
            ("effort", "agreement", "error", "scored"),
            [(effort, f"{share:.4f}", f"{error:.4f}", f"{scored:.0f}") for effort, share, error, scored in rows],
        )


def read_queries(queries: Path) -> Any:
    """Return the vectors of a file of queries, float32 (nq, dim)."""
    with open_vectors(queries, "test" if is_annbench(queries) else None) as source:
        return np.asarray(source.read(), np.float32)
