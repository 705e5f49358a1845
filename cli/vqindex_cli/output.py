"""Output of the commands: JSON or a table on stdout, and a progress bar on stderr if it is a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .stopping import checkpoint

__all__ = ["CommaList", "json_option", "progress_bar", "show_fields", "show_json", "show_table"]

_ANY_WIDTH = 1_000_000


class _JsonOption(click.Option):
    """The option --json. Its environment variable ends in _JSON, although the parameter has another name."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return os.environ.get(f"{ctx.auto_envvar_prefix}_JSON") or None


json_option = click.option(
    "--json", "as_json", is_flag=True, cls=_JsonOption, help="Print one JSON object instead of a table."
)


class CommaList(click.ParamType):  # type: ignore[type-arg]
    """Values of one type, separated by commas; gives a tuple."""

    name = "list"

    def __init__(self, item: Any) -> None:
        self._item = item

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the metavar of the option in the help."""
        return "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the values, each checked by its own type."""
        if not isinstance(value, str):
            return tuple(value)
        items = [item.strip() for item in value.split(",")] if value.strip() else []
        return tuple(self._item.convert(item, param, ctx) for item in items)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Give ``report(done, total)``, which draws a bar on stderr if it is a terminal; a report is a `checkpoint`."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(label, total=None)

        def report(done: int, total: int | None) -> None:
            checkpoint()
            progress.update(task, completed=done, total=total)

        yield report


def show_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print strict JSON on stdout."""
    click.echo(json.dumps(value, allow_nan=False))


def show_fields(title: str, fields: Mapping[str, Any]) -> None:
    """Print names and values as two columns."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(Text(name), _text(value))
    click.echo(title)
    _print(table)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under headings; numbers are right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(_text, row))
    _print(table)


def _print(table: Table) -> None:
    """Print to stdout; lines are not wrapped if stdout is not a terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_ANY_WIDTH)
    console.print(table)


def _text(value: Any) -> Text:
    """Return a value as text, not as markup, because paths may have brackets."""
    if isinstance(value, float):
        return Text(f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}")
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(str(value) if abs(value) < 10000 else f"{value:,}")
    return Text(str(value))
