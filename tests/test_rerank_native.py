"""The compiled exact scores of kept vectors equal those of NumPy, bit for bit."""

import numpy as np
import pytest
from cases import DIM, built, every_metric, vectors
from scans import every_isa

import vqindex
from vqindex import VQIndex
from vqindex._native import Vectors
from vqindex.rows.originals import KINDS, Originals, Rounded
from vqindex.search.rerank import rerank

every_kind = pytest.mark.parametrize("kind", KINDS)


def originals_of(x, kind, cuts=()):
    """Return originals of vectors in several arrays."""
    originals = Originals(x.shape[1], kind)
    originals.parts = [originals.rounded(part, 0) for part in np.split(x, cuts)]
    return originals


def assert_equal_to_numpy(originals, metric, queries, rows, k, isa="", threads=1):
    compiled = Vectors(originals.kind, originals.dim, originals.parts, isa)
    scores, found = compiled.rerank(metric, queries, rows, k, threads)
    with np.errstate(all="ignore"):  # the vectors may have infinities
        want_scores, want = rerank(metric, queries, rows, originals.gather, k)
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(scores, want_scores)
    numbers = ~np.isnan(want_scores)
    assert scores[numbers].tobytes() == want_scores[numbers].tobytes(), "the signs of zeros, too"


def shortlists(nq, m, n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n)[:m] for _ in range(nq)])


@every_isa
@every_metric
@every_kind
@pytest.mark.parametrize("dim", [1, 7, 31, 32, 33, 100])
def test_scores_rows_and_ties_equal_those_of_numpy(isa, metric, kind, dim):
    x = np.random.default_rng(dim).standard_normal((150, dim), np.float32)
    x[5], x[7], x[9] = 0, x[8], x[8]
    originals = originals_of(x, kind, (1, 40, 104))
    queries = np.random.default_rng(1).standard_normal((5, dim), np.float32)
    queries[1], queries[2] = 0, x[8]
    for m in (1, 40, 65, 150):
        rows = shortlists(5, m, 150)
        rows[3, m // 2 :], rows[4] = -1, -1
        for k in {1, (m + 1) // 2, m}:
            assert_equal_to_numpy(originals, metric, queries, rows, k, isa)


@every_isa
@every_metric
def test_subnormal_huge_infinite_and_missing_numbers_give_the_scores_of_numpy(isa, metric):
    values = [0, -0.0, 1e-45, -1e-40, 1.2e-38, 1e-30, 1e-20, 1, 1e19, 3e38, -3e38, np.inf, -np.inf, np.nan]
    x = np.array([[a, b] + [0] * extra for a in values for b in values for extra in [38]], np.float32)
    queries = np.array(
        [[a, b] + [0] * 38 for a, b in ((1, 1), (1e-30, 0), (3e38, 3e38), (1e-45, -1), (0, 0))], np.float32
    )
    rows = shortlists(len(queries), len(x), len(x))
    rows[:, ::9] = -1
    assert_equal_to_numpy(originals_of(x, "f32"), metric, queries, rows, len(x), isa)
    steps = Originals(2, "int8")
    scales = np.array([0, 1e-45, 1e-39, 1.2e-38, 1, 1e36, 3e38, np.inf, np.nan], np.float32)
    steps.parts = [Rounded(np.array([[127, -128], [0, 3]], np.int8)[np.arange(18) % 2], np.repeat(scales, 2))]
    assert_equal_to_numpy(steps, metric, queries[:, :2].copy(), shortlists(len(queries), 18, 18), 18, isa)


@every_isa
@every_metric
def test_every_float16_number_is_read_as_by_numpy(isa, metric):
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    originals = Originals(33, "f16")  # a whole step of 32 coordinates, and one more
    originals.parts = [Rounded(np.repeat(halves[:, None], 33, axis=1), None)]
    queries = np.full((1, 33), 0.75, np.float32)
    assert_equal_to_numpy(originals, metric, queries, np.arange(2**16)[None], 2**16, isa)


@every_metric
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("nq", "m", "dim"), [(1, 9000, 100), (64, 300, 40), (300, 1000, 1)])
def test_threads_and_many_pairs_change_nothing(metric, threads, nq, m, dim):
    """The last case has more pairs than are scored at a time."""
    x, queries = (np.random.default_rng(i).standard_normal((rows, dim), np.float32) for i, rows in enumerate((m, nq)))
    originals = originals_of(x, "f16", (m // 3,))
    assert_equal_to_numpy(originals, metric, queries, shortlists(nq, m, m), 20, threads=threads)


def never(*args):
    raise AssertionError("NumPy gathered vectors")


@every_metric
@every_kind
def test_vectors_in_memory_in_mapped_files_and_in_stores_are_read_where_they_are(metric, kind, tmp_path, monkeypatch):
    x, queries = vectors(400), vectors(6, seed=9)
    index = built(x[:300], metric, bits=1, keep_vectors=kind)
    want = index.search(queries, 9, rerank=lambda ids: index._contents.originals.gather(ids), oversample=5)
    index.save(tmp_path / "a.vqi")
    with vqindex.open(tmp_path / "s", "a", dim=DIM, bits=1, metric=metric, keep_vectors=kind) as store:
        for part in np.split(x[:300], [100, 130]):
            store.add(part)
            store.commit(merge=False)
    mapped = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    with vqindex.open(tmp_path / "s", mmap=True) as store, monkeypatch.context() as patch:
        assert len(store._index._contents.originals.parts) == 3
        patch.setattr(Originals, "gather", never)
        for each in (index, mapped, store, VQIndex.load(tmp_path / "a.vqi")):
            for one, other in zip(each.search(queries, 9, rerank=True, oversample=5), want, strict=True):
                np.testing.assert_array_equal(one, other)
    for each in (index, mapped):
        each.add(x[300:])
    want = index.search(queries, 9, rerank=lambda ids: index._contents.originals.gather(ids), oversample=5)
    assert want.ids.max() >= 300
    monkeypatch.setattr(Originals, "gather", never)
    for each in (index, mapped):
        for one, other in zip(each.search(queries, 9, rerank=True, oversample=5), want, strict=True):
            np.testing.assert_array_equal(one, other)


def unaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)
    out = raw[1:].view(array.dtype).reshape(array.shape)
    out[:] = array
    return out


@pytest.mark.parametrize(
    "unusual",
    [
        unaligned,
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: np.repeat(array, 2, axis=0)[::2],
        lambda array: array.astype(np.float64),
    ],
)
@pytest.mark.parametrize("of_scale", [False, True])
def test_arrays_that_the_extension_does_not_read_are_read_by_numpy(unusual, of_scale):
    x, queries, rows = vectors(50), vectors(3, seed=1), shortlists(3, 20, 50)
    originals = originals_of(x, "int8" if of_scale else "f16", (20,))
    want = rerank("l2", queries, rows, originals, 5)
    assert originals.compiled() is not None
    values, scale = originals.parts[1]
    odd = Originals(DIM, originals.kind)
    odd.parts = [originals.parts[0], Rounded(values, unusual(scale)) if of_scale else Rounded(unusual(values), None)]
    assert odd.compiled() is None
    for one, other in zip(rerank("l2", queries, rows, odd, 5), want, strict=True):
        np.testing.assert_array_equal(one, other)


@every_kind
def test_originals_that_grow_are_read_to_their_new_end(kind):
    x, queries, rows = vectors(50), vectors(2, seed=1), np.arange(50)[None].repeat(2, axis=0)
    originals, more = originals_of(x[:30], kind), originals_of(x[45:], kind)
    rerank("ip", queries, rows[:, :30].copy(), originals, 5)
    originals.append(originals.rounded(x[30:45], 0))
    rerank("ip", queries, rows[:, :45].copy(), originals, 5)
    originals.join(more)
    for one, other in zip(
        rerank("ip", queries, rows, originals, 50), rerank("ip", queries, rows, originals.gather, 50), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_calls_that_do_not_fit_the_vectors_are_refused():
    x = vectors(20)
    compiled = Vectors("f32", DIM, [(x, None)])
    queries, rows = x[:2], np.arange(10).reshape(2, 5)
    compiled.rerank("ip", queries, rows, 5, 1)
    for wrong in (
        ("dot", queries, rows, 5, 1),
        ("ip", queries[:, 1:], rows, 5, 1),
        ("ip", queries[:1], rows, 5, 1),
        ("ip", queries, rows + 11, 5, 1),
        ("ip", queries, rows, 6, 1),
        ("ip", queries, rows, 0, 1),
        ("ip", queries, rows, 5, 0),
    ):
        with pytest.raises(ValueError, match="expected"):
            compiled.rerank(*wrong)
    scale = np.ones(20, np.float32)
    steps = x.astype(np.int8)
    for kind, dim, part in (
        ("f64", DIM, (x, None)),
        ("f16", DIM, (x, None)),
        ("f32", DIM + 1, (x, None)),
        ("int8", DIM, (steps, scale[1:])),
        ("int8", DIM, (x, scale)),
    ):
        with pytest.raises(ValueError, match="expected parts"):
            Vectors(kind, dim, [part])
