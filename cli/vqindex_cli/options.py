"""Options of all commands that search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from vqindex.arguments import DEFAULT_CONFIDENCE, DEFAULT_OVERSAMPLE
from vqindex_datasets import VectorSource, is_annbench, open_vectors

__all__ = ["confidence_option", "rerank_options", "reranking", "threads_option"]

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


def rerank_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --rerank, --rerank-from and --oversample."""
    for option in (
        click.option(
            "--oversample",
            type=click.FloatRange(1),
            help=f"Length of the shortlist to re-rank, in multiples of k.  [default: {DEFAULT_OVERSAMPLE}]",
        ),
        click.option(
            "--rerank-from", type=click.Path(path_type=Path), help="Re-rank with the vectors of this file, by id."
        ),
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
def reranking(rerank: bool, rerank_from: Path | None, oversample: float | None) -> Iterator[dict[str, Any]]:
    """Give the arguments of `VQIndex.search` for these options; the file is open inside the context."""
    if rerank and rerank_from is not None:
        raise click.UsageError("--rerank and --rerank-from: give one of the two")
    if oversample is not None and not rerank and rerank_from is None:
        raise click.UsageError("--oversample needs --rerank or --rerank-from")
    if rerank_from is None:
        yield {"rerank": True, "oversample": oversample} if rerank else {}
        return
    with open_vectors(rerank_from, "train" if is_annbench(rerank_from) else None) as source:
        yield {"rerank": _Rows(source), "oversample": oversample}
