"""What the commands share on the way out: JSON or a table on stdout, a progress bar on stderr if someone looks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["json_option", "progress_bar", "show_fields", "show_json", "show_table"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Give ``report(done, total)``; draws on stderr, and only on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(label, total=None)

        def report(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield report


def show_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print strict JSON on stdout."""
    click.echo(json.dumps(value, allow_nan=False))


def show_fields(title: str, fields: Mapping[str, Any]) -> None:
    """Print names and values as two columns."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in fields.items():
        table.add_row(name, _text(value))
    Console().print(table)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Print rows under headings; numbers are right-aligned. Never wraps when the output is not a terminal."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(_text, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10000 else f"{value:,}"
    return str(value)
