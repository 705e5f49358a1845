"""Every kernel variant that the engine can launch, found by letting it launch: on a device that only takes notes."""

import numpy as np
from emulated import EmulatedDevice

from vqindex.backends.reference import ReferenceBackend
from vqindex.codes.bitplanes import split
from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded
from vqindex.rows.segment import Segment
from vqindex.spec import IndexSpec
from vqindex_gpu.adopted import accept
from vqindex_gpu.engine import Engine
from vqindex_gpu.mirror import Mirror, host_rows

SPECS = [
    *({"bits": bits} for bits in range(1, 9)),
    *({"bits": bits, "codec": "trellis"} for bits in range(1, 5)),
    *({"bits": bits, "sketch": "orthogonal"} for bits in range(1, 9)),
    {"bits": 2, "codec": "qjl"},
]
ACCEPTED = (np.float16, np.float32, np.float64, *(np.dtype(f"{sign}{size}") for sign in "iu" for size in (1, 2, 4, 8)))


class NotingDevice(EmulatedDevice):
    """Takes notes of launches and runs nothing."""

    def __init__(self):
        super().__init__()
        self.variants = set()

    def launch(self, kernel, macros, grid, threads, arguments, shared=0):
        self.variants.add((kernel, tuple(sorted(macros.items())), threads))


def variants():
    """Return (kernel, macros as pairs, threads) in order."""
    found = set()
    for spec in SPECS:
        codec, device = Codec(IndexSpec(8, **spec)), NotingDevice()
        engine, reference = Engine(device, codec), ReferenceBackend(codec)
        rows = Encoded(np.zeros((70, codec.spec.code_bytes), np.uint8), *np.zeros((2, 70), np.float32))
        segments = Mirror(device, codec).hold(host_rows([Segment(split(codec.spec, rows))])[0])
        vectors = device.upload(np.zeros((3, 8), np.float32))
        for kind in ACCEPTED:
            accept(device, device.empty((3, 8), kind))
        if engine.encodes:
            engine.encode(vectors)
            engine.prepare(vectors)
        for count in (1, 20):
            for confidence in (0.9, 1.0):
                engine.search(segments, reference.prepare(np.zeros((count, 8), np.float32)), 5, confidence)
        found |= device.variants
    return sorted(found)
