"""Output of the commands: JSON or a table on stdout, and a progress bar on stderr if it is a terminal.

Tables are the same text on a terminal and in a file, whatever the width: nothing is cut or wrapped, and no line ends in
blanks.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import click
from click.shell_completion import CompletionItem
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .stopping import checkpoint

__all__ = ["CommaList", "is_terminal", "json_option", "progress_bar", "show_fields", "show_json", "show_table"]


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

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the list with its last value completed, without the values that it has already."""
        given, comma, last = incomplete.rpartition(",")
        found = self._item.shell_complete(ctx, param, last)
        return [CompletionItem(f"{given}{comma}{item.value}") for item in found if item.value not in given.split(",")]


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether stdout or stderr is a terminal; Python has None for one that the shell closed."""
    return stream is not None and stream.isatty()


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Give ``report(done, total)``, which draws a bar on stderr if it is a terminal; a report is a `checkpoint`."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not is_terminal(sys.stderr), transient=True) as progress:
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
    click.echo(_text(title))
    width = max((cell_len(name) for name in fields), default=0)
    for name, value in fields.items():
        blanks = " " * (width - cell_len(name))
        click.echo(f"{_bold(name)}{blanks}  {_text(value)}".rstrip())


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under headings; numbers are right-aligned."""
    cells = [tuple(map(_text, row)) for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    for number, row in enumerate((columns, *cells)):
        padded = [
            blanks + text if right else text + blanks
            for text, width, right in zip(row, widths, numeric, strict=True)
            for blanks in [" " * (width - cell_len(text))]
        ]
        line = "  ".join(padded).rstrip()
        click.echo(line if number else _bold(line))


def _bold(text: str) -> str:
    """Return a text in bold for a terminal that shows it."""
    plain = not is_terminal(sys.stdout) or os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return text if plain else click.style(text, bold=True)


def _text(value: Any) -> str:
    """Return a value on one line. Characters that don't print, which ids and paths may have, become escapes."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10000 else f"{value:,}"
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(value))
