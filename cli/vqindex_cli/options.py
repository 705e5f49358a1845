"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex.arguments import DEFAULT_CONFIDENCE, DEFAULT_OVERSAMPLE
from vqindex_datasets import VectorSource, is_annbench, open_vectors

from .paths import InputPath
from .samples import holds_others

__all__ = [
    "confidence_option",
    "graph_options",
    "ids_options",
    "rerank_options",
    "reranking",
    "threads_option",
    "walking",
]

_SAMPLED = 64  # rows of the file of --rerank-from that are compared with the index

threads_option = click.option(
    "--threads", type=click.IntRange(1), help="Most threads to search with. Default: one for each processor."
)

confidence_option = click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, min_open=True),
    default=DEFAULT_CONFIDENCE,
    show_default=True,
    help="Confidence of the sign bound; a true neighbor is missed with at most 1 minus this; 1 scores every vector.",
)


def ids_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --ids and --ids-column."""
    column = click.option("--ids-column", metavar="NAME", help="Column of DATA, or of the file of --ids, with the ids.")
    file = click.option("--ids", type=InputPath(), help="File of ids, int64 or str (.npy), one per vector.")
    return file(column(command))


def graph_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --effort, --recall and --scan."""
    for option in (
        click.option("--scan", is_flag=True, help="Scan all vectors, also if INDEX has a graph."),
        click.option(
            "--recall",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            help="Share of the scan's results that walks of the graph should find, such as 0.95.",
        ),
        click.option("--effort", type=click.IntRange(1), help="Effort of walks of the graph: how many rows one keeps."),
    ):
        command = option(command)
    return command


def walking(effort: int | None, recall: float | None, scan: bool) -> dict[str, Any]:
    """Return the arguments of `VQIndex.search` for these options; those that were not given are left out."""
    given = {"effort": effort, "recall": recall, "exact": scan or None}
    return {name: value for name, value in given.items() if value is not None}


def rerank_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --rerank, --rerank-from and --oversample."""
    for option in (
        click.option(
            "--oversample",
            type=click.FloatRange(1),
            help=f"Length of the shortlist to re-rank, in multiples of k.  [default: {DEFAULT_OVERSAMPLE}]",
        ),
        click.option("--rerank-from", type=InputPath(), help="Re-rank with the vectors of this file, by id."),
        click.option("--rerank", is_flag=True, help="Re-rank with the vectors kept in INDEX."),
    ):
        command = option(command)
    return command


class _Rows:
    """A source of vectors with slices, for `VQIndex.search`."""

    def __init__(self, source: VectorSource) -> None:
        self.shape, self.dtype, self._source = source.shape, source.dtype, source

    def __getitem__(self, at: slice) -> NDArray[Any]:
        start, stop, _ = at.indices(self.shape[0])
        return np.asarray(self._source.read(start, stop))


@contextmanager
def reranking(
    index: vqindex.VQIndex, rerank: bool, rerank_from: Path | None, oversample: float | None
) -> Iterator[dict[str, Any]]:
    """Give the arguments of `VQIndex.search` for these options; the file is open inside the context."""
    if rerank and rerank_from is not None:
        raise click.UsageError("--rerank and --rerank-from: give one of the two")
    if oversample is not None and not rerank and rerank_from is None:
        raise click.UsageError("--oversample needs --rerank or --rerank-from")
    if rerank_from is None:
        yield {"rerank": True, "oversample": oversample} if rerank else {}
        return
    with open_vectors(rerank_from, "train" if is_annbench(rerank_from) else None) as source:
        if not _fits(index, source):
            click.echo(
                f"warning: {rerank_from} holds other vectors than the index: the codes of sampled ids do not fit its "
                "rows; expected the vectors of the index, row by row at their ids",
                err=True,
            )
        yield {"rerank": _Rows(source), "oversample": oversample}


def _fits(index: vqindex.VQIndex, source: VectorSource) -> bool:
    """Whether the rows of a file are the vectors of an index, by id, as far as a sample tells."""
    if source.shape[1] != index.dim:
        return True  # the search refuses it by name
    spread = np.unique(np.linspace(0, source.shape[0] - 1, min(_SAMPLED, source.shape[0]), dtype=np.int64))
    sampled = np.array([i for i in spread.tolist() if i in index], np.int64)
    rows = [np.asarray(source.read(int(i), int(i) + 1), np.float32) for i in sampled]
    return not rows or not holds_others(index, sampled, np.concatenate(rows))
