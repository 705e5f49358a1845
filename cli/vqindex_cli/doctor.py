"""``vqindex doctor``."""

from __future__ import annotations

import os
import platform
from typing import Any

import click
import numpy as np

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
    """Show what this machine can use.

    Shows the processors and their instruction set, the backend of device 'auto', the codecs that have no compiled
    kernels, and what device 'cuda' needs, with what to do about what is missing.
    """
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
    isa = chosen_isa()
    click.echo(f"vqindex {vqindex.__version__}, Python {platform.python_version()}, NumPy {np.__version__}")
    click.echo(
        f"CPU: {cpu_count()} processors, instruction set {isa}{' (plain loops, slower)' if isa == 'scalar' else ''}"
    )
    click.echo(f"device 'auto' is backend {auto!r}: {_why()}")
    slow = _numpy_codecs(auto)
    if slow:
        click.echo(
            f"backend {auto!r} has no compiled kernels for {', '.join(slow)}: NumPy runs them, tens of times slower"
        )
    click.echo(f"GPU: device 'cuda' {'can be used' if cuda else 'cannot be used here; what it needs:'}")
    rows = [(check.name, "ok" if check.ok else "missing", check.found, check.repair) for check in found]
    show_table(("need", "state", "found", "what to do"), rows)
