"""Reranking: exact scores of a shortlist, and the stored original vectors, in memory and in files."""

import h5py
import numpy as np
import pytest
from cases import DIM, built, every_metric, vectors

from vqindex import FileFormatError, InvalidInputError, VQIndex
from vqindex import arrays as arrays_module
from vqindex.rows.originals import KINDS, Originals
from vqindex.search.rerank import exact_scores

N, NQ = 300, 7
X, Q = vectors(N), vectors(NQ, seed=9)
every_kind = pytest.mark.parametrize("kind", KINDS)


def exact(x, q, metric):
    """Return all scores in float64."""
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "l2":
        return ((q[:, None] - x[None]) ** 2).sum(axis=2)
    if metric == "cosine":
        x, q = x / np.linalg.norm(x, axis=1)[:, None], q / np.linalg.norm(q, axis=1)[:, None]
    return q @ x.T


def best(scores, metric, k):
    return np.argsort(scores if metric == "l2" else -scores, axis=1, kind="stable")[:, :k]


# ---- exact scores


@every_metric
def test_exact_scores_equal_float64_arithmetic(metric):
    scores = exact_scores(metric, Q, np.broadcast_to(X, (NQ, N, DIM)))
    # Two dozen float64 operations and one rounding to float32. Near 0 the error is relative to the terms, below 100.
    np.testing.assert_allclose(scores, exact(X, Q, metric), rtol=1e-7, atol=1e-12)
    for i, j in ((0, 5), (3, 77)):
        assert exact_scores(metric, Q[i : i + 1], X[None, j : j + 1])[0, 0] == scores[i, j], "alone or in a batch"


def test_exact_scores_of_zero_and_huge_vectors_are_exact():
    zero = np.zeros((1, 2, DIM), np.float32)
    assert exact_scores("cosine", Q[:1], zero).tolist() == [[0, 0]]
    assert exact_scores("cosine", zero[0, :1], X[None, :2]).tolist() == [[0, 0]]
    huge = np.full((1, 1, DIM), 1e18, np.float32)
    assert exact_scores("cosine", huge[0], huge)[0, 0] == 1
    assert exact_scores("l2", huge[0], huge)[0, 0] == 0


@every_metric
@every_kind
@pytest.mark.parametrize("removed", [False, True])
def test_a_shortlist_of_everything_is_exact_search(metric, kind, removed):
    index = built(X, metric, bits=1, keep_vectors=kind, ids=np.arange(N) + 1000)
    remaining = np.arange(N) % 5 > 0 if removed else np.ones(N, bool)
    index.remove(np.arange(N)[~remaining] + 1000)
    originals = index._contents.originals.gather(np.flatnonzero(remaining))
    scores, ids = index.search(Q, 10, rerank=True, oversample=N)
    want = exact(originals, Q, metric)
    np.testing.assert_array_equal(ids, np.flatnonzero(remaining)[best(want, metric, 10)] + 1000)
    np.testing.assert_allclose(scores, np.take_along_axis(want, best(want, metric, 10), axis=1), rtol=1e-6, atol=1e-6)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64


@every_metric
def test_the_shortlist_is_that_of_the_codes(metric):
    index = built(X, metric, bits=2, keep_vectors="f32")
    for k, oversample in ((5, 1), (5, 3), (4, 2.5), (10, None)):
        length = int(np.ceil(k * (4 if oversample is None else oversample)))
        shortlist = index.search(Q, length).ids
        scores, ids = index.search(Q, k, rerank=True, oversample=oversample)
        everything = exact(X, Q, metric)
        for i in range(NQ):
            order = best(everything[i : i + 1, shortlist[i]], metric, k)[0]
            assert ids[i].tolist() == shortlist[i][order].tolist()
        np.testing.assert_allclose(scores, np.take_along_axis(everything, ids, axis=1), rtol=1e-6, atol=1e-6)


# ---- where vectors come from


def sources(x, folder):
    """Return the same vectors in every form that rerank= accepts."""
    np.save(folder / "x.npy", x)
    file = h5py.File(folder / "x.h5", "w")
    file["x"] = x
    file["chunked"] = file.create_dataset("c", data=x, chunks=(7, x.shape[1]))
    return {
        "array": x,
        "float64": x.astype(np.float64),
        "lists": x.tolist(),
        "memmap": np.load(folder / "x.npy", mmap_mode="r"),
        "hdf5": file["x"],
        "chunks": file["chunked"],
        "function": lambda ids: x[ids],
        "lists from a function": lambda ids: x[ids].tolist(),
    }


@every_metric
def test_every_source_of_vectors_gives_the_same_results(metric, tmp_path):
    index = built(X, metric, bits=2, keep_vectors="f32")
    index.remove([3])
    want = index.search(Q, 5, rerank=True)
    for name, source in sources(X, tmp_path).items():
        for one, other in zip(index.search(Q, 5, rerank=source), want, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
    one = index.search(Q[0], 5, rerank=X)
    assert one.ids.tolist() == want.ids[0].tolist()


class Recorder:
    """An array that can only be sliced and records the rows it was asked for."""

    def __init__(self, x):
        self.x, self.shape, self.dtype, self.read = x, x.shape, x.dtype, []

    def __getitem__(self, at):
        self.read += range(*at.indices(len(self.x)))
        return self.x[at]


def test_only_rows_near_the_shortlist_are_read():
    x = vectors(5000)
    index = built(x, bits=2)
    source = Recorder(x)
    found = index.search(Q[:2], 3, rerank=source, oversample=2)
    shortlist = np.unique(index.search(Q[:2], 6).ids)
    assert found.ids.tolist() == index.search(Q[:2], 3, rerank=x, oversample=2).ids.tolist()
    assert set(shortlist.tolist()) <= set(source.read)
    assert len(source.read) <= arrays_module._GAP * shortlist.size
    asked = []
    index.search(Q[:2], 3, rerank=lambda ids: (asked.append(ids), x[ids])[1], oversample=2)
    np.testing.assert_array_equal(asked[0], shortlist)
    assert asked[0].dtype == np.int64


def test_shortlists_reranked_in_chunks_give_the_same_results(monkeypatch):
    index = built(X, keep_vectors="int8")
    want = index.search(Q, 5, rerank=True)
    monkeypatch.setattr("vqindex.search.rerank._VALUES", 1)
    for one, other in zip(index.search(Q, 5, rerank=True), want, strict=True):
        np.testing.assert_array_equal(one, other)


@every_metric
def test_places_without_a_result_have_no_id_and_the_worst_score(metric):
    worst = np.inf if metric == "l2" else -np.inf
    index = built(X[:3], metric, keep_vectors="f16")
    scores, ids = index.search(Q, 5, rerank=True)
    assert (ids[:, 3:] == -1).all()
    assert (scores[:, 3:] == worst).all()
    assert (ids[:, :3] >= 0).all()
    assert index.search(Q, 5, rerank=True, filter=[]).ids.tolist() == [[-1] * 5] * NQ
    assert index.search(Q, 2, rerank=X, filter=[1]).ids.tolist() == [[1, -1]] * NQ
    assert index.search(np.empty((0, DIM)), 5, rerank=True).ids.shape == (0, 5)
    assert VQIndex(DIM, keep_vectors="f32").search(Q, 2, rerank=True).ids.tolist() == [[-1, -1]] * NQ


def test_ties_go_to_the_vector_added_first():
    x = np.repeat(vectors(4), 6, axis=0)
    index = built(x, "l2", ids=np.arange(24)[::-1], keep_vectors="f32")
    scores, ids = index.search(x[::6], 24, rerank=True)
    for line, found in zip(scores, ids, strict=True):
        for value in np.unique(line):
            assert (np.diff(found[line == value]) < 0).all(), "ids fall while rows rise"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rerank": True}, "rerank is True, but the index keeps no vectors"),
        ({"oversample": 3}, "oversample is 3, but there is no rerank"),
        ({"rerank": False, "oversample": 3}, "oversample is 3, but there is no rerank"),
        ({"rerank": X, "oversample": 0.5}, "oversample is 0.5; expected a number of at least 1"),
        ({"rerank": X, "oversample": "4"}, "oversample is '4'"),
        ({"rerank": X, "oversample": np.nan}, "oversample is nan"),
        ({"rerank": X, "return_stderr": True}, "return_stderr is True, but"),
        ({"rerank": X[:, :3]}, "vectors of rerank have 3 columns; the index has dim 24"),
        ({"rerank": X[:2]}, "is not a row of the 2 vectors of rerank"),
        ({"rerank": lambda ids: X[ids][:-1]}, "rerank returned .* vectors; expected"),
        ({"rerank": lambda ids: X[ids, :2]}, "vectors from rerank have 2 columns"),
        ({"rerank": np.full_like(X, np.nan)}, r"vectors of rerank\[\d+, 0\] is nan"),
        ({"rerank": "f16"}, "vectors of rerank (have|is)"),
    ],
)
def test_wrong_rerank_arguments_are_refused(wrong, words):
    with pytest.raises(InvalidInputError, match=words):
        built(X).search(Q, 5, **wrong)


def test_a_nan_in_the_vectors_of_rerank_is_named_by_its_row():
    x = X.copy()
    index = built(X)
    near = int(index.search(X[70], 1).ids[0])
    x[near, 4] = np.nan
    with pytest.raises(InvalidInputError, match=rf"vectors of rerank\[{near}, 4\] is nan"):
        index.search(X[70], 2, rerank=x)


# ---- stored originals


@pytest.mark.parametrize("wrong", ["float16", "f8", True, 16, b"f16", np.float16])
def test_wrong_kinds_of_kept_vectors_are_refused(wrong):
    with pytest.raises(InvalidInputError, match=r"keep_vectors is .*; expected one of f32, f16, int8"):
        VQIndex(DIM, keep_vectors=wrong)


def test_kept_vectors_are_rounded_by_at_most_half_a_step():
    x = vectors(50) * np.float32(10.0) ** np.arange(-20, 30, dtype=np.float32)[:, None]
    x[7] = 0
    unrounded = Originals(DIM, "f32")
    unrounded.append(unrounded.rounded(x, 0))
    np.testing.assert_array_equal(unrounded.gather(np.arange(50)), x)
    steps = Originals(DIM, "int8")
    steps.append(steps.rounded(x, 0))
    # Half a step, and the float32 rounding of the product.
    peak = np.abs(x).max(axis=1, keepdims=True)
    assert (np.abs(steps.gather(np.arange(50)) - x) <= peak * (0.5 / 127 + 2e-7)).all()
    half = Originals(DIM, "f16")
    half.append(half.rounded(x[:24], 0))
    np.testing.assert_array_equal(half.gather(np.arange(24)), x[:24].astype(np.float16).astype(np.float32))
    with pytest.raises(InvalidInputError, match=r"vectors\[\d+, \d+\] is -?[0-9.e+]+; expected magnitudes below 65520"):
        half.rounded(x, 0)


@every_kind
def test_rows_appended_one_by_one_are_joined_into_few_arrays(kind):
    originals = Originals(DIM, kind)
    x = vectors(1000)
    for row in x:
        originals.append(originals.rounded(row[None], 0))
    assert len(originals.parts) < 12
    assert len(originals) == 1000
    whole = Originals(DIM, kind)
    whole.append(whole.rounded(x, 0))
    pick = np.random.default_rng(0).permutation(1000)[:77]
    np.testing.assert_array_equal(originals.gather(pick), whole.gather(pick))
    np.testing.assert_array_equal(originals.select(np.sort(pick)).gather(np.arange(77)), whole.gather(np.sort(pick)))
    assert originals.gather_rounded(np.sort(pick)).values.dtype == np.dtype(KINDS[kind])
    assert originals.gather_rounded(np.arange(0)).values.shape == (0, DIM)


@every_kind
@pytest.mark.parametrize("mmap", [False, True])
def test_saved_vectors_rerank_as_before(kind, mmap, tmp_path):
    index = built(X, "l2", keep_vectors=kind)
    for batch in np.split(vectors(90, seed=4), [1, 40]):
        index.add(batch)
    index.remove([0, 70, 389])
    index.save(tmp_path / "a.vqi")
    loaded = VQIndex.load(tmp_path / "a.vqi", mmap=mmap)
    assert loaded.keep_vectors == loaded.stats()["keep_vectors"] == kind
    want = index.search(Q, 8, rerank=True)
    for one, other in zip(loaded.search(Q, 8, rerank=True), want, strict=True):
        np.testing.assert_array_equal(one, other)
    loaded.add(X[:2])
    loaded.upsert([5], X[:1])
    loaded.save(tmp_path / "b.vqi")
    again = VQIndex.load(tmp_path / "b.vqi")
    np.testing.assert_array_equal(again.search(Q, 8, rerank=True).ids, loaded.search(Q, 8, rerank=True).ids)
    with h5py.File(tmp_path / "a.vqi") as file:
        assert file["vectors"].dtype.str == KINDS[kind]
        assert file["vectors"].shape == (387, DIM)
        assert ("vector_scale" in file) == (kind == "int8")
        assert file.attrs["format_version"] == 3
    empty = VQIndex(DIM, keep_vectors=kind)
    empty.save(tmp_path / "c.vqi")
    empty = VQIndex.load(tmp_path / "c.vqi", mmap=mmap)
    empty.add(X[:1])
    assert empty.search(Q, 1, rerank=True).ids.tolist() == [[0]] * NQ


@pytest.mark.parametrize("block", ["vectors", "vector_scale"])
def test_damage_to_stored_vectors_is_named_by_its_block(block, tmp_path):
    path = tmp_path / "a.vqi"
    built(X, keep_vectors="int8").save(path)
    with h5py.File(path) as file:
        at = file[block].id.get_offset() + 100
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    for kwargs in ({}, {"mmap": True, "verify": True}):
        with pytest.raises(FileFormatError, match=f"block '{block}' is damaged in bytes 0 to"):
            VQIndex.load(path, **kwargs)
    VQIndex.load(path, mmap=True)  # checks only the blocks that it reads at once


@pytest.mark.parametrize("block", ["vectors", "vector_scale"])
def test_a_missing_block_of_stored_vectors_is_named(block, tmp_path):
    path = tmp_path / "a.vqi"
    built(X, keep_vectors="int8").save(path)
    with h5py.File(path, "a") as file:
        del file[block]
    with pytest.raises(FileFormatError, match=f"block '{block}' is missing"):
        VQIndex.load(path)
