"""Entry point: the group of commands, and the messages and exit codes of errors."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import click

import vqindex

from .bench import bench
from .build import build
from .change import add, compact, delete
from .data import datasets
from .demo import demo
from .doctor import doctor
from .evaluate import evaluate
from .inspect import info, verify
from .search import search
from .stopping import STOPPED_CODE, Stopped, checkpoint, interruptible

__all__ = ["cli", "main"]


class _Commands(click.Group):
    """The group of commands. Ctrl-C ends each of them with `Stopped`, also where click would print "Aborted!"."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped("") from None


@click.group(cls=_Commands, context_settings={"auto_envvar_prefix": "VQINDEX", "help_option_names": ["-h", "--help"]})
@click.version_option(vqindex.__version__, prog_name="vqindex")
def cli() -> None:
    """Build, search and measure vector indexes that train nothing.

    Every option can also be given as an environment variable: --bits of `build` as VQINDEX_BUILD_BITS.
    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, 141 the reader of a pipe was gone.
    """


for command in (build, add, delete, compact, search, evaluate, bench, info, verify, datasets, demo, doctor):
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
        sys.stdout.flush()  # here, because Python reports an error of the last flush without saying what failed
        checkpoint()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
            click.echo(f"Try '{error.ctx.command_path} --help' for help.", err=True)
        prefix = "" if isinstance(error, Stopped) else "error: "
        click.echo(f"{prefix}{error.format_message()}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return STOPPED_CODE
    except SystemExit as stop:  # click and rich end so when the reader of stdout is gone
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return _without_reader()
    except BrokenPipeError:
        return _without_reader()
    except (vqindex.VQIndexError, OSError, ValueError, MemoryError, ImportError) as error:
        click.echo(f"error: {error or type(error).__name__}", err=True)
        return 1


def _without_reader() -> int:
    """Drop what stdout still holds, which Python would try to write at its end; return the exit code."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return 141
