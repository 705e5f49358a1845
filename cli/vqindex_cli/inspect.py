"""``vqindex info`` and ``vqindex verify``."""

from __future__ import annotations

from pathlib import Path

import click

import vqindex
from vqindex import storage
from vqindex.originals import KINDS

from .output import json_option, show_fields, show_json, show_table

__all__ = ["info", "verify"]


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@json_option
def info(index: Path, as_json: bool) -> None:
    """Show what INDEX holds, from its header alone."""
    header = storage.read_header(index)
    spec = vqindex.IndexSpec(**header["spec"])
    fields = {
        "index": str(index),
        "format_version": header["format_version"],
        "writer": header["writer"],
        "ntotal": header["ntotal"],
        **spec.as_dict(),
        "sign_bytes": spec.sign_bytes,
        "row_bytes": spec.row_bytes,
        "bytes_per_vector": spec.bytes_per_vector,
        "id_bytes": 8 if "ids" in header["blocks"] else 0,
        "keep_vectors": {dtype: kind for kind, dtype in KINDS.items()}.get(
            header["blocks"].get("vectors", {}).get("dtype")
        ),
        "file_bytes": index.stat().st_size,
        "fingerprint": header["fingerprint"],
        **header["meta"],
    }
    if as_json:
        show_json(fields)
    else:
        show_fields(str(index), fields)


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@json_option
def verify(index: Path, as_json: bool) -> None:
    """Check every block of INDEX against its checksum; exit code 1 names the damaged block."""
    blocks = storage.verify(index)
    if as_json:
        show_json({"index": str(index), "ok": True, "blocks": dict(blocks)})
    else:
        show_table(("block", "bytes", "check"), [(name, size, "ok") for name, size in blocks])
        click.echo(f"{index}: ok")
