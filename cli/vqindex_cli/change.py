"""``vqindex add`` and ``vqindex delete``: an index file is loaded, changed, and replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import vqindex
from vqindex_datasets import open_vectors

from .build import build_index, read_ids
from .output import json_option, show_fields, show_json

__all__ = ["add", "delete"]

_SECONDS = ("encode_seconds", "build_seconds")


def _report(summary: dict[str, Any], title: str, as_json: bool) -> None:
    if as_json:
        show_json(summary)
    else:
        show_fields(title, summary)


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--ids", type=click.Path(path_type=Path), help="File of int64 ids (.npy), one per vector.")
@click.option("--upsert", is_flag=True, help="Replace vectors whose ids are in INDEX; needs --ids.")
@click.option("--dataset", help="Which dataset, key or column of DATA holds the vectors.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
@json_option
def add(
    index: Path, data: Path, ids: Path | None, upsert: bool, dataset: str | None, device: str, as_json: bool
) -> None:
    """Add the vectors of DATA to the file INDEX, which is replaced once the new one is on disk."""
    if upsert and ids is None:
        raise click.UsageError("--upsert needs --ids, which say what to replace")
    loaded = vqindex.VQIndex.load(index, device=device)
    before, spent = len(loaded), {key: loaded.meta.get(key) for key in _SECONDS}
    with open_vectors(data, dataset) as source:
        count = source.shape[0]
        build_index(loaded, source, f"encoding {data.name}", read_ids(ids, count), upsert=upsert)
    seconds = loaded.meta["build_seconds"]
    for key in _SECONDS:  # those of all vectors, or unknown as before
        known = spent[key]
        loaded.meta[key] = None if known is None and before else (known or 0) + loaded.meta[key]
    loaded.save(index)
    replaced = before + count - len(loaded)
    summary = {
        "index": str(index),
        "added": count - replaced,
        "replaced": replaced,
        "ntotal": len(loaded),
        "seconds": seconds,
    }
    _report(summary, f"changed {index}", as_json)


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--ids", type=click.Path(path_type=Path), required=True, help="File of the ids to take out (.npy).")
@json_option
def delete(index: Path, ids: Path, as_json: bool) -> None:
    """Take vectors out of the file INDEX, which is replaced once the new one is on disk.

    Ids that are not in INDEX are passed over; if none is, the file stays as it is.
    """
    loaded = vqindex.VQIndex.load(index)
    wanted = read_ids(ids)
    removed = loaded.remove(wanted)
    if removed:
        loaded.save(index)
    _report({"index": str(index), "removed": removed, "ntotal": len(loaded)}, f"changed {index}", as_json)
