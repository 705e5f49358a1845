"""``vqindex doctor``."""

from __future__ import annotations

import os
from typing import Any

import click

import vqindex
from vqindex.backends.cpu import chosen_isa, cpu_count
from vqindex.backends.registry import make_backend, resolve
from vqindex.codes.codec import Codec
from vqindex_gpu.doctor import checks

from .output import json_option, show_json, show_table

__all__ = ["doctor"]


def _why() -> str:
    backend = os.environ.get("VQINDEX_BACKEND")
    if backend:
        return f"VQINDEX_BACKEND is {backend!r}"
    return "a GPU is used only with device 'cuda' or VQINDEX_BACKEND=cuda"


def _numpy_codecs(name: str) -> dict[str, list[str]]:
    """Return the codecs for which a backend has no kernel, each with the steps that NumPy runs."""
    kinds: list[dict[str, Any]] = [
        {"codec": "turboquant-prod"},
        {"codec": "turboquant-prod", "sketch": "orthogonal"},
        {"codec": "turboquant-prod", "sketch": "gaussian"},
        {"codec": "turboquant-mse"},
        {"codec": "trellis"},
        {"codec": "qjl"},
    ]
    found = {}
    for kind in kinds:
        steps = make_backend(Codec(vqindex.IndexSpec(8, 2, **kind)), name).numpy_steps
        if steps:
            found[" ".join(kind.values())] = list(steps)
    return found


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show the processors of this machine, and which requirements of device 'cuda' it meets."""
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
            "numpy_codecs": _numpy_codecs(auto),
            "cuda": cuda,
            "checks": [check._asdict() for check in found],
        }
        show_json(fields)
        return
    rows = [("processors", "ok", f"{cpu_count()}, instruction set {chosen_isa()}", "")]
    rows += [(check.name, "ok" if check.ok else "missing", check.found, check.repair) for check in found]
    show_table(("what", "state", "found", "to repair it"), rows)
    click.echo(f"device 'auto' is backend {auto!r}: {_why()}")
    for kind, steps in _numpy_codecs(auto).items():
        click.echo(
            f"backend {auto!r} has no kernel to {', '.join(steps)} for {kind}; NumPy does it, tens of times slower"
        )
    click.echo(f"device 'cuda' {'can be used' if cuda else 'cannot be used here'}")
