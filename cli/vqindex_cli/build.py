"""``vqindex build``: encode the vectors of a file into an index file, in bounded memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from numpy.typing import NDArray

import vqindex
from vqindex.backends.registry import Device
from vqindex.linking import MAX_LINKS, MIN_LINKS
from vqindex.rows.originals import KINDS
from vqindex.spec import CODECS, METRICS, ROTATIONS, SKETCHES
from vqindex_datasets import VectorSource, open_vectors

from .arrays import ids_file, read_array, read_ids
from .build_shards import build_shards, metric_of_plan, shards_done
from .build_store import BEGUN, build_store, metric_of_store, rows_done
from .graph import build_graph
from .options import ids_options
from .output import is_terminal, json_option, progress_bar, show_fields, show_json
from .paths import InputPath, OutputPath, check_output
from .samples import DIGEST, choose_metric, note_origin, sample_of
from .source_rows import SourceRows
from .stopping import checkpoint, identity_of, in_blocks

__all__ = ["build", "build_index"]


def build_index(
    index: vqindex.VQIndex,
    source: VectorSource,
    label: str,
    ids: NDArray[Any] | None = None,
    *,
    upsert: bool = False,
) -> None:
    """Add or upsert all vectors of a source with a progress bar; stores the seconds spent in ``index.meta``."""
    start = time.perf_counter()
    with progress_bar(label) as report:
        rows = SourceRows(source, report)
        try:
            if upsert:
                index.upsert(ids, rows)
            else:
                index.add(rows, ids)
        except vqindex.InvalidInputError as error:
            raise vqindex.InvalidInputError(f"{source.name}: {error}") from None
        report(source.shape[0], source.shape[0])
    seconds = time.perf_counter() - start
    index.meta["encode_seconds"] = seconds - rows.read_seconds
    index.meta["build_seconds"] = seconds


def _check_output(output: Path, store: bool, force: bool, *inputs: Path | None) -> None:
    if not output.is_dir():
        check_output(output, *inputs)
    if output.exists() and not force and not store:
        raise click.ClickException(f"{output} exists; choose another name or give --force")


def _left_of(data: Path, output: Path, store: bool, force: bool) -> Callable[[], str]:
    """Return a function that says what a stopped build left."""
    before = identity_of(output)

    def left() -> str:
        if store:
            shards = shards_done(output)
            if shards is not None:
                return f"{output} holds {shards}; the same command without --force goes on after them"
            done, rows = rows_done(output)
            if done == rows:
                return f"{output} is complete" if rows else f"{output} was not begun"
            command = "the same command without --force" if force else "the same command"
            return f"{output} holds {done} of {rows} vectors; {command} goes on after them"
        if identity_of(output) != before:
            return f"{output} is complete"
        return f"{output} was not written" if before is None else f"{output} is unchanged"

    return left


def _read_center(center: str) -> NDArray[Any]:
    path = InputPath().convert(center, None, None)
    if not path.exists():
        raise click.ClickException(f"center is {center!r}, which is no file; expected 'mean' or a .npy file of numbers")
    return read_array(path, "numbers")


def _summary(index: vqindex.VQIndex, output: Path, save_seconds: float) -> dict[str, Any]:
    """Return what a build made and how long it took."""
    stats = index.stats()
    shown = (
        "ntotal",
        "dim",
        "bits",
        "metric",
        "codec",
        "sketch",
        "center",
        "bytes_per_vector",
        "link_bytes",
        "vector_bytes",
    )
    return {
        "index": str(output),
        **{key: stats[key] for key in shown},
        "file_bytes": stats["file_bytes"] if "file_bytes" in stats else output.stat().st_size,
        **{key: value for key, value in index.meta.items() if key not in (BEGUN, DIGEST)},
        "save_seconds": save_seconds,
    }


@click.command()
@click.argument("data", type=InputPath())
@click.option("-o", "--output", type=OutputPath(), required=True, help="Index file to write (.vqi).")
@click.option("--bits", type=click.IntRange(1, 8), default=4, show_default=True, help="Bits per coordinate.")
@click.option("--metric", type=click.Choice(("auto", *METRICS)), default="auto", show_default=True,
    help="auto: the distance that an HDF5 file states; else ip for vectors of length 1, and cosine for others.",
)  # fmt: skip
@click.option("--codec", type=click.Choice(CODECS), default="turboquant-prod", show_default=True)
@click.option("--sketch", type=click.Choice(SKETCHES), help="For turboquant-prod. Default: shared.")
@click.option("--rotation", type=click.Choice(ROTATIONS), default="hadamard", show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@ids_options
@click.option("--keep-vectors", type=click.Choice(tuple(KINDS)), help="Keep the vectors too, for --rerank of a search.")
@click.option("--center", metavar="mean|FILE", help="Subtract the vectors' mean, or the vector in FILE (.npy), first.")
@click.option("--graph", type=click.IntRange(MIN_LINKS, MAX_LINKS), metavar="LINKS",
    help="Make a graph of so many links a vector, usually 32, so that searches need not scan all vectors.",
)  # fmt: skip
@click.option("--dataset", help="Which dataset, key or column of DATA holds the vectors.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option("--store", is_flag=True, help="Make a store, which is a folder. Default if OUTPUT is a folder.")
@click.option("--workers", type=click.IntRange(1), help="Processes that encode a store in shards.")
@click.option("--commit-every", type=click.IntRange(1), help="Rows between commits to a store.  [default: 256 MiB]")
@json_option
def build(
    data: Path,
    output: Path,
    bits: int,
    metric: str,
    codec: str,
    sketch: str | None,
    rotation: str,
    seed: int,
    ids: Path | None,
    ids_column: str | None,
    keep_vectors: str | None,
    center: str | None,
    graph: int | None,
    dataset: str | None,
    device: Device,
    force: bool,
    store: bool,
    workers: int | None,
    commit_every: int | None,
    as_json: bool,
) -> None:
    """Encode the vectors of DATA into an index file, or a store.

    DATA is .npy .npz .hdf5/.h5 .fvecs .bvecs .fbin .u8bin .i8bin or .parquet.

    A store is built in bounded memory, with a commit after every batch. If a build is stopped, the same command resumes
    it after the last commit. With --center mean, the center of a store is the mean of the vectors of the first commit,
    and that of a file the mean of all vectors.

    With --workers, that many processes encode shards of the vectors, and the store appears when all are finished. The
    same command resumes a stopped build. The center is then the mean of all vectors.
    """
    store = store or output.is_dir()
    if commit_every is not None and not store:
        raise click.UsageError("--commit-every needs --store")
    if workers is not None and (not store or commit_every is not None):
        raise click.UsageError("--workers needs --store, and takes no --commit-every: there is one commit at the end")
    _check_output(output, store, force, data, ids, None if center in (None, "mean") else Path(center))
    parameters: dict[str, Any] = {
        "bits": bits,
        "codec": codec,
        "sketch": sketch,
        "rotation": rotation,
        "seed": seed,
        "keep_vectors": keep_vectors,
        "center": center if center in (None, "mean") else _read_center(center),
        "graph": graph,
    }
    with in_blocks(_left_of(data, output, store, force)), open_vectors(data, dataset) as source:
        sample = sample_of(source)
        meta: dict[str, Any] = {}
        note_origin(meta, data, source, sample)
        known = metric_of_plan(output) or metric_of_store(output) if store and not force else None
        if metric == "auto" and known is not None:
            metric = known
        elif metric == "auto":
            metric, why = choose_metric(data, dataset, sample)
            meta["metric_reason"] = why
            if is_terminal(sys.stderr):  # the summary says it too, but a long build ends late
                click.echo(f"metric {metric}: {why}", err=True)
        parameters["metric"] = metric
        file_of_ids = ids_file(ids, ids_column, data)
        explicit = read_ids(file_of_ids, ids_column, source.shape[0])
        if workers is not None:
            place_of_ids = (file_of_ids, ids_column)
            index, seconds = build_shards(output, data, dataset, place_of_ids, parameters, workers, force, meta)
        elif store:
            index, seconds = build_store(output, source, data, parameters, explicit, device, commit_every, force, meta)
        else:
            index = vqindex.VQIndex(source.shape[1], device=device, **{**parameters, "graph": None})
            index.meta.update(meta)
            build_index(index, source, f"encoding {data.name}", explicit)
            if graph is not None:
                build_graph(index, graph)
            checkpoint()
            start = time.perf_counter()
            index.save(output)
            seconds = time.perf_counter() - start
    summary = _summary(index, output, seconds)
    if as_json:
        show_json(summary)
    else:
        show_fields(f"built {output}", summary)
