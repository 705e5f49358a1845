"""Options of all commands that search."""

from __future__ import annotations

import click

from vqindex.arguments import DEFAULT_CONFIDENCE

__all__ = ["confidence_option", "threads_option"]

threads_option = click.option(
    "--threads", type=click.IntRange(1), help="Most threads to search with. Default: one for each processor."
)

confidence_option = click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, min_open=True),
    default=DEFAULT_CONFIDENCE,
    show_default=True,
    help="Chance to score a true neighbour whose sign bits are read first; 1 scores every vector.",
)
