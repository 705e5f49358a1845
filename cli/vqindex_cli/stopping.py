"""Ctrl-C: a handler remembers it, and commands act on it between blocks of rows.

Python drops an exception that is raised in a finalizer or in the callback of a weak reference, and a signal may arrive
there. A `KeyboardInterrupt` alone can therefore be lost. The handler counts every Ctrl-C, and `checkpoint` raises what
was lost. Commands that write an index do so inside `in_blocks`, where the first Ctrl-C raises nothing until the next
checkpoint, so that no write is torn in the middle. A second Ctrl-C raises at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click

__all__ = ["STOPPED_CODE", "Stopped", "checkpoint", "identity_of", "in_blocks", "interruptible"]

STOPPED_CODE = 130  # what shells report for a command that Ctrl-C ended: 128 and the number of the signal


class Stopped(click.ClickException):
    """Ctrl-C ended a command; the message, which may be empty, says what is left and how to go on."""

    exit_code = STOPPED_CODE

    def format_message(self) -> str:
        """Return the line for stderr."""
        return f"stopped: {self.message}" if self.message else "stopped"

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line on stderr, or to `file`."""
        click.echo(self.format_message(), file=file, err=True)


class _Presses:
    """How often Ctrl-C was pressed since the command began, and whether the command works in blocks."""

    count = 0
    in_blocks = False


def _handle(number: int, frame: FrameType | None) -> None:
    _Presses.count += 1
    if _Presses.count > 1 or not _Presses.in_blocks:
        raise KeyboardInterrupt
    if sys.stderr is not None and sys.stderr.isatty():
        # Not by sys.stderr, which may be in the middle of a write.
        os.write(2, b"\nstopping at the next block; Ctrl-C again stops at once\n")


@contextmanager
def interruptible() -> Iterator[None]:
    """Handle Ctrl-C inside, and restore the former handler.

    In a thread other than the main one nothing changes, because Python runs signal handlers in the main thread. Nor
    does it where the signal is ignored, as shells do for jobs in the background.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    _Presses.count, _Presses.in_blocks = 0, False
    former = signal.signal(signal.SIGINT, _handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if former is None else former)
        _Presses.count = 0


def checkpoint() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed before."""
    if _Presses.count:
        raise KeyboardInterrupt


@contextmanager
def in_blocks(left: Callable[[], str]) -> Iterator[None]:
    """Act on the first Ctrl-C only at a `checkpoint`, and at the end of the block.

    Parameters
    ----------
    left : callable
        Called after a stop; returns what is left and how to go on.

    Raises
    ------
    Stopped
        With the text of `left`.
    """
    _Presses.in_blocks = True
    try:
        yield
        checkpoint()
    except KeyboardInterrupt:
        raise Stopped(left()) from None
    finally:
        _Presses.in_blocks = False


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return what differs between a file and the file that replaces it; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
