"""``vqindex build``: encode the vectors of a file into an index file, in bounded memory."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any, overload

import click
import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex.arguments import as_path
from vqindex.arrays import as_ids
from vqindex.rows.ids import IdMap
from vqindex.rows.originals import KINDS
from vqindex.spec import CODECS, METRICS, ROTATIONS, SKETCHES
from vqindex_datasets import VectorSource, is_annbench, load_annbench, open_vectors

from .build_store import BEGUN, build_store
from .output import json_option, progress_bar, show_fields, show_json
from .source_rows import SourceRows

__all__ = ["build", "build_index", "read_ids"]


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


@overload
def read_ids(path: Path, count: int | None = None) -> NDArray[Any]: ...
@overload
def read_ids(path: Path | None, count: int | None = None) -> NDArray[Any] | None: ...


def read_ids(path: Path | None, count: int | None = None) -> NDArray[Any] | None:
    """Read ids, int64 or str, from a .npy file and check them; with `count`, also their number and that they differ."""
    if path is None:
        return None
    try:
        ids = read_array(path, "integers or strings")
        if ids.dtype.kind != "U":
            return as_ids(ids, count)
        IdMap().parse_ids(ids, count)
        return ids
    except vqindex.InvalidInputError as error:
        raise click.ClickException(f"{path}: {error}") from None


def read_array(path: Path, what: str) -> NDArray[Any]:
    """Read the array of a .npy file."""
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise click.ClickException(f"{path}: not a .npy file of {what} ({error})") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise click.ClickException(f"{path}: a .npz archive; expected a .npy file of {what}")
    return array


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Index file to write (.vqi).")
@click.option("--bits", type=click.IntRange(1, 8), default=4, show_default=True, help="Bits per coordinate.")
@click.option("--metric", type=click.Choice(METRICS), help="Default: the metric of an ann-benchmarks file, else ip.")
@click.option("--codec", type=click.Choice(CODECS), default="turboquant-prod", show_default=True)
@click.option("--sketch", type=click.Choice(SKETCHES), help="For turboquant-prod. Default: shared.")
@click.option("--rotation", type=click.Choice(ROTATIONS), default="hadamard", show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@click.option("--ids", type=click.Path(path_type=Path), help="File of ids, int64 or str (.npy), one per vector.")
@click.option("--keep-vectors", type=click.Choice(tuple(KINDS)), help="Keep the vectors too, for --rerank of a search.")
@click.option("--center", metavar="mean|FILE", help="Subtract the vectors' mean, or the vector in FILE (.npy), first.")
@click.option("--dataset", help="Which dataset, key or column of DATA holds the vectors.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option("--store", is_flag=True, help="Make a store, which is a folder. Default if OUTPUT is a folder.")
@click.option("--commit-every", type=click.IntRange(1), help="Rows between commits to a store.  [default: 256 MiB]")
@json_option
def build(
    data: Path,
    output: Path,
    bits: int,
    metric: str | None,
    codec: str,
    sketch: str | None,
    rotation: str,
    seed: int,
    ids: Path | None,
    keep_vectors: str | None,
    center: str | None,
    dataset: str | None,
    device: str,
    force: bool,
    store: bool,
    commit_every: int | None,
    as_json: bool,
) -> None:
    """Encode the vectors of DATA into an index file, or a store.

    DATA is .npy .npz .hdf5/.h5 .fvecs .bvecs .fbin .u8bin .i8bin or .parquet.

    A store is built in bounded memory, with a commit after every batch. If a build is stopped, the same command resumes
    it after the last commit. With --center mean, the center of a store is the mean of the vectors of the first commit,
    and that of a file the mean of all vectors.
    """
    store = store or output.is_dir()
    if commit_every is not None and not store:
        raise click.UsageError("--commit-every needs --store")
    if str(output) == "-":
        raise click.ClickException("output is '-', but an index is not written to stdout; expected the name of a file")
    as_path(output)  # no URL
    if output.exists() and not output.is_file() and not output.is_dir():
        raise click.ClickException(f"{output} is no regular file; expected a file or a new name")
    if output.exists() and not force and not store:
        raise click.ClickException(f"{output} exists; choose another name or give --force")
    if not output.parent.is_dir():
        raise click.ClickException(f"{output.parent} is not a folder")
    if metric is None:
        metric = load_annbench(data).metric if dataset is None and is_annbench(data) else "ip"
    parameters: dict[str, Any] = {
        "bits": bits,
        "metric": metric,
        "codec": codec,
        "sketch": sketch,
        "rotation": rotation,
        "seed": seed,
        "keep_vectors": keep_vectors,
        "center": center if center in (None, "mean") else read_array(Path(center), "numbers"),
    }
    with open_vectors(data, dataset) as source:
        explicit = read_ids(ids, source.shape[0])
        if store:
            index, seconds = build_store(output, source, data, parameters, explicit, device, commit_every, force)
        else:
            index = vqindex.VQIndex(source.shape[1], device=device, **parameters)
            build_index(index, source, f"encoding {data.name}", explicit)
            start = time.perf_counter()
            index.save(output)
            seconds = time.perf_counter() - start
    stats = index.stats()
    summary = {
        "index": str(output),
        **{
            key: stats[key]
            for key in (
                "ntotal",
                "dim",
                "bits",
                "metric",
                "codec",
                "sketch",
                "center",
                "bytes_per_vector",
                "vector_bytes",
            )
        },
        "file_bytes": stats["file_bytes"] if store else output.stat().st_size,
        **{key: value for key, value in index.meta.items() if key != BEGUN},
        "save_seconds": seconds,
    }
    if as_json:
        show_json(summary)
    else:
        show_fields(f"built {output}", summary)
