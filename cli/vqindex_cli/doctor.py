"""``vqindex doctor``."""

from __future__ import annotations

import os

import click

import vqindex
from vqindex.backends.cpu import chosen_isa, cpu_count
from vqindex.backends.registry import resolve
from vqindex_gpu.doctor import checks

from .output import json_option, show_json, show_table

__all__ = ["doctor"]


def _why() -> str:
    wanted = os.environ.get("VQINDEX_BACKEND")
    if wanted:
        return f"VQINDEX_BACKEND is {wanted!r}"
    return "a GPU is used where device 'cuda' is asked for, or VQINDEX_BACKEND=cuda"


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show what this machine offers: processors, and for device 'cuda' what is there and what is missing."""
    found = checks()
    auto = resolve("auto")
    cuda = all(check.ok for check in found)
    if as_json:
        fields = {
            "version": vqindex.__version__,
            "isa": chosen_isa(),
            "processors": cpu_count(),
            "auto": auto,
            "why": _why(),
            "cuda": cuda,
            "checks": [check._asdict() for check in found],
        }
        show_json(fields)
        return
    rows = [("processors", "ok", f"{cpu_count()}, instruction set {chosen_isa()}", "")]
    rows += [(check.name, "ok" if check.ok else "missing", check.found, check.repair) for check in found]
    show_table(("what", "state", "found", "to repair it"), rows)
    click.echo(f"device 'auto' is backend {auto!r}: {_why()}")
    click.echo(f"device 'cuda' {'can be used' if cuda else 'cannot be used here'}")
