"""Calls that do something before each line of the library: raise an interrupt, or change the index."""

import gc
import sys
from pathlib import Path

import vqindex

PACKAGE = str(Path(vqindex.__file__).parent)


def traced(call, on_line):
    """Call something, and call on_line(location) before each line of the library."""

    def trace(frame, event, arg):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            on_line((frame.f_code.co_filename, frame.f_lineno))
        return trace

    gc.disable()  # a collection may run the library's finalizers, at a moment of its own
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
        gc.enable()


def moments_of(call, *, only_first=False, module=""):
    """Call something; return the numbers of the lines, in the order of execution, before which to interrupt it.

    With `module` only the lines of the file of this name.
    """
    lines = []
    traced(call, lines.append)
    first, last = {}, {}
    for number, location in enumerate(lines):
        if not location[0].endswith(module):
            continue
        first.setdefault(location, number)
        last[location] = number
    return sorted(first.values() if only_first else {*first.values(), *last.values()})
