"""``vqindex check-model``: whether vectors come from the model that built an index."""

from __future__ import annotations

import math
from pathlib import Path

import click

from vqindex_datasets import open_vectors

from .opening import open_index
from .output import json_option, show_json
from .paths import InputPath

__all__ = ["check_model"]

_OPEN = {"min_open": True, "max_open": True}


@click.command("check-model")
@click.argument("index", type=InputPath())
@click.argument("vectors", type=InputPath())
@click.option("--tolerance", type=click.FloatRange(0, 0.5, min_open=True), default=0.01, show_default=True,
    help="Cosines of the same model are at least 1 minus this.",
)  # fmt: skip
@click.option("--false-alarm", type=click.FloatRange(0, 1, **_OPEN), default=0.001, show_default=True,
    help="Most probability of taking the same model for another.",
)  # fmt: skip
@click.option("--dataset", help="Which dataset, key or column of VECTORS to use.")
@json_option
@click.pass_context
def check_model(
    context: click.Context,
    index: Path,
    vectors: Path,
    tolerance: float,
    false_alarm: float,
    dataset: str | None,
    as_json: bool,
) -> None:
    """Tell whether VECTORS come from the model that built INDEX.

    VECTORS are new vectors of the canaries of INDEX, in their order (`set_canaries` in Python). The exit code is 1 if
    the model is another one.
    """
    loaded = open_index(index, mmap=True)
    with open_vectors(vectors, dataset) as source:
        found = loaded.check_model(source.read(), tolerance=tolerance, false_alarm=false_alarm)
    if as_json:
        fields = {name: getattr(found, name) for name in ("same", "reason", "similarity", "expected_low", "detectable")}
        arrays = {name: getattr(found, name).tolist() for name in ("ids", "cosines", "expected_lows")}
        show_json({"index": str(index), **fields, "scale": None if math.isnan(found.scale) else found.scale, **arrays})
    else:
        click.echo(found.reason)
    if not found:
        context.exit(1)
