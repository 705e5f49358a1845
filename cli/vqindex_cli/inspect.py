"""``vqindex info`` and ``vqindex verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import vqindex
from vqindex import file_format
from vqindex.center import engine_spec
from vqindex.rows.originals import KINDS
from vqindex.store import verify_store
from vqindex.store.manifest import STORE_VERSION, Manifest, read_manifest
from vqindex_datasets import is_annbench, open_vectors

from .buckets import IndexPlace, manifest_at, open_at, storage_option
from .opening import check_index, open_index
from .output import json_option, show_fields, show_json, show_table
from .paths import InputPath

__all__ = ["info", "verify"]


def _file_fields(index: Path) -> dict[str, Any]:
    header = file_format.read_header(index)
    spec = vqindex.IndexSpec(**header["spec"])
    kinds = {dtype: kind for kind, dtype in KINDS.items()}
    return {
        "format_version": header["format_version"],
        "writer": header["writer"],
        "ntotal": header["ntotal"],
        **_spec_fields(spec, "center" in header["blocks"], header["blocks"].get("records", {}).get("shape")),
        "id_bytes": 8 if "ids" in header["blocks"] else 0,
        "keep_vectors": kinds.get(header["blocks"].get("vectors", {}).get("dtype")),
        **{name: value for name, value in header.get("graph", {}).items() if name in ("slots", "linked")},
        "file_bytes": index.stat().st_size,
        "fingerprint": header["fingerprint"],
        **header["meta"],
    }


def _store_fields(manifest: Manifest) -> dict[str, Any]:
    return {
        "store_version": STORE_VERSION,
        "commit": manifest.commit,
        "segments": len(manifest.segments),
        "ntotal": sum(segment.live for segment in manifest.segments),
        "removed": sum(segment.rows - segment.live for segment in manifest.segments),
        **_spec_fields(manifest.spec, manifest.center is not None),
        "id_bytes": 0 if all(segment.first_id is not None for segment in manifest.segments) else 8,
        "keep_vectors": manifest.keep_vectors,
        **({} if manifest.graph is None else {"slots": manifest.graph.rule.slots, "linked": manifest.graph.linked}),
        "file_bytes": sum(file.size for file in manifest.segments) + sum(file.size for file in manifest.links),
        **manifest.meta,
    }


def _spec_fields(spec: vqindex.IndexSpec, centered: bool, records: list[int] | None = None) -> dict[str, Any]:
    """Return the parameters and the sizes of a row; `records` is the shape of the block of records, if there is one."""
    engine = engine_spec(spec, centered)
    sizes = {"sign_bytes": engine.sign_bytes, "row_bytes": engine.row_bytes if records is None else records[1]}
    whole = engine.bytes_per_vector if records is None else sum(sizes.values())
    return {**spec.as_dict(), "centered": centered, **sizes, "bytes_per_vector": whole}


@click.command()
@click.argument("index", type=IndexPlace())
@click.option("--recall", "queries", type=InputPath(), help="A file of queries: also estimate the recall for them.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Results per query, for --recall.")
@click.option("--dataset", help="Which dataset of the queries to use. Default: test, if it is an ann-benchmarks file.")
@storage_option
@json_option
def info(
    index: Path | str, queries: Path | None, k: int, dataset: str | None, options: dict[str, Any], as_json: bool
) -> None:
    """Show the parameters and sizes of INDEX, also of a URL. Reads only its header or manifest.

    With --recall, loads the index and estimates from its codes which share of the k best vectors a search finds.
    """
    if isinstance(index, str):
        found = _store_fields(manifest_at(index, options))
    else:
        check_index(index)
        found = _store_fields(read_manifest(index)) if index.is_dir() else _file_fields(index)
    fields = {"index": str(index), **found}
    if queries is not None:
        if dataset is None and is_annbench(queries):
            dataset = "test"
        with open_vectors(queries, dataset) as source:
            opened = open_at(index, options) if isinstance(index, str) else open_index(index, mmap=True)
            low, high = opened.estimate_recall(source.read(), k)
        fields |= {"recall_k": k, "recall_low": round(low, 4), "recall_high": round(high, 4)}
    if as_json:
        show_json(fields)
    else:
        show_fields(str(index), fields)


@click.command()
@click.argument("index", type=InputPath())
@json_option
def verify(index: Path, as_json: bool) -> None:
    """Check INDEX for damage.

    Compares every block of a file, or every file of a store, with its checksum. The exit code is 1 if one is damaged.
    """
    check_index(index)
    blocks = verify_store(index) if index.is_dir() else file_format.verify(index)
    if as_json:
        show_json({"index": str(index), "ok": True, "blocks": dict(blocks)})
    else:
        show_table(("block", "bytes", "check"), [(name, size, "ok") for name, size in blocks])
        click.echo(f"{index}: ok")
