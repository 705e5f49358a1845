"""``vqindex build``: vectors from a file into an index file, in bounded memory."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import click
import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex.arrays import as_ids
from vqindex.originals import KINDS
from vqindex.spec import CODECS, METRICS, ROTATIONS, SKETCHES
from vqindex_datasets import VectorSource, is_annbench, load_annbench, open_vectors

from .output import json_option, progress_bar, show_fields, show_json

__all__ = ["build", "build_index", "read_ids"]


class _Rows:
    """The vectors of a source, sliced by `VQIndex.add` chunk by chunk: so its errors name rows of the file."""

    def __init__(self, source: VectorSource, report: Callable[[int, int | None], None]) -> None:
        self.shape, self.dtype = source.shape, source.dtype
        self._source, self._report = source, report
        self.read_seconds = 0.0

    def __getitem__(self, at: slice) -> NDArray[Any]:
        start, stop, _ = at.indices(self.shape[0])
        self._report(start, self.shape[0])
        before = time.perf_counter()
        rows = self._source.read(start, stop)
        self.read_seconds += time.perf_counter() - before
        return rows


def build_index(
    index: vqindex.VQIndex,
    source: VectorSource,
    label: str,
    ids: NDArray[np.int64] | None = None,
    *,
    upsert: bool = False,
) -> None:
    """Add or upsert all vectors of a source with a progress bar; notes the seconds spent in ``index.meta``."""
    start = time.perf_counter()
    with progress_bar(label) as report:
        rows = _Rows(source, report)
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
def read_ids(path: Path, count: int | None = None) -> NDArray[np.int64]: ...
@overload
def read_ids(path: Path | None, count: int | None = None) -> NDArray[np.int64] | None: ...


def read_ids(path: Path | None, count: int | None = None) -> NDArray[np.int64] | None:
    """Read ids from a .npy file and check them; with `count`, that there are as many distinct ones."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            ids = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise click.ClickException(f"{path}: not a .npy file of integers ({error})") from None
    if not isinstance(ids, np.ndarray):
        ids.close()
        raise click.ClickException(f"{path}: a .npz archive; expected a .npy file of integers")
    try:
        return as_ids(ids, count)
    except vqindex.InvalidInputError as error:
        raise click.ClickException(f"{path}: {error}") from None


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Index file to write (.vqi).")
@click.option("--bits", type=click.IntRange(1, 8), default=4, show_default=True, help="Bits per coordinate.")
@click.option("--metric", type=click.Choice(METRICS), help="Default: what an ann-benchmarks file names, else ip.")
@click.option("--codec", type=click.Choice(CODECS), default="turboquant-prod", show_default=True)
@click.option("--sketch", type=click.Choice(SKETCHES), help="For turboquant-prod. Default: shared.")
@click.option("--rotation", type=click.Choice(ROTATIONS), default="hadamard", show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@click.option("--ids", type=click.Path(path_type=Path), help="File of int64 ids (.npy), one per vector.")
@click.option("--keep-vectors", type=click.Choice(tuple(KINDS)), help="Keep the vectors too, for --rerank of a search.")
@click.option("--dataset", help="Which dataset, key or column of DATA holds the vectors.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")
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
    dataset: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Encode the vectors of DATA into an index file.

    DATA is .npy .npz .hdf5/.h5 .fvecs .bvecs .fbin .u8bin .i8bin or .parquet.
    """
    if output.exists() and not force:
        raise click.ClickException(f"{output} exists; choose another name or give --force")
    if not output.parent.is_dir():
        raise click.ClickException(f"{output.parent} is not a folder")
    if metric is None:
        metric = load_annbench(data).metric if dataset is None and is_annbench(data) else "ip"
    with open_vectors(data, dataset) as source:
        index = vqindex.VQIndex(
            source.shape[1],
            bits,
            metric,
            codec=codec,
            sketch=sketch,
            rotation=rotation,
            seed=seed,
            keep_vectors=keep_vectors,
            device=device,
        )
        build_index(index, source, f"encoding {data.name}", read_ids(ids, source.shape[0]))
    start = time.perf_counter()
    index.save(output)
    stats = index.stats()
    summary = {
        "index": str(output),
        **{
            key: stats[key]
            for key in ("ntotal", "dim", "bits", "metric", "codec", "sketch", "bytes_per_vector", "vector_bytes")
        },
        "file_bytes": output.stat().st_size,
        **index.meta,
        "save_seconds": time.perf_counter() - start,
    }
    if as_json:
        show_json(summary)
    else:
        show_fields(f"built {output}", summary)
