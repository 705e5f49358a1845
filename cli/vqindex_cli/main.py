"""Entry point: the group of commands, and the messages and exit codes of errors."""

from __future__ import annotations

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

__all__ = ["cli", "main"]


@click.group(context_settings={"auto_envvar_prefix": "VQINDEX", "help_option_names": ["-h", "--help"]})
@click.version_option(vqindex.__version__, prog_name="vqindex")
def cli() -> None:
    """Build, search and measure vector indexes that train nothing.

    Every option can also be given as an environment variable: --bits of `build` as VQINDEX_BUILD_BITS.
    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """


for command in (build, add, delete, compact, search, evaluate, bench, info, verify, datasets, demo, doctor):
    cli.add_command(command)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {message}", err=True)


def main() -> None:
    """Run the command line. Warnings and errors go to stderr; the exit code of an error is 1, of wrong usage 2."""
    warnings.showwarning = _show_warning
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
            click.echo(f"Try '{error.ctx.command_path} --help' for help.", err=True)
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(2 if isinstance(error, click.UsageError) else 1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(1)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except (vqindex.VQIndexError, OSError, ValueError, MemoryError, ImportError) as error:
        click.echo(f"error: {error or type(error).__name__}", err=True)
        sys.exit(1)
