"""The kernels of the GPU engine equal the reference bit for bit, on the emulator and, with -m gpu, on a device."""

import gate
import gpu_checks as gpu
import numpy as np
import pytest
from emulated import EmulatedDevice

from vqindex.rows.segment import Segment
from vqindex_gpu.backend import CudaBackend
from vqindex_gpu.engine import Engine
from vqindex_gpu.launchers import select
from vqindex_gpu.mirror import Mirror, host_rows

# Sizes around those of an item (16), a warp (32), a chunk of 4-bit slots (64) and the radix passes (256, 4096).
DIMS = (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 100, 255, 256, 384, 513, 1536, 4097)
SCALAR = [("turboquant-prod", bits) for bits in (1, 2, 3, 4)]
TRELLIS = [("trellis", bits) for bits in (1, 2, 3, 4)]
OTHERS = [
    ({"codec": "turboquant-prod"}, 5),
    ({"codec": "turboquant-mse"}, 8),
    ({"codec": "turboquant-prod", "sketch": "orthogonal"}, 1),
    ({"codec": "turboquant-prod", "sketch": "orthogonal"}, 3),
    ({"codec": "turboquant-prod", "sketch": "gaussian"}, 4),
    ({"codec": "qjl"}, 2),
]


@pytest.fixture(params=["emulator", pytest.param("cuda", marks=pytest.mark.gpu)])
def make_device(request):
    if request.param == "emulator":
        return EmulatedDevice

    def device(seed=0):
        from vqindex_gpu.cupy_device import CupyDevice

        return CupyDevice(0)

    return device


@pytest.mark.parametrize("metric", ["ip", "cosine"])
@pytest.mark.parametrize("dim", DIMS)
def test_scalar_codes_equal_the_references(make_device, dim, metric):
    bits = 1 + dim % 8
    engine = Engine(make_device(seed=dim), gpu.codec_of(dim, bits, metric))
    gpu.encodes_like_the_reference(engine, gate.corpus(dim, rows=20))


def test_codes_without_renormalization_equal_the_references(make_device):
    for metric in ("ip", "cosine"):
        engine = Engine(make_device(), gpu.codec_of(100, 3, metric, codec="turboquant-mse"))
        gpu.encodes_like_the_reference(engine, gate.corpus(100, rows=20))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_trellis_codes_equal_the_references(make_device, bits):
    for dim, metric in ((1, "ip"), (33, "cosine"), (100, "ip")):
        engine = Engine(make_device(seed=bits), gpu.codec_of(dim, bits, metric, codec="trellis"))
        gpu.encodes_like_the_reference(engine, gate.corpus(dim, rows=19))


# Stored rows that end inside a tile, one tile of 64 rows, several tiles, and a remainder.
CUTS = (41, 41 + 64, 41 + 64 + 130)


@pytest.mark.parametrize(("codec", "bits"), SCALAR + TRELLIS)
@pytest.mark.parametrize("count", [1, 8, 9, 21])
def test_the_fused_scan_gives_the_references_results(make_device, codec, bits, count):
    """For up to eight queries each warp scans a tile, for more each block. Codes with sign bits use the sign bound."""
    for dim, metric in ((17, "l2"), (100, "ip"), (384, "cosine")):
        made = gpu.codec_of(dim, bits, metric, codec=codec)
        backend = CudaBackend(made, [make_device(seed=count)])
        blocks = gpu.stored(made, gate.corpus(dim, rows=300), CUTS)
        queries = gate.corpus(dim, rows=21, seed=11)[:count]
        gpu.searches_like_the_reference(backend, blocks, queries, 12, 0.6)


@pytest.mark.parametrize(("codec", "bits"), [("turboquant-prod", 4), ("turboquant-mse", 1)])
def test_the_fused_scan_without_sign_bound_gives_the_references_results(make_device, codec, bits):
    made = gpu.codec_of(64, bits, "l2", codec=codec)
    blocks = gpu.stored(made, gate.corpus(64, rows=300), CUTS)
    backend = CudaBackend(made, [make_device()])
    for count in (3, 12):
        gpu.searches_like_the_reference(backend, blocks, gate.corpus(64, rows=20, seed=11)[:count], 12)


@pytest.mark.parametrize(("kwargs", "bits"), OTHERS)
def test_the_plain_scorer_gives_the_references_results_for_other_codes(make_device, kwargs, bits):
    for dim, metric in ((17, "l2"), (100, "ip"), (65, "cosine")):
        made = gpu.codec_of(dim, bits, metric, **kwargs)
        backend = CudaBackend(made, [make_device()])
        blocks = gpu.stored(made, gate.corpus(dim, rows=150), (41,))
        for confidence in (1.0, 0.6):
            gpu.searches_like_the_reference(backend, blocks, gate.queries(dim), 12, confidence)


def test_the_fused_scan_and_the_plain_scorer_find_the_same_maxima(make_device):
    """Compare maxima through a selection of all rows."""
    for codec, bits in (("turboquant-prod", 2), ("trellis", 3)):
        made = gpu.codec_of(100, bits, codec=codec)
        blocks = gpu.stored(made, gate.corpus(100, rows=200))
        maxima = []
        for fused in (True, False):
            device = make_device()
            engine = Engine(device, made, fused)
            segments = Mirror(device, made).hold(host_rows([Segment(rows) for rows in blocks])[0])
            found = engine.search(segments, gpu.ReferenceBackend(made).prepare(gate.queries(100)), 256, 0.9)
            maxima.append([device.download(part) for part in found])
        for fused, plain in zip(*maxima, strict=True):
            gpu.same(fused, plain)


@pytest.mark.parametrize("k", [1, 2, 63, 64, 65, 299, 300, 1000])
def test_any_k_gives_the_references_results(make_device, k):
    made = gpu.codec_of(31, 2, "l2")
    blocks = gpu.stored(made, gate.corpus(31, rows=300), CUTS)
    gpu.searches_like_the_reference(CudaBackend(made, [make_device()]), blocks, gate.queries(31), k, 0.9)


def test_ties_go_to_the_lower_row(make_device):
    made = gpu.codec_of(16, 4)
    row = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    blocks = gpu.stored(made, np.repeat(row, 200, axis=0), (70,))
    _, rows, _ = gpu.searches_like_the_reference(CudaBackend(made, [make_device()]), blocks, row, 90)
    assert rows[0].tolist() == list(range(90))


def test_selection_orders_infinities_and_zeros_as_the_reference(make_device):
    """Select from rank scores with many ties, infinities, NaN and zeros of both signs."""
    device = make_device(seed=5)
    rng = np.random.default_rng(1)
    values = np.array([-np.inf, -3e38, -1, -1e-45, -0.0, 0.0, 1e-45, 1, 3e38, np.inf, np.nan], np.float32)
    for count, k in ((1, 1), (5, 5), (255, 7), (256, 256), (700, 300), (1500, 3)):
        rank_scores = values[rng.integers(0, len(values), (3, count))]
        out = device.empty((3, k), np.int32)
        select.launch(device, select.PlaceArgs(device.upload(rank_scores), count, k, out))
        for line, places in zip(rank_scores, device.download(out), strict=True):
            selectable = np.flatnonzero(line > -np.inf)
            best = np.sort(selectable[np.lexsort((selectable, -line[selectable]))][:k])
            assert places.tolist() == best.tolist() + [-1] * (k - best.size)
