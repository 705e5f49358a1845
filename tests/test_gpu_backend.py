"""CudaBackend on emulated devices: growth, memory, streaming, several devices and filters never change results."""

import gate
import gpu_checks as gpu
import numpy as np
import pytest
from backend_search import range_hits, top_k
from emulated import EmulatedDevice

from vqindex.backends.reference import ReferenceBackend
from vqindex.backends.registry import make_backend
from vqindex.errors import BackendError
from vqindex.rows.row_store import RowStore
from vqindex_gpu import mirror
from vqindex_gpu.backend import CudaBackend

DIM = 40
TABLE_BYTES = 2**14  # an engine keeps fewer bytes than this on a device beside rows


@pytest.fixture(params=[("turboquant-prod", 4), ("trellis", 2)], ids=["scalar", "trellis"])
def codec(request):
    name, bits = request.param
    return gpu.codec_of(DIM, bits, "l2", codec=name)


@pytest.fixture
def small_segments(monkeypatch):
    """Make segments of 128 rows, so that a few hundred rows need several."""
    monkeypatch.setattr(mirror, "MAX_ROWS", 128)


with_and_without_records = pytest.mark.parametrize("records", [False, True])


def corpus(n):
    return gate.corpus(DIM, rows=n)


def used(device):
    """Return the bytes of device memory in use."""
    return device.memory - device.free_bytes()


def filters(blocks, lines=None, seed=1):
    """Return random words for all stored rows but the second, which has no filter."""
    rng = np.random.default_rng(seed)
    shapes = [(-(-block.rows // 64),) if lines is None else (lines, -(-block.rows // 64)) for block in blocks]
    words = [rng.integers(0, 2**64, shape, dtype=np.uint64) for shape in shapes]
    return [None if number == 1 else part for number, part in enumerate(words)]


def test_rows_on_the_device_are_not_uploaded_again(codec, small_segments):
    device = EmulatedDevice()
    backend = CudaBackend(codec, [device])
    blocks = gpu.stored(codec, corpus(300))
    for _ in range(2):
        gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM), 7)
    assert device.launches.count("repack") == 3
    assert used(device) >= 300 * codec.spec.bytes_per_vector


@with_and_without_records
def test_growth_uploads_new_rows_and_copies_none(codec, small_segments, records):
    device, reference = EmulatedDevice(), ReferenceBackend(codec)
    backend = CudaBackend(codec, [device])
    store = RowStore(codec.spec, backend.put, records=records)
    x, n = corpus(700), 0
    for more in (1, 62, 1, 1, 63, 100, 7, 300):
        store.append(reference.encode(x[n : n + more]))
        n += more
        gpu.searches_like_the_reference(backend, store.stored(), gate.queries(DIM), 9, 0.9)
    assert len(store) == n
    before = device.launches.count("repack")
    store.append(reference.encode(x[:1]))
    gpu.searches_like_the_reference(backend, store.stored(), gate.queries(DIM), 9)
    assert device.launches.count("repack") == before + 1


@with_and_without_records
def test_rows_written_again_are_uploaded_again(codec, small_segments, records):
    backend, reference = CudaBackend(codec, [EmulatedDevice()]), ReferenceBackend(codec)
    (block,) = gpu.stored(codec, corpus(200), records=records)
    gpu.searches_like_the_reference(backend, [block], gate.queries(DIM), 200)
    backend.put(reference.encode(gate.corpus(DIM, rows=30, seed=5)), block, 100)
    gpu.searches_like_the_reference(backend, [block], gate.queries(DIM), 200)


def test_an_empty_index_and_no_queries_give_empty_results(codec):
    backend = CudaBackend(codec, [EmulatedDevice()])
    blocks = gpu.stored(codec, corpus(100))
    gpu.searches_like_the_reference(backend, [], gate.queries(DIM), 3)
    gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM)[:0], 3)


@pytest.mark.parametrize("devices", [2, 3, 5])
@with_and_without_records
def test_rows_shared_among_devices_give_the_references_results(codec, small_segments, devices, records):
    several = [EmulatedDevice(seed) for seed in range(1, devices + 1)]
    backend = CudaBackend(codec, several)
    blocks = gpu.stored(codec, corpus(450), (41, 230), records=records)
    for k in (1, 12, 500):
        gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM), k, 0.6)
    assert all("repack" in device.launches for device in several)


@with_and_without_records
def test_an_index_larger_than_device_memory_is_streamed(codec, records):
    blocks = gpu.stored(codec, corpus(1500), (41,), records=records)
    roomy = EmulatedDevice()
    gpu.searches_like_the_reference(CudaBackend(codec, [roomy]), blocks, gate.queries(DIM), 12)
    tight = EmulatedDevice(memory=120_000)
    backend = CudaBackend(codec, [tight])
    gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM), 12, 0.6)
    assert tight.launches.count("repack") > roomy.launches.count("repack")
    assert not any(mirror._entries for mirror in backend._mirrors)  # no row stays on the device
    assert used(tight) < TABLE_BYTES


def test_too_little_memory_is_an_error_with_numbers_that_changes_nothing(codec):
    blocks = gpu.stored(codec, corpus(200))
    before = [part.copy() for part in blocks[0] if part is not None]
    device = EmulatedDevice(memory=3000)
    backend = CudaBackend(codec, [device])
    prepared = ReferenceBackend(codec).prepare(gate.queries(DIM))
    with pytest.raises(BackendError, match=r"\d+ (rows need )?(\d+ )?bytes .*free"):
        top_k(backend, prepared, blocks, 3)
    for was, part in zip(before, (part for part in blocks[0] if part is not None), strict=True):
        gpu.same(part, was)
    device.memory = 2**30
    gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM), 3)


def test_memory_of_rows_no_longer_searched_is_freed(codec):
    device = EmulatedDevice()
    backend = CudaBackend(codec, [device])
    gpu.searches_like_the_reference(backend, gpu.stored(codec, corpus(500)), gate.queries(DIM), 3)
    gpu.searches_like_the_reference(backend, gpu.stored(codec, corpus(64)), gate.queries(DIM), 3)
    assert used(device) <= 64 * mirror.Mirror(device, codec).row_bytes + TABLE_BYTES


def test_many_queries_are_searched_in_batches(codec, monkeypatch):
    from vqindex_gpu import engine

    monkeypatch.setattr(engine, "_BATCH_BYTES", 60_000)
    backend = CudaBackend(codec, [EmulatedDevice()])
    blocks = gpu.stored(codec, corpus(300), (41,))
    gpu.searches_like_the_reference(backend, blocks, gate.corpus(DIM, rows=33, seed=2), 5)
    assert backend._engines[0].device.launches.count("scan") > 2


def test_vectors_on_the_device_stay_there(codec):
    device = EmulatedDevice()
    backend, reference = CudaBackend(codec, [device]), ReferenceBackend(codec)
    x = corpus(50)
    for given in (x, backend.adopt(device.upload(x))):
        for ours, theirs in zip(backend.encode(given), reference.encode(x), strict=True):
            gpu.same(ours, theirs)
        got, want = backend.prepare(given), reference.prepare(x)
        gpu.same(got.code_query if given is x else device.download(got.code_query), want.code_query)
        gpu.same(got.code_scale, want.code_scale)


def test_codecs_without_a_kernel_encode_on_the_host():
    made = gpu.codec_of(DIM, 3, sketch="orthogonal")
    device = EmulatedDevice()
    backend, reference = CudaBackend(made, [device]), ReferenceBackend(made)
    for given in (corpus(20), backend.adopt(device.upload(corpus(20)))):
        gpu.same(backend.encode(given).codes, reference.encode(corpus(20)).codes)
        gpu.same(backend.prepare(given).sketch_query, reference.prepare(corpus(20)).sketch_query)
    assert device.launches == []


@pytest.mark.parametrize("lines", [None, 10], ids=["for all queries", "for each"])
def test_filters_restrict_results_as_in_the_reference(codec, small_segments, lines):
    blocks = gpu.stored(codec, corpus(450), (41, 230))
    backend = CudaBackend(codec, [EmulatedDevice(), EmulatedDevice(2)])
    for k in (1, 12, 400):
        allowed = filters(blocks, lines)
        gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM), k, 0.6, words=allowed)


def test_a_filter_that_allows_nothing_finds_nothing(codec):
    blocks = gpu.stored(codec, corpus(100))
    nothing = [np.zeros(2, np.uint64)]
    backend = CudaBackend(codec, [EmulatedDevice()])
    _, rows, _ = gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM), 3, words=nothing)
    assert (rows == -1).all()


@pytest.mark.parametrize("confidence", [1.0, 0.6])
def test_range_searches_give_the_references_results(codec, small_segments, confidence):
    blocks = gpu.stored(codec, corpus(450), (41, 230))
    backend, reference = CudaBackend(codec, [EmulatedDevice(), EmulatedDevice(2)]), ReferenceBackend(codec)
    prepared = reference.prepare(gate.queries(DIM))
    scores, *_ = top_k(reference, prepared, blocks, 400)
    # The thresholds are passed by no row, a few, and nearly all. A row whose score is a threshold does not pass it.
    thresholds = np.array([scores[i, place] for i, place in enumerate((0, 1, 5, 70, 200, 399, 3, 8, 20, 60))])
    for allowed in (None, filters(blocks), filters(blocks, 10)):
        got = range_hits(backend, prepared, blocks, thresholds, confidence, words=allowed)
        want = range_hits(reference, prepared, blocks, thresholds, confidence, words=allowed)
        for ours, theirs in zip(got, want, strict=True):
            gpu.same(ours, theirs)


@pytest.mark.parametrize("name", ["prod-shared", "mse", "prod-orthogonal", "trellis"])
@pytest.mark.parametrize(
    ("where", "dim"),
    [("emulator", 17), ("emulator", 100), *(pytest.param("cuda", dim, marks=pytest.mark.gpu) for dim in gate.DIMS)],
)
def test_the_hash_gate_holds(golden, where, dim, name):
    def make(codec):
        return make_backend(codec, "cuda") if where == "cuda" else CudaBackend(codec, [EmulatedDevice()])

    expected = golden("gate-trellis.json" if name == "trellis" else "gate.json")[f"{name} {dim}"]
    assert gate.encode_digests(make, dim, name) == expected["encode"]
    assert gate.search_digests(make, dim, name) == expected["search"]


@pytest.mark.gpu
@pytest.mark.parametrize("copies", [1, 3])
def test_rows_shared_among_devices_give_the_references_results_on_hardware(codec, small_segments, copies):
    """Use all devices of the machine, once and three times over."""
    from vqindex_gpu.cupy_device import find_devices

    devices = [device for _ in range(copies) for device in find_devices()]
    blocks = gpu.stored(codec, corpus(450), (41, 230))
    for k in (1, 12, 500):
        gpu.searches_like_the_reference(CudaBackend(codec, devices), blocks, gate.queries(DIM), k, 0.6)
