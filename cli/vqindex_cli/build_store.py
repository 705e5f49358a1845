"""``vqindex build --store``: build in bounded memory, with commits; a stopped build resumes after the last commit."""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex.backends.registry import Device
from vqindex.store import discard_store
from vqindex.store.manifest import Manifest, read_manifest
from vqindex_datasets import VectorSource

from .output import progress_bar
from .source_rows import SourceRows
from .stopping import checkpoint

__all__ = ["BEGUN", "build_store", "metric_of_store", "rows_done"]

BEGUN = "building"  # key in a store's notes: the source of the build, and the rows that are done
_COMMIT_VALUES = 2**26  # float32 values between two commits: 256 MiB of input
_LINKED_VALUES = 2**24  # with a graph: linking them takes seconds, during which a build can't be stopped


def _checksum(ids: NDArray[Any]) -> int:
    """Return a checksum of ids."""
    return zlib.crc32(ids.tobytes()) if ids.dtype.kind == "U" else int(ids.sum(dtype=np.uint64))


def _origin(source: VectorSource, data: Path, ids: NDArray[Any] | None) -> dict[str, Any]:
    """Return the fields that identify the data of a build."""
    status = data.stat()
    return {
        "data": data.name,
        "rows": source.shape[0],
        "bytes": status.st_size,
        "changed": status.st_mtime_ns,
        "ids": None if ids is None else _checksum(ids),
    }


def rows_done(output: Path) -> tuple[int, int]:
    """Return how many vectors of its data a store that `build_store` makes holds, and their number; else zeros."""
    manifest = _manifest(output)
    begun = {} if manifest is None else manifest.meta.get(BEGUN, {})
    return int(begun.get("done", 0)), int(begun.get("rows", 0))


def metric_of_store(output: Path) -> str | None:
    """Return the metric of the store in a folder; None if it holds none."""
    manifest = _manifest(output)
    return None if manifest is None else manifest.spec.metric


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder) if folder.is_dir() else None
    except FileNotFoundError:
        return None


def build_store(
    output: Path,
    source: VectorSource,
    data: Path,
    parameters: dict[str, Any],
    ids: NDArray[Any] | None,
    device: Device,
    every: int | None,
    force: bool,
    meta: dict[str, Any],
) -> tuple[vqindex.VQIndex, float]:
    """Build or resume a store; return it, open for reading, and the seconds that commits took.

    A new store gets the notes `meta`.
    """
    if force:
        discard_store(output)
    explicit = {name: value for name, value in parameters.items() if value is not None}
    origin = _origin(source, data, ids)
    with vqindex.open(output, "a", dim=source.shape[1], device=device, **explicit) as index:
        begun = index.meta.get(BEGUN)
        if begun is None and len(index) == 0 and not index.meta:
            begun = index.meta[BEGUN] = {**origin, "done": 0}
            index.meta.update(meta, encode_seconds=0.0, build_seconds=0.0)
            index.commit()
        if begun is None or {**begun, "done": 0} != {**origin, "done": 0}:
            raise click.ClickException(
                f"{output} exists, and was not begun from {data} as it is; choose another name or give --force"
            )
        if begun["done"] == origin["rows"] > 0:
            raise click.ClickException(f"{output} exists and is complete; choose another name or give --force")
        if begun["done"]:
            click.echo(f"going on after {begun['done']} of {origin['rows']} vectors", err=True)
        values = _COMMIT_VALUES if explicit.get("graph") is None else _LINKED_VALUES
        seconds = _fill(index, source, data, ids, every or max(1, values // source.shape[1]))
        if index.stats()["linked"]:
            index.tune()
    return vqindex.open(output, device=device), seconds


def _fill(index: vqindex.DurableIndex, source: VectorSource, data: Path, ids: NDArray[Any] | None, every: int) -> float:
    notes, commits = index.meta, 0.0
    with progress_bar(f"encoding {data.name}") as report:
        for start in range(notes[BEGUN]["done"], source.shape[0], every):
            stop = min(start + every, source.shape[0])
            checkpoint()
            begun = time.perf_counter()
            rows = SourceRows(source, report, start, stop)
            try:
                index.add(rows, None if ids is None else ids[start:stop])
            except vqindex.InvalidInputError as error:
                where = f"{source.name}, counted from row {start}" if start else source.name
                raise vqindex.InvalidInputError(f"{where}: {error}") from None
            encoded = time.perf_counter()
            notes = index.meta
            notes[BEGUN] = {**notes[BEGUN], "done": stop}
            notes["encode_seconds"] += encoded - begun - rows.read_seconds
            notes["build_seconds"] += encoded - begun
            index.commit()
            commits += time.perf_counter() - encoded
        report(source.shape[0], source.shape[0])
    return commits
