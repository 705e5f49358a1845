"""``vqindex build --store --workers``: several processes encode shards of the data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import vqindex
from vqindex.sharding import build as build_in_processes
from vqindex.sharding import discard_build, load_plan, missing_shards, plan_build

from .build_store import BEGUN
from .graph import build_graph
from .output import progress_bar
from .stopping import checkpoint

__all__ = ["build_shards", "metric_of_plan", "shards_done"]


def metric_of_plan(output: Path) -> str | None:
    """Return the metric of the unfinished build in a folder; None if there is none."""
    plan = load_plan(output) if output.is_dir() else None
    return None if plan is None else plan.index_spec.metric


def shards_done(output: Path) -> str | None:
    """Return in words how far the unfinished build in a folder is; None if there is none."""
    plan = load_plan(output) if output.is_dir() else None
    return None if plan is None else f"{plan.shards - len(missing_shards(plan))} of {plan.shards} shards"


def build_shards(
    output: Path,
    data: Path,
    dataset: str | None,
    ids: tuple[Path | None, str | None],
    parameters: Mapping[str, Any],
    workers: int,
    force: bool,
    meta: Mapping[str, Any],
) -> tuple[vqindex.VQIndex, float]:
    """Build or resume a store in processes; return it, open for reading, and 0 seconds of commits.

    `ids` are the file of ids and its column.
    """
    if force:
        discard_build(output)
    links = parameters["graph"]
    explicit = {name: value for name, value in parameters.items() if value is not None and name != "graph"}
    try:
        plan = plan_build(data, output, dataset=dataset, ids=ids[0], ids_column=ids[1], meta=meta, **explicit)
    except FileExistsError:
        raise click.ClickException(f"{output} exists; choose another name or give --force") from None
    done = plan.shards - len(missing_shards(plan))
    if done:
        click.echo(f"going on after {done} of {plan.shards} shards", err=True)
    start = time.perf_counter()
    with progress_bar(f"encoding {data.name}") as report:

        def progress(done: int, rows: int) -> None:
            checkpoint()
            report(done, rows)

        build_in_processes(
            plan,
            workers,
            progress=progress,
            meta=lambda: {
                "workers": workers,
                "build_seconds": time.perf_counter() - start,
                BEGUN: {"data": data.name, "rows": plan.rows, "done": plan.rows},
            },
        )
    if links is not None:
        with vqindex.open(output, "a") as index:
            build_graph(index, links)
    return vqindex.open(output), 0.0
