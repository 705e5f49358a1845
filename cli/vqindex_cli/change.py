"""``vqindex add``, ``delete`` and ``compact``: they replace a file as a whole, or commit to a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vqindex.backends.registry import Device
from vqindex_datasets import open_vectors

from .arrays import ids_file, read_ids
from .build import build_index
from .opening import changing, check_index
from .options import ids_options
from .output import json_option, show_fields, show_json
from .paths import InputPath
from .samples import note_change

__all__ = ["add", "compact", "delete"]

_SECONDS = ("encode_seconds", "build_seconds")


def _report(summary: dict[str, Any], title: str, as_json: bool) -> None:
    if as_json:
        show_json(summary)
    else:
        show_fields(title, summary)


@click.command()
@click.argument("index", type=InputPath())
@click.argument("data", type=InputPath())
@ids_options
@click.option("--upsert", is_flag=True, help="Replace vectors whose ids are in INDEX; needs --ids or --ids-column.")
@click.option("--dataset", help="Which dataset, key or column of DATA holds the vectors.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
@json_option
def add(
    index: Path,
    data: Path,
    ids: Path | None,
    ids_column: str | None,
    upsert: bool,
    dataset: str | None,
    device: Device,
    as_json: bool,
) -> None:
    """Add the vectors of DATA to INDEX.

    A file is replaced after the new one is on disk. A store keeps its files and gets one more.
    """
    if upsert and ids is None and ids_column is None:
        raise click.UsageError("--upsert needs --ids or --ids-column, which say what to replace")
    with changing(index, device=device) as loaded:
        before, spent = len(loaded), {key: loaded.meta.get(key) for key in _SECONDS}
        with open_vectors(data, dataset) as source:
            count = source.shape[0]
            explicit = read_ids(ids_file(ids, ids_column, data), ids_column, count)
            build_index(loaded, source, f"encoding {data.name}", explicit, upsert=upsert)
        if count:
            note_change(loaded.meta)
        seconds, after = loaded.meta["build_seconds"], len(loaded)
        for key in _SECONDS:  # the sum over all vectors; unknown if it was unknown before
            earlier = spent[key]
            loaded.meta[key] = None if earlier is None and before else (earlier or 0) + loaded.meta[key]
    replaced = before + count - after
    summary = {
        "index": str(index),
        "added": count - replaced,
        "replaced": replaced,
        "ntotal": after,
        "seconds": seconds,
    }
    _report(summary, f"changed {index}", as_json)


@click.command()
@click.argument("index", type=InputPath())
@click.option("--ids", type=InputPath(), required=True, help="File of the ids to delete (.npy).")
@click.option("--ids-column", metavar="NAME", help="Column of the file of --ids with the ids.")
@json_option
def delete(index: Path, ids: Path, ids_column: str | None, as_json: bool) -> None:
    """Delete vectors from INDEX.

    Ids that are not in INDEX are ignored; if none is, INDEX stays unchanged. A file is replaced after the new one is on
    disk; a store marks the vectors as removed.
    """
    with changing(index) as loaded:
        removed = loaded.remove(read_ids(ids, ids_column))
        after = len(loaded)
        if removed:
            note_change(loaded.meta)
    _report({"index": str(index), "removed": removed, "ntotal": after}, f"changed {index}", as_json)


@click.command()
@click.argument("index", type=InputPath())
@json_option
def compact(index: Path, as_json: bool) -> None:
    """Rewrite the store INDEX without removed vectors.

    It then has as few files as possible. An index file never has removed vectors and stays unchanged.
    """
    check_index(index)
    before = _size(index)
    with changing(index) as loaded:
        removed, after = loaded.compact(), len(loaded)
    summary = {"index": str(index), "reclaimed": removed, "ntotal": after}
    _report({**summary, "bytes_before": before, "bytes_after": _size(index)}, f"compacted {index}", as_json)


def _size(index: Path) -> int:
    files = [path for path in index.iterdir() if path.is_file()] if index.is_dir() else [index]
    return sum(path.stat().st_size for path in files)
