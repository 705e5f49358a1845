"""Arrays of CuPy, torch and others on the device are used in place, checked as on the host, and get results there."""

import fake_cupy
import fake_torch
import gate
import gpu_checks as gpu
import numpy as np
import pytest
from emulated import EmulatedDevice

from vqindex import InvalidInputError, VQIndex
from vqindex_gpu.adopted import accept

DIM = 33
KINDS = ["f2", "f4", "f8", *(f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8))]


class OnEmulator:
    """A stand-in for a library of device arrays, on the emulator."""

    def __init__(self, monkeypatch, name, devices=1):
        self.cupy = fake_cupy.install(monkeypatch, devices, schedule="late")
        self.torch = fake_torch.install(monkeypatch, self.cupy)
        self.name = name

    def put(self, values, number=0):
        if self.name == "cupy":
            return self.cupy.put(np.array(values, order="C"), number)
        return self.torch.tensor(np.array(values, order="C"), number)

    def read(self, array):
        if self.name == "torch":
            assert isinstance(array, fake_torch.Tensor)
            return fake_torch.read(array)
        assert isinstance(array, fake_cupy.Array)
        array.owner.synchronize()
        return np.array(array.memory)

    @property
    def downloaded(self):
        return sum(memory.downloaded for memory in self.cupy.memories)


class OnHardware:
    """The library itself."""

    def __init__(self, name):
        self.name, self.library = name, pytest.importorskip(name)

    def put(self, values, number=0):
        if self.name == "cupy":
            return self.library.asarray(values)
        return self.library.from_numpy(np.array(values)).to(f"cuda:{number}")

    def read(self, array):
        if self.name == "cupy":
            assert isinstance(array, self.library.ndarray)
            return self.library.asnumpy(array)
        assert array.is_cuda
        return array.cpu().numpy()


@pytest.fixture(
    params=["cupy", "torch", *(pytest.param(f"real {n}", marks=pytest.mark.gpu) for n in ("cupy", "torch"))]
)
def library(request, monkeypatch):
    where, _, name = request.param.rpartition(" ")
    return OnHardware(name) if where else OnEmulator(monkeypatch, name)


def pair(*args, **kwargs):
    """Return the same index on the device and on the host."""
    return [VQIndex(DIM, *args, device=device, **kwargs) for device in ("cuda", "cpu")]


def same_results(library, got, want):
    for ours, theirs in zip(got, want, strict=True):
        gpu.same(library.read(ours), theirs)


@pytest.mark.parametrize(("codec", "metric"), [("turboquant-prod", "l2"), ("trellis", "cosine"), ("qjl", "ip")])
def test_vectors_and_queries_on_the_device_give_the_hosts_results(library, codec, metric):
    """The rows of qjl, which has no encoding kernel, pass through the host; results are the same."""
    x, q = gate.corpus(DIM, rows=150), gate.queries(DIM)
    ours, theirs = pair(2, metric, codec=codec)
    ours.add(library.put(x[:100]))
    ours.add(x[100:])
    theirs.add(x)
    same_results(library, ours.search(library.put(q), 7), theirs.search(q, 7))
    same_results(library, ours.search(library.put(q[0]), 200), theirs.search(q[0], 200))
    same_results(library, ours.range_search(library.put(q), 0.1), theirs.range_search(q, 0.1))
    assert ours.range_search(library.put(q[0]), 0.1).lims.shape == (2,)
    same_results(library, ours.search(library.put(q[:0]), 3), theirs.search(q[:0], 3))
    for queries in (q, q[2]):
        gpu.same(library.read(ours.estimate(library.put(queries), [3, 149])), theirs.estimate(queries, [3, 149]))
    for got, want in zip(ours.search(q, 7), theirs.search(q, 7), strict=True):
        gpu.same(got, want)  # host queries give host results


def test_kept_vectors_changes_and_errors_are_those_of_the_host(library):
    x, q = gate.corpus(DIM, rows=124)[14:], gate.queries(DIM)
    ours, theirs = pair(3, keep_vectors="f16")
    for index, to in ((ours, library.put), (theirs, np.asarray)):
        index.add(to(x[:80]), ids=np.arange(80))
        index.upsert(np.arange(60, 110), to(x[60:]))
        index.remove([3, 70])
    same_results(library, ours.search(library.put(q), 5, rerank=True), theirs.search(q, 5, rerank=True))
    allowed = np.arange(0, 110, 3)
    got = ours.search(library.put(q), 5, filter=allowed, return_stderr=True)
    same_results(library, got, theirs.search(q, 5, filter=allowed, return_stderr=True))
    same_results(library, ours.search(library.put(q), 9, confidence=0.6), theirs.search(q, 9, confidence=0.6))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_centered_indexes_return_results_on_the_device(library, metric):
    x, q = gate.corpus(DIM, rows=124)[14:], gate.queries(DIM)
    ours, theirs = pair(4, metric, center="mean")
    ours.add(library.put(x))
    theirs.add(x)
    gpu.same(ours.center, theirs.center)
    same_results(library, ours.search(library.put(q), 5), theirs.search(q, 5))
    same_results(library, ours.range_search(library.put(q), 0.5), theirs.range_search(q, 0.5))
    gpu.same(library.read(ours.estimate(library.put(q), [3])), theirs.estimate(q, [3]))
    x[5, 7] = np.nan
    assert message(ours, lambda index: index.add(library.put(x))) == message(theirs, lambda index: index.add(x))


def message(index, call):
    """Return the error message of a call, after checking that the call changed nothing."""
    before = index.ids.tolist()
    with pytest.raises(InvalidInputError) as error:
        call(index)
    assert index.ids.tolist() == before
    return str(error.value)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e300])
@pytest.mark.parametrize("rows", [10, 2**26])
def test_values_that_are_not_finite_are_named_as_on_the_host(library, monkeypatch, bad, rows):
    """The same holds for a value in a later chunk, after earlier chunks were added."""
    monkeypatch.setattr("vqindex.arrays._DEVICE_CHUNK_VALUES", rows * DIM)
    ours, theirs = pair()
    for index in (ours, theirs):
        index.add(gate.corpus(DIM, rows=20))
    for places in ([(35, 32), (35, 4), (36, 0)], [(0, 0)], [(39, 32)]):
        x = gate.corpus(DIM, rows=60)[20:].astype(np.float64)
        for place in places:
            x[place] = bad
        row, column = min(places)
        expected = message(theirs, lambda index, x=x: index.add(x))
        assert expected.startswith(f"vectors[{row}, {column}] is ")
        assert message(ours, lambda index, x=x: index.add(library.put(x))) == expected
        expected = message(theirs, lambda index, x=x: index.search(x))
        assert message(ours, lambda index, x=x: index.search(library.put(x))) == expected
    same_results(library, ours.search(library.put(gate.queries(DIM)), 5), theirs.search(gate.queries(DIM), 5))


def test_shapes_types_and_norms_are_refused_as_on_the_host(library):
    ours, theirs = pair(metric="l2")
    x = gate.corpus(DIM, rows=20)
    wrong = [x[:, :5], x[0, :5], x[0, 0], x[None], x > 0, np.zeros((0, 3), np.float32)]
    wrong.append(np.where(np.arange(20)[:, None] == 7, np.float32(2.0**61), x))
    for values in wrong:
        for call in (
            lambda index, values: index.add(values),
            lambda index, values: index.search(values, 3),
            lambda index, values: index.upsert(np.arange(20), values),
        ):
            expected = message(theirs, lambda index, call=call, values=values: call(index, np.asarray(values)))
            got = message(ours, lambda index, call=call, values=values: call(index, library.put(values)))
            assert got == expected
    twice = [lambda index, to=to: index.add(to(x), ids=[1] * 20) for to in (library.put, np.asarray)]
    assert message(ours, twice[0]) == message(theirs, twice[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_value_is_encoded_as_on_the_host(library, kind):
    if library.name == "torch" and kind[0] == "u" and kind != "u1":
        pytest.skip("some versions of torch lack this type")
    whole = gate.corpus(DIM, rows=60)[14:]
    x = (whole * 20).astype(kind) if kind[0] == "f" else np.abs(whole * 20).clip(0, 100).astype(kind)
    ours, theirs = pair(bits=4)
    ours.add(library.put(x))
    theirs.add(x)
    same_results(library, ours.search(library.put(x[:3]), 20), theirs.search(x[:3], 20))


# ---- what only the emulator can observe


@pytest.fixture
def emulator(monkeypatch):
    return OnEmulator(monkeypatch, "torch")


def test_a_producer_receives_the_current_stream(emulator):
    x, q = gate.corpus(DIM, rows=50), gate.queries(DIM)
    ours, theirs = pair()
    ours.add(emulator.put(x))
    theirs.add(x)
    assert emulator.torch.seen == [1], "CuPy's null stream has number 1 in DLPack"
    with emulator.cupy.cuda.Device(0):
        stream = emulator.cupy.cuda.Stream(non_blocking=True)
        with stream:
            got = ours.search(emulator.put(q), 5)
    number = 1 + next(i for i, other in enumerate(emulator.cupy.memories[0]._streams) if other is stream.ours)
    assert emulator.torch.seen[1] == number
    assert number > 1
    same_results(emulator, got, theirs.search(q, 5))
    got = ours.search(emulator.torch.named(q), 5)  # CuPy waits for the stream that the array names
    for part, want in zip(got, theirs.search(q, 5), strict=True):
        part.owner.synchronize()
        gpu.same(np.array(part.memory), want)


def test_a_consumer_that_does_not_wait_is_found(emulator, monkeypatch):
    """Without waiting, the test before this one would fail."""
    monkeypatch.setattr(fake_torch.Tensor, "__dlpack__", lambda self, **_: fake_cupy.Capsule(self.array))
    x = gate.corpus(DIM, rows=50)
    ours, theirs = pair()
    ours.add(emulator.put(x))
    theirs.add(x)
    assert (ours.reconstruct(np.arange(50)) != theirs.reconstruct(np.arange(50))).any()


@pytest.mark.parametrize("name", ["cupy", "torch"])
def test_vectors_are_not_copied_to_the_host(monkeypatch, name):
    library = OnEmulator(monkeypatch, name)
    x = gate.corpus(DIM, rows=300)
    ours, theirs = pair(1, "l2")
    ours.add(library.put(x))
    codes = 300 * (ours.spec.code_bytes + 8)
    assert library.downloaded == codes + 8, (
        "codes, rescales, norms, and the place of the first value that is not finite"
    )
    theirs.add(x)
    before = library.downloaded
    got = ours.search(library.put(x), 1)
    scalars, found = 300 * 8, 300 * (4 + 4 + 8)
    assert library.downloaded - before == scalars + found + 8
    same_results(library, got, theirs.search(x, 1))


def test_bfloat16_tensors_are_accepted(emulator):
    x = (gate.corpus(DIM, rows=60)[14:].view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    ours, theirs = pair()
    ours.add(emulator.torch.tensor(x, kind=fake_torch.Bfloat16))
    theirs.add(x)
    gpu.same(ours.reconstruct(np.arange(46)), theirs.reconstruct(np.arange(46)))


def test_an_array_on_another_device_gives_results_there(monkeypatch):
    library = OnEmulator(monkeypatch, "torch", devices=3)
    monkeypatch.setattr("vqindex_gpu.mirror.MAX_ROWS", 64)
    x, q = gate.corpus(DIM, rows=250), gate.queries(DIM)
    ours, theirs = pair()
    ours.add(library.put(x[:120], 2))
    ours.add(library.put(x[120:], 0))
    theirs.add(x)
    got = ours.search(library.put(q, 1), 9, confidence=0.6)
    assert {part.array.owner.number for part in got} == {1}
    same_results(library, got, theirs.search(q, 9, confidence=0.6))
    same_results(library, ours.range_search(library.put(q, 2), 0.1), theirs.range_search(q, 0.1))


def test_an_index_on_the_host_copies_arrays_of_a_device(emulator):
    with pytest.raises(AssertionError, match="copied to the host"):
        VQIndex(DIM).add(emulator.put(gate.corpus(DIM)))


# ---- the kernel that converts them


@pytest.fixture(params=["emulator", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "emulator":
        return EmulatedDevice(3)
    from vqindex_gpu.cupy_device import CupyDevice

    return CupyDevice(0)


def accepts(device, array, want):
    got, bad = accept(device, array)
    with np.errstate(over="ignore", under="ignore"):
        want = np.ascontiguousarray(want, np.float32)
    finite = np.isfinite(want)
    places = np.flatnonzero(~finite)
    assert bad == (places[0] if places.size else -1)
    gpu.same(device.download(got)[finite], want[finite])


def test_every_half_converts_exactly(device):
    x = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 8)
    accepts(device, device.upload(x), x)
    for start in (0, 2000, 2**12):
        accepts(device, device.upload(x[start : start + 1500]), x[start : start + 1500])


@pytest.mark.parametrize("kind", KINDS[1:])
def test_values_at_the_edges_of_their_types_round_as_on_the_host(device, kind):
    rng = np.random.default_rng(1)
    if kind[0] == "f":
        edges = [0.0, -0.0, 1e-45, -1e-40, 1.17549435e-38, 3.4028234e38, 1 + 2**-24, 1 + 3 * 2**-24, 16777217.0]
        edges += [] if kind == "f4" else [7e-46, 7.1e-46, 3.4028235677973362e38, 1 + 2**-24 + 1e-15]
        values = np.concatenate([edges, rng.standard_normal(39 - len(edges) % 8)]).astype(kind)
    else:
        info = np.iinfo(kind)
        near = [info.min, info.max, info.min + 1, info.max - 1, 0, 1]
        near += [v for v in (2**24 + 1, 2**25 + 2, 2**63 - 2**38, 2**63 - 2**38 - 1) if v <= info.max]
        values = np.array([*near, *rng.integers(info.min, info.max, 30, np.dtype(kind)).tolist()], kind)
    values = values[: values.size // 8 * 8].reshape(-1, 8)
    accepts(device, device.upload(values), values)
    if kind[0] == "f":
        for place, bad in ((0, np.nan), (13, np.inf), (values.size - 1, -np.inf)):
            broken = values.copy()
            broken.reshape(-1)[place:] = bad
            accepts(device, device.upload(broken), broken)
        if kind == "f8":
            accepts(device, device.upload(np.full((1, 8), 3.4028235677973366e38)), np.full((1, 8), np.inf))


def test_rows_of_any_strides_are_accepted(device):
    x = np.random.default_rng(2).standard_normal((24, 40)).astype(np.float32)
    on_device = device.upload(x)
    for at in ((slice(None), slice(0, 8)), (slice(1, None, 3), slice(3, 35, 4)), (slice(None, None, -1), slice(8))):
        accepts(device, on_device[at], x[at])
    accepts(device, on_device.T, x.T)
    accepts(device, device.upload(x[:, ::-1].copy())[:, ::-1], x)
    same, _ = accept(device, on_device[2:7])
    assert device.address(same) == device.address(on_device[2:7]), "usable rows are not copied"
