"""Run a part of the engine with one barrier deleted. It may crash, so the tests run it in a process of its own.

    python broken.py BODY START NUMBER SEED

The exit status is 0 only if the results are right.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "support")]

import gate
import gpu_checks as gpu
from emulated import EmulatedDevice

from vqindex_gpu.backend import CudaBackend
from vqindex_gpu.engine import Engine

BARRIER = "__syncthreads();"


def without_barrier(start, number):
    """Return an edit that deletes one barrier after a mark in the source."""

    def edit(text):
        before, mark, after = text.partition(start)
        if not mark:
            return text
        parts = after.split(BARRIER)
        parts[number : number + 2] = [parts[number] + parts[number + 1]]
        return before + mark + BARRIER.join(parts)

    return edit


def encode(edit, seed):
    engine = Engine(EmulatedDevice(seed, edit=edit), gpu.codec_of(300, 4))
    gpu.encodes_like_the_reference(engine, gate.corpus(300, rows=20)[14:])


def scan(edit, seed):
    made = gpu.codec_of(200, 4)
    backend = CudaBackend(made, [EmulatedDevice(seed, edit=edit)])
    gpu.searches_like_the_reference(backend, gpu.stored(made, gate.corpus(200, rows=700)), gate.queries(200), 3)


def bound(edit, seed):
    made = gpu.codec_of(200, 4)
    backend = CudaBackend(made, [EmulatedDevice(seed, edit=edit)])
    blocks = gpu.stored(made, gate.corpus(200, rows=150)[14:])
    gpu.searches_like_the_reference(backend, blocks, gate.queries(200), 3, 0.6)


if __name__ == "__main__":
    body, start, number, seed = sys.argv[1:]
    edit = without_barrier(start, int(number)) if start else None
    {"encode": encode, "scan": scan, "bound": bound}[body](edit, int(seed))
