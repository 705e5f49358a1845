"""Entry point: the group of commands, and the messages and exit codes of errors."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

import vqindex

from .bench import bench
from .buckets import pull, push
from .build import build
from .canaries import check_model
from .change import add, compact, delete
from .data import datasets
from .demo import demo
from .docs import docs
from .doctor import doctor
from .evaluate import evaluate
from .graph import graph
from .inspect import info, verify
from .pairs import neighbors, pairs
from .plan import plan
from .search import search
from .serve import serve
from .stopping import STOPPED_CODE, Stopped, checkpoint, interruptible

__all__ = ["cli", "main"]


class _ReaderGone(click.ClickException):
    """The reader of stdout ended before this command; there is nothing to say, and nobody to say it to."""

    exit_code = 141  # what shells report for a command that such a pipe ended: 128 and the number of the signal

    def show(self, file: IO[Any] | None = None) -> None:
        """Drop what stdout still holds, because Python would try to write it at its end."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def _endings() -> Iterator[None]:
    """Give Ctrl-C and a pipe without a reader their own exceptions, before click makes both into exit code 1."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped("") from None
    except BrokenPipeError:
        raise _ReaderGone("") from None
    except SystemExit as stop:  # rich ends so
        if isinstance(stop.__context__, BrokenPipeError):
            raise _ReaderGone("") from None
        raise


class _Commands(click.Group):
    """The group of commands."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; may print help."""
        with _endings():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _endings():
            return super().invoke(ctx)


@click.group(cls=_Commands, context_settings={"auto_envvar_prefix": "VQINDEX", "help_option_names": ["-h", "--help"]})
@click.version_option(vqindex.__version__, prog_name="vqindex")
def cli() -> None:
    """Build, search and measure vector indexes that train nothing.

    Every option can also be given as an environment variable: --bits of `build` as VQINDEX_BUILD_BITS.
    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, 141 the reader of a pipe was gone.
    """


_COMMANDS = (
    plan, build, add, delete, compact, graph, search, pairs, neighbors, evaluate, bench, info, verify, check_model,
    push, pull, docs, serve, datasets, demo, doctor,
)  # fmt: skip

for command in _COMMANDS:
    cli.add_command(command)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {message}", err=True)


def main() -> None:
    """Run the command line.

    Warnings and errors go to stderr. The exit code of an error is 1, of wrong usage 2, after Ctrl-C 130, and 141 if
    the reader of the output ended before this command did.
    """
    warnings.showwarning = _show_warning
    try:
        with interruptible():
            code = _run()
    except KeyboardInterrupt:  # a second one, while the first was being reported
        code = STOPPED_CODE
    if code:
        sys.exit(code)


def _run() -> int:
    """Run the command, report its error, and return the exit code."""
    try:
        code = cli.main(standalone_mode=False)
        if sys.stdout is not None:  # Python has no stdout if the shell closed it
            sys.stdout.flush()  # now, because Python would report an error of its last flush in words of its own
        checkpoint()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
            click.echo(f"Try '{error.ctx.command_path} --help' for help.", err=True)
        if isinstance(error, _ReaderGone):
            error.show()
            return error.exit_code
        prefix = "" if isinstance(error, Stopped) else "error: "
        click.echo(f"{prefix}{error.format_message()}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return STOPPED_CODE
    except BrokenPipeError:  # of the flush
        _ReaderGone("").show()
        return _ReaderGone.exit_code
    except (vqindex.VQIndexError, OSError, ValueError, MemoryError, ImportError) as error:
        click.echo(f"error: {_text_of(error)}", err=True)
        return 1


def _text_of(error: Exception) -> str:
    """Return the text of an error; for one of the system, the file and the reason without the number."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        return (
            f"{os.fsdecode(name)}: {error.strerror}" if isinstance(name, str | bytes | os.PathLike) else error.strerror
        )
    return str(error) or type(error).__name__
