"""``vqindex pairs`` and ``vqindex neighbors``: compare the vectors of an index with each other."""

from __future__ import annotations

import csv
import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from vqindex import Pairs
from vqindex.backends.registry import Device

from .opening import open_index
from .options import threads_option
from .output import json_option, progress_bar, show_fields, show_json
from .paths import InputPath, OutputPath, check_output

__all__ = ["neighbors", "pairs"]

_COLUMNS = ("first", "second", "score", "bound")
_DASH = "results are written to a file"

_Write = Callable[[Pairs], None]


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """Give a temporary path beside the output, which replaces it at the end if nothing failed."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp{output.suffix}")
    try:
        yield temporary
        os.replace(temporary, output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _plain(ids: NDArray[Any]) -> NDArray[Any]:
    """Return ids as an array that NumPy saves without pickle."""
    return ids if ids.dtype != object else ids.astype(str)


@contextmanager
def _csv(path: Path, _: bool) -> Iterator[_Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        yield lambda block: writer.writerows(zip(*(column.tolist() for column in block), strict=True))


@contextmanager
def _json_lines(path: Path, _: bool) -> Iterator[_Write]:
    with path.open("w", encoding="utf-8") as file:

        def write(block: Pairs) -> None:
            for row in zip(*(column.tolist() for column in block), strict=True):
                file.write(json.dumps(dict(zip(_COLUMNS, row, strict=True))) + "\n")

        yield write


@contextmanager
def _parquet(path: Path, are_strings: bool) -> Iterator[_Write]:
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise click.ClickException(
            ".parquet needs pyarrow, which is not installed: pip install 'vqindex[parquet]'"
        ) from None
    ids = arrow.string() if are_strings else arrow.int64()
    schema = arrow.schema(list(zip(_COLUMNS, (ids, ids, arrow.float32(), arrow.float32()), strict=True)))
    with parquet.ParquetWriter(path, schema) as writer:

        def write(block: Pairs) -> None:
            arrays = [arrow.array(column, field.type) for column, field in zip(block, schema, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))

        yield write


@contextmanager
def _npz(path: Path, are_strings: bool) -> Iterator[_Write]:
    """Write the arrays at the end; they are in memory until then."""
    blocks: list[Pairs] = []
    yield blocks.append
    found = Pairs.joined(blocks)
    if not blocks and are_strings:
        found = found._replace(first=np.zeros(0, str), second=np.zeros(0, str))
    first, second = _plain(found.first), _plain(found.second)
    np.savez(path, first=first, second=second, score=found.scores, bound=found.bounds)


_WRITERS: dict[str, Callable[[Path, bool], Any]] = {
    ".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines, ".npz": _npz,
}  # fmt: skip


@click.command()
@click.argument("index", type=InputPath())
@click.option("--threshold", type=float, required=True, help="Scores are above it (ip, cosine) or below it (l2).")
@click.option("--confidence", type=float, default=0.95, show_default=True,
    help="Probability with which the exact score of each pair is better than the threshold.",
)  # fmt: skip
@click.option("-o", "--output", type=OutputPath(_DASH), required=True, help="A .parquet, .csv, .jsonl or .npz file.")
@click.option("--mmap/--no-mmap", default=False, show_default=True, help="Map the index instead of reading it.")
@threads_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
@json_option
def pairs(
    index: Path,
    threshold: float,
    confidence: float,
    output: Path,
    mmap: bool,
    threads: int | None,
    device: Device,
    as_json: bool,
) -> None:
    """Find all pairs of near-duplicates among the vectors of INDEX.

    Writes the ids of each pair (first, second), its score, and the bound that the exact score reaches with the
    confidence. Without kept vectors, pairs that are not surely better than the threshold are left out. Each of several
    equal vectors is paired with the first of them.
    """
    writer = _WRITERS.get(output.suffix.lower())
    if writer is None:
        raise click.BadParameter(f"{output} should end in {', '.join(_WRITERS)}", param_hint="--output")
    check_output(output, index)
    loaded = open_index(index, mmap=mmap, device=device)
    count = 0
    with ExitStack() as stack:
        report = stack.enter_context(progress_bar("comparing"))
        found = loaded.near_pairs(threshold, confidence=confidence, threads=threads, progress=report)
        temporary = stack.enter_context(_replacing(output))
        write = stack.enter_context(writer(temporary, loaded.ids.dtype == object))
        for block in found:
            write(block)
            count += block.first.size
    _show(f"wrote {output}", {"index": str(index), "vectors": len(loaded), "pairs": count}, as_json)


@click.command()
@click.argument("index", type=InputPath())
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Neighbors of each vector.")
@click.option("-o", "--output", type=OutputPath(_DASH), required=True, help="A .npz file.")
@click.option("--mmap/--no-mmap", default=False, show_default=True, help="Map the index instead of reading it.")
@threads_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
@json_option
def neighbors(
    index: Path, k: int, output: Path, mmap: bool, threads: int | None, device: Device, as_json: bool
) -> None:
    """Find the nearest neighbors of all vectors of INDEX.

    Writes a sparse matrix of scores by rows (CSR): the arrays indptr, indices and data, and the ids of rows.
    """
    if output.suffix != ".npz":
        raise click.BadParameter(f"{output} should end in .npz", param_hint="--output")
    check_output(output, index)
    loaded = open_index(index, mmap=mmap, device=device)
    with progress_bar("comparing") as report:
        graph = loaded.neighbors_graph(k, threads=threads, progress=report)
    with _replacing(output) as temporary:
        np.savez(temporary, indptr=graph.indptr, indices=graph.indices, data=graph.data, ids=_plain(graph.ids))
    fields = {"index": str(index), "vectors": graph.ids.size, "neighbors": graph.indices.size}
    _show(f"wrote {output}", fields, as_json)


def _show(title: str, fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(fields)
    else:
        show_fields(title, fields)
