"""Indexes larger than device memory: rows are copied while others are searched, and every wait is necessary."""

import threading

import gate
import gpu_checks as gpu
import numpy as np
import pytest
from backend_search import range_hits, top_k
from emulated import EmulatedDevice

from vqindex import VQIndex
from vqindex.backends.reference import ReferenceBackend
from vqindex_gpu import stream
from vqindex_gpu.backend import CudaBackend

DIM, ROWS = 40, 1500
MEMORY = 120_000  # too little for the rows


@pytest.fixture(params=[("turboquant-prod", 4, {}), ("trellis", 2, {}), ("turboquant-prod", 2, {"sketch": "gaussian"})])
def codec(request):
    name, bits, kwargs = request.param
    return gpu.codec_of(DIM, bits, "l2", codec=name, **kwargs)


@pytest.fixture
def scalar_codec():
    return gpu.codec_of(DIM, 4, "l2")


@pytest.fixture(autouse=True)
def small_stages(monkeypatch):
    """Make batches of a few tiles."""
    monkeypatch.setattr(stream, "_STAGE_BYTES", 8000)


class SynchronousExecutor:
    """An executor that runs each call at once, which makes the order of copies and searches deterministic."""

    def __init__(self, _):
        pass

    def submit(self, work, *args):
        result = work(*args)
        return type("Done", (), {"result": lambda self: result})()

    def shutdown(self, cancel_futures):
        pass


@pytest.fixture
def no_thread(monkeypatch):
    monkeypatch.setattr(stream, "ThreadPoolExecutor", SynchronousExecutor)


class Watched(EmulatedDevice):
    """Records copies from pinned memory and downloads, and skips one kind of wait on request."""

    def __init__(self, forgets="", **kwargs):
        super().__init__(memory=MEMORY, **kwargs)
        self.forgets, self.notes = forgets, []

    def copy_staged(self, target, staged):
        self.notes.append("copy")
        super().copy_staged(target, staged)

    def download(self, array):
        self.notes.append("download")
        return super().download(array)

    def wait(self, event):
        kind = "copied" if self._now() is self._main else "unpacked"
        if kind != self.forgets:
            super().wait(event)

    def record(self):
        event = super().record()
        if self.forgets == "pinned":
            event.synchronize = lambda: None
        return event


def search(codec, device, k=12, confidence=0.6):
    blocks = gpu.stored(codec, gate.corpus(DIM, rows=ROWS), (41,))
    return gpu.searches_like_the_reference(CudaBackend(codec, [device]), blocks, gate.queries(DIM), k, confidence)


@pytest.mark.parametrize("schedule", ["now", "late", "sides first", "random"])
def test_streamed_rows_give_the_references_results(codec, schedule):
    device = Watched(schedule=schedule)
    search(codec, device)
    assert device.notes.count("copy") > 5
    search(codec, device, k=2000, confidence=1.0)
    assert device.free_bytes() > MEMORY - 20_000, "stages are freed"


def test_streams_serve_range_searches_filters_and_several_devices(codec):
    devices = [Watched(schedule="late"), Watched(seed=2, schedule="sides first")]
    backend = CudaBackend(codec, devices)
    reference = ReferenceBackend(codec)
    blocks = gpu.stored(codec, gate.corpus(DIM, rows=3 * ROWS), (1000, 2000))
    prepared = reference.prepare(gate.queries(DIM))
    rng = np.random.default_rng(1)
    allowed = [rng.integers(0, 2**64, (10, -(-block.rows // 64)), dtype=np.uint64) for block in blocks]
    thresholds = top_k(reference, prepared, blocks, 40)[0][:, -1]
    for words in (None, allowed):
        gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM), 9, 0.6, words=words)
        got = range_hits(backend, prepared, blocks, thresholds, 0.6, words=words)
        want = range_hits(reference, prepared, blocks, thresholds, 0.6, words=words)
        for ours, theirs in zip(got, want, strict=True):
            gpu.same(ours, theirs)
    assert any("copy" in device.notes for device in devices)


def test_a_memory_mapped_file_larger_than_device_memory_is_streamed(monkeypatch, tmp_path):
    import fake_cupy

    fake_cupy.install(monkeypatch, memory=MEMORY, schedule="late")
    x, q = gate.corpus(DIM, rows=ROWS), gate.queries(DIM)
    index = VQIndex(DIM)
    index.add(x)
    index.save(tmp_path / "index.vqi")
    mapped = VQIndex.load(tmp_path / "index.vqi", mmap=True, device="cuda")
    for _ in range(2):
        for got, want in zip(mapped.search(q, 7), index.search(q, 7), strict=True):
            gpu.same(got, want)
    for got, want in zip(mapped.range_search(q, 0.5), index.range_search(q, 0.5), strict=True):
        gpu.same(got, want)


@pytest.mark.usefixtures("no_thread")
def test_copies_run_ahead_of_searches(scalar_codec):
    device = Watched(schedule="late")
    search(scalar_codec, device)
    copies = device.notes.count("copy")
    assert device.notes[:3] == ["copy"] * 3, "two batches, and the third as soon as the first is unpacked"
    assert device.notes.index("download") == 3
    assert "copy" not in device.notes[-6:], "the last two batches were copied long before"
    assert copies > 5


@pytest.mark.usefixtures("no_thread")
@pytest.mark.parametrize(("forgets", "schedule"), [("copied", "late"), ("unpacked", "sides first"), ("pinned", "late")])
def test_a_forgotten_wait_is_found(scalar_codec, forgets, schedule):
    search(scalar_codec, Watched(schedule=schedule))
    with pytest.raises(AssertionError, match=r"rows: \d+ differ"):
        search(scalar_codec, Watched(forgets, schedule=schedule))


def test_a_search_that_fails_ends_its_thread(scalar_codec, monkeypatch):
    before = threading.active_count()
    device = Watched(schedule="late")
    backend = CudaBackend(scalar_codec, [device])
    blocks = gpu.stored(scalar_codec, gate.corpus(DIM, rows=ROWS))
    prepared = ReferenceBackend(scalar_codec).prepare(gate.queries(DIM))
    launch = device.launch

    def fails(kernel, *args):
        if kernel == "score":
            raise RuntimeError("stop")
        launch(kernel, *args)

    monkeypatch.setattr(device, "launch", fails)
    with pytest.raises(RuntimeError, match="stop"):
        top_k(backend, prepared, blocks, 5)
    assert threading.active_count() == before
    assert not device._streams[1], "no copy is pending"
    monkeypatch.undo()
    monkeypatch.setattr(stream, "_STAGE_BYTES", 8000)
    gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM), 5)


def test_an_error_of_the_reading_thread_reaches_the_caller(scalar_codec, monkeypatch):
    device = Watched(schedule="late")
    backend = CudaBackend(scalar_codec, [device])
    blocks = gpu.stored(scalar_codec, gate.corpus(DIM, rows=ROWS))
    prepared = ReferenceBackend(scalar_codec).prepare(gate.queries(DIM))

    def fails(*_):
        raise OSError("the file is gone")

    with monkeypatch.context() as patch:
        patch.setattr(device, "copy_staged", fails)
        with pytest.raises(OSError, match="the file is gone"):
            top_k(backend, prepared, blocks, 5)
    gpu.searches_like_the_reference(backend, blocks, gate.queries(DIM), 5)


@pytest.mark.gpu
def test_streams_give_the_references_results_on_hardware(codec, monkeypatch):
    """Stream many batches through small stages of a device that reports little free memory."""
    from vqindex_gpu.cupy_device import CupyDevice

    device = CupyDevice(0)
    monkeypatch.setattr(device, "free_bytes", lambda: MEMORY)
    for _ in range(20):
        search(codec, device)
