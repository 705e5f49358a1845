"""``python -m soak``: begins again where it may mount a small disk, and with one thread, since it forks."""

import os
import sys

from . import troubles

_IN_NAMESPACE = "--in-namespace"

os.environ["OPENBLAS_NUM_THREADS"] = "1"
if __name__ == "__main__" and _IN_NAMESPACE not in sys.argv:
    command = troubles.in_namespace([*sys.argv[1:], _IN_NAMESPACE])
    if command is not None:
        os.execvp(command[0], command)

from .main import main  # noqa: E402 - it takes long to import

sys.exit(main())
