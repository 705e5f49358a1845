"""Paths on the command line: refusals name what was typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vqindex import InvalidInputError
from vqindex.arguments import as_path

__all__ = ["InputPath", "OutputPath", "check_output"]


class _LocalPath(click.Path):
    """A path of the local file system; ``-`` and URLs are refused."""

    dash = ""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if isinstance(value, str):
            name = "name" if param is None or param.name is None else param.name.replace("_", "-")
            if value == "-":
                raise click.ClickException(f"{name} is '-', but {self.dash}; expected the name of a file")
            if not value:
                raise click.BadParameter("the name is empty; expected the name of a file", ctx, param)
            if "\0" in value:
                raise click.BadParameter(f"{value!r} holds a null character", ctx, param)
            try:
                as_path(value)
            except InvalidInputError as error:
                raise click.ClickException(str(error)) from None
        return super().convert(value, param, ctx)


class InputPath(_LocalPath):
    """A path to read."""

    dash = "this command does not read from stdin"


class OutputPath(_LocalPath):
    """A path to write."""

    dash = "an index is not written to stdout"

    def __init__(self, dash: str | None = None) -> None:
        super().__init__()
        self.dash = dash or self.dash


def check_output(path: Path, *inputs: Path | None) -> None:
    """Raise for an output that is no regular file, whose folder does not exist, or that is one of the inputs."""
    if path.is_dir():
        raise click.ClickException(f"{path} is a folder; expected the name of a file")
    if path.exists() and not path.is_file():
        raise click.ClickException(f"{path} is no regular file; expected a file or a new name")
    if not path.parent.is_dir():
        raise click.ClickException(f"{path.parent} is not a folder")
    if path.exists() and any(each is not None and each.exists() and path.samefile(each) for each in inputs):
        raise click.ClickException(f"{path} is read by this command; expected another name to write to")
