"""The start of the command: Ctrl-C while its modules are imported, which takes most of a second."""

import os
import signal
import threading
from types import FrameType

__all__ = ["main"]


def _stop(number: int, frame: FrameType | None) -> None:
    # At once, since an exception in the middle of an import would show where, or be lost. Nothing has begun yet.
    os.write(2, b"stopped\n")
    os._exit(130)


def main() -> None:
    """Import the command line and run it."""
    ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, _stop)
    from .main import main as run

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
