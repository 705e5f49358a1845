"""VQIndex as a user sees it. Codes and results are compared exactly; a tolerance has its reason beside it."""

import numpy as np
import pytest
from cases import CODECS, DIM, METRICS, built, every_codec, every_metric, vectors

from vqindex import BackendError, InvalidInputError, UnknownIdError, VQIndex
from vqindex.backends import reference as reference_module
from vqindex.backends.registry import resolve


def rng(seed=0):
    return np.random.default_rng(seed)


def stored(index):
    """Return the codes, rescale values and norms of all rows."""
    block = index._rows.gather(np.arange(len(index)))
    return [array for array in block if array is not None]


def assert_all_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_unchanged(call, index, error, match=None):
    """Check that `call` raises and leaves the index unchanged."""
    before, ids = stored(index), index.ids
    with pytest.raises(error, match=match):
        call()
    assert_all_equal(stored(index), before)
    np.testing.assert_array_equal(index.ids, ids)


# ---- properties


def test_properties_say_what_was_built():
    index = VQIndex(dim=DIM, bits=3, metric="l2")
    assert (index.dim, index.ntotal, len(index), index.is_trained) == (DIM, 0, 0, True)
    assert index.train(vectors(5)) is None
    assert index.train() is None
    assert len(index) == 0
    index.add(vectors(7))
    assert index.ntotal == len(index) == 7
    assert index.ids.tolist() == list(range(7))
    assert repr(index) == (
        "VQIndex(dim=24, bits=3, metric='l2', codec='turboquant-prod', sketch='shared', ntotal=7, "
        f"backend={resolve()!r})"
    )
    assert "sketch" not in repr(VQIndex(4, codec="turboquant-mse"))
    assert index.meta == {}


@every_metric
@every_codec
def test_stats_say_the_sizes_in_bytes(codec, sketch, metric):
    n, bits = 5000, 3
    index = built(vectors(n), metric, codec, sketch, bits=bits)
    stats = index.stats()
    assert stats["ntotal"] == n
    warmup = index.spec.fields - DIM  # only a trellis has warm-up fields
    assert (warmup > 0) == (codec == "trellis")
    code_bytes = -(-(DIM + warmup) * bits // 8)
    assert stats["code_bytes"] == code_bytes
    scalars = 4 if metric == "cosine" else 8
    assert stats["bytes_per_vector"] == code_bytes + scalars
    assert stats["id_bytes"] == 0
    # Spare capacity at most doubles the memory.
    assert n * stats["bytes_per_vector"] <= stats["memory_bytes"] <= 2 * n * stats["bytes_per_vector"]
    with_ids = built(vectors(n), metric, codec, sketch, bits=bits, ids=np.arange(n))
    assert with_ids.stats()["id_bytes"] == 8
    assert with_ids.stats()["memory_bytes"] == stats["memory_bytes"] + 8 * n
    assert (stats["expected_mse"] is None) == (codec == "qjl" or sketch == "gaussian")


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"dim": 0}, "dim is 0; expected an integer from 1 to 16384"),
        ({"dim": 16385}, "dim is 16385"),
        ({"dim": 4.0}, r"dim is 4\.0"),
        ({"dim": True}, "dim is True"),
        ({"dim": 4, "bits": 0}, "bits is 0; expected an integer from 1 to 8"),
        ({"dim": 4, "bits": 9}, "bits is 9"),
        ({"dim": 4, "metric": "hamming"}, "metric is 'hamming'; expected one of ip, cosine, l2"),
        ({"dim": 4, "codec": "pq"}, "codec is 'pq'"),
        ({"dim": 4, "sketch": "none"}, "sketch is 'none'"),
        ({"dim": 4, "codec": "qjl", "sketch": "shared"}, "codec 'qjl' expects one of gaussian"),
        ({"dim": 4, "codec": "trellis", "bits": 5}, "bits is 5; codec 'trellis' expects an integer from 1 to 4"),
        ({"dim": 4, "seed": -1}, "seed is -1"),
        ({"dim": 4, "seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_parameters_out_of_range_are_refused(kwargs, words):
    with pytest.raises(InvalidInputError, match=words):
        VQIndex(**kwargs)


def test_unknown_device_is_refused_with_those_there_are(monkeypatch):
    with pytest.raises(BackendError, match="device is 'abacus'; this build has"):
        VQIndex(4, device="abacus")
    monkeypatch.setenv("VQINDEX_BACKEND", "nonsense")
    with pytest.raises(BackendError, match="VQINDEX_BACKEND is 'nonsense'; this build has"):
        VQIndex(4)
    assert VQIndex(4, device="reference").stats()["backend"] == "reference"


# ---- add


@every_metric
def test_vectors_added_while_memory_grows_equal_those_added_at_once(metric):
    x = vectors(6000)
    index, want = VQIndex(DIM, metric=metric), built(x, metric)
    for batch in np.split(x, [700, 1100, 2500, 2600]):
        index.add(batch)
    for one, other in zip(index.search(x[::40], 5), want.search(x[::40], 5), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(index.reconstruct(index.ids), want.reconstruct(want.ids))


@every_metric
@every_codec
def test_several_adds_equal_one(codec, sketch, metric, monkeypatch):
    x = vectors(301)
    whole = built(x, metric, codec, sketch)
    batched = VQIndex(DIM, metric=metric, codec=codec, sketch=sketch)
    for batch in np.split(x, [0, 1, 18, 18, 130]):
        batched.add(batch)
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 7 * DIM + 1)
    chunked = built(x, metric, codec, sketch)
    expected = whole.search(vectors(5, seed=1), 20)
    for other in (batched, chunked):
        if codec == "qjl" or sketch == "gaussian":
            # BLAS may round dense float32 products by the number of columns. Of some 10^4 signs hardly one is near
            # enough to zero to change.
            differing = np.unpackbits(stored(other)[0] ^ stored(whole)[0]).sum()
            assert differing <= 3
            assert_all_equal(stored(other)[1:], stored(whole)[1:])
            continue
        assert_all_equal(stored(other), stored(whole))
        assert_all_equal(other.search(vectors(5, seed=1), 20), expected)


@pytest.mark.parametrize(("codec", "sketch"), [c for c in CODECS if c[0] != "qjl" and c[1] != "gaussian"])
def test_encoding_does_not_depend_on_blocks(codec, sketch, monkeypatch):
    x = vectors(100)
    expected = stored(built(x, codec=codec, sketch=sketch, device="reference"))
    for values in (1, 3 * DIM, 64 * DIM):
        monkeypatch.setattr(reference_module, "_CACHE_VALUES", values)
        assert_all_equal(stored(built(x, codec=codec, sketch=sketch, device="reference")), expected)


def test_adding_nothing_changes_nothing():
    index = VQIndex(DIM)
    for nothing in ([], np.empty((0, DIM))):
        index.add(nothing)
        index.add(nothing, ids=[])
    assert len(index) == 0
    index.add(vectors(3))  # the index still numbers vectors itself
    assert index.ids.tolist() == [0, 1, 2]
    index.add([], ids=[])
    index.add([])
    assert len(index) == 3


@pytest.mark.parametrize("what", ["vectors", "queries"])
def test_wrong_dim_changes_nothing(what):
    index = built(vectors(20))
    call = index.add if what == "vectors" else index.search
    assert_unchanged(lambda: call(vectors(3, DIM + 1)), index, InvalidInputError, f"{what} have 25 columns.* dim 24")
    if what == "queries":
        assert_unchanged(lambda: index.search(np.zeros(5)), index, InvalidInputError, "5 columns.* dim 24")
        assert_unchanged(lambda: index.estimate(np.zeros(5), [0]), index, InvalidInputError, "5 columns.* dim 24")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (9, 23), (10, 1), (27, 5)])
def test_vectors_that_are_not_finite_change_nothing(row, column, value, monkeypatch):
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 10 * DIM)  # rows 10 and 27 lie in later chunks
    index = built(vectors(20))
    x = vectors(30, seed=1)
    x[row, column] = value
    named = rf"vectors\[{row}, {column}\] is {value}"
    assert_unchanged(lambda: index.add(x), index, InvalidInputError, named)
    assert_unchanged(lambda: index.search(x), index, InvalidInputError, named.replace("vectors", "queries"))


@pytest.mark.parametrize("value", [2.0**63, 3e38])  # 3e38: the norm itself overflows float32
@pytest.mark.parametrize("row", [0, 9, 10, 27])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_norms_too_large_change_nothing(metric, row, value, monkeypatch):
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 10 * DIM)
    index = built(vectors(20), metric)
    x = vectors(30, seed=1)
    x[row] = value
    named = rf"\[{row}\] has norm .*; expected less than 2\*\*62"
    assert_unchanged(lambda: index.add(x), index, InvalidInputError, "vectors" + named)
    assert_unchanged(lambda: index.search(x), index, InvalidInputError, "queries" + named)
    assert_unchanged(lambda: index.estimate(x, [1, 2]), index, InvalidInputError, "queries" + named)


def test_cosine_accepts_vectors_of_any_norm():
    x = vectors(30)
    x[3] = 3e38 * np.sign(x[3])
    scores = built(x, "cosine").search(x[3], 1)
    assert scores.ids.tolist() == [3]
    # A cosine with itself, 4 bits: the error's standard deviation is below 0.1 / sqrt(24) = 0.02.
    assert scores.scores[0] == pytest.approx(1, abs=0.1)


# ---- ids


@pytest.mark.parametrize("form", [list, np.array, lambda i: np.array(i, np.uint64), lambda i: np.array(i, np.int32)])
def test_explicit_ids_of_every_form_are_returned(form):
    ids = [7, 3, 2**31 - 1, 0, 12]
    x = vectors(5)
    index = built(x, "cosine", ids=form(ids))
    assert index.ids.dtype == np.int64
    assert index.ids.tolist() == ids
    found = index.search(x, 1).ids
    assert found.dtype == np.int64
    assert found[:, 0].tolist() == ids
    for each in ids:
        assert each in index
        assert np.int64(each) in index
        assert np.uint64(each) in index
    for other in (1, -1, 2**63, 2**64, -(2**63), -(2**70), 7.0, "7", None, True, np.True_, [7]):
        assert other not in index


def test_automatic_ids_count_from_zero():
    index = built(vectors(5))
    assert all(i in index for i in range(5))
    assert not any(i in index for i in (-1, 5, 2**62, False, True))


def test_largest_id_is_found():
    x = vectors(2)
    index = built(x, "l2", ids=[2**63 - 1, 0])
    assert 2**63 - 1 in index
    assert index.search(x, 2).ids.tolist() == [[2**63 - 1, 0], [0, 2**63 - 1]]
    scores = index.search(x, 2).scores
    np.testing.assert_array_equal(index.estimate(x, [2**63 - 1, 0]), [scores[0], scores[1][::-1]])


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([100, 101], "2 ids were given for 3 vectors"),
        ([100, 101, 100], "given twice: 100"),
        ([100, -1, 101], "id -1 is negative"),
        ([100, 3, 101], r"id 3 is already in the index \(1 of 3 given are\)"),
        ([100.0, 101.0, 102.0], "dtype float64"),
        (None, "holds explicit ids"),
    ],
)
def test_bad_ids_change_nothing(ids, words):
    index = built(vectors(5), ids=[5, 4, 3, 2, 1])
    assert_unchanged(lambda: index.add(vectors(3), ids=ids), index, InvalidInputError, words)
    index.add(vectors(1), ids=[100])  # the refused ids are still free
    assert index.ids.tolist() == [5, 4, 3, 2, 1, 100]


def test_explicit_ids_may_follow_automatic_ones_but_not_the_reverse():
    index = built(vectors(3))
    assert_unchanged(lambda: index.add(vectors(1), ids=[2]), index, InvalidInputError, "id 2 is already in the index")
    index.add(vectors(2), ids=[50, 10])
    assert index.ids.tolist() == [0, 1, 2, 50, 10]
    assert_unchanged(lambda: index.add(vectors(1)), index, InvalidInputError, "holds explicit ids")


def test_unknown_ids_are_named_in_the_error():
    for index, unknown in ((built(vectors(5)), 5), (built(vectors(5), ids=[9, 8, 7, 6, 4]), 5), (VQIndex(DIM), 0)):
        for call in (lambda i, ids: i.estimate(np.ones(DIM), ids), lambda i, ids: i.reconstruct(ids)):
            with pytest.raises(UnknownIdError, match=f"^id {unknown} is not in the index of {len(index)} vectors$"):
                call(index, [unknown])
            with pytest.raises(KeyError):  # as a dict would raise
                call(index, [unknown])
            with pytest.raises(InvalidInputError, match="negative"):
                call(index, [-1])


# ---- failures during an add


def test_a_failing_backend_changes_nothing(monkeypatch):
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 10 * DIM)
    index = built(vectors(20), ids=np.arange(20))
    encode, calls = index._backend.encode, []

    def fail_second(chunk):
        calls.append(len(chunk))
        if len(calls) == 2:
            raise MemoryError("no room")
        return encode(chunk)

    monkeypatch.setattr(index._backend, "encode", fail_second)
    assert_unchanged(lambda: index.add(vectors(30), ids=np.arange(100, 130)), index, MemoryError)
    assert calls == [10, 10]


# ---- unusual vectors


@every_metric
@every_codec
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_tiny_dimensions_find_every_vector(codec, sketch, metric, dim):
    x = vectors(20, dim)
    index = built(x, metric, codec, sketch)
    scores, ids = index.search(x, 20)
    assert np.isfinite(scores).all()
    assert np.sort(ids, axis=1).tolist() == [list(range(20))] * 20


@every_metric
def test_scores_in_one_dimension_are_exact_up_to_rounding(metric):
    # x / |x| is +-1, which the renormalized estimate reproduces. The error is the float32 and int16 rounding of the
    # query, below 2^-15 of |q| |x|, or of |q|^2 + |x|^2 for l2.
    x, q = vectors(50, 1), vectors(7, 1, seed=1)
    index = built(x, metric)
    true = {"ip": q @ x.T, "cosine": np.sign(q) @ np.sign(x).T, "l2": (q - x.T) ** 2}[metric]
    size = 1 if metric == "cosine" else (q**2 + (x**2).T)
    assert (np.abs(index.estimate(q, np.arange(50)) - true) <= 2**-14 * size).all()


@every_metric
@every_codec
def test_zero_vectors_have_the_scores_of_zero(codec, sketch, metric):
    x = vectors(5)
    x[2] = 0
    x[3] = -0.0
    x[4] = 1e-45  # no coordinate is a normal float32: counts as zero
    index = built(x, metric, codec, sketch)
    q = vectors(3, seed=1)
    q[2] = 0
    scores = index.estimate(q, [0, 2, 3, 4])
    if metric == "l2":
        # |q|^2 as float32: exactly the sum of the stored norm's square (zero) and the query's.
        norm = np.sqrt((q.astype(np.float64) ** 2).sum(axis=1)).astype(np.float32)
        np.testing.assert_array_equal(scores[:, 1:], np.repeat((norm * norm)[:, None], 3, axis=1))
    else:
        assert (scores[:, 1:] == 0).all()
        assert (scores[2] == 0).all()
    assert (index.reconstruct([2, 3, 4]) == 0).all()
    assert np.isfinite(index.search(q, 5, return_stderr=True).stderr).all()


@every_metric
@every_codec
@pytest.mark.parametrize("power", [-100, -60, -1, 1, 40, 58])
def test_codes_do_not_depend_on_scale(codec, sketch, metric, power):
    x = vectors(40)
    small, big = built(x, metric, codec, sketch), built(x * np.float32(2.0**power), metric, codec, sketch)
    np.testing.assert_array_equal(stored(big)[0], stored(small)[0])
    for one, other in zip(stored(big)[1:], stored(small)[1:], strict=True):
        scale = 0 if metric == "cosine" else power
        np.testing.assert_array_equal(one, np.ldexp(other, scale))  # a power of two: exact


# Norms of 2**63 and more are refused for ip and l2.
@pytest.mark.parametrize(
    ("metric", "power"), [("cosine", 100), *((metric, power) for metric in METRICS for power in (57, -100))]
)
def test_huge_and_tiny_norms_scale_scores_and_keep_the_order(metric, power):
    x = vectors(200)
    scaled, expected = x * np.float32(2.0**power), built(x, metric).search(x[:10], 3)
    scores, ids = built(scaled, metric).search(scaled[:10], 3)
    if metric != "cosine" and power < 0:  # squares of 2**-100 are zero in float32: all rows tie
        np.testing.assert_array_equal(scores, 0)
        assert ids.tolist() == [[0, 1, 2]] * 10
        return
    np.testing.assert_array_equal(ids, expected.ids)
    # Powers of two scale exactly.
    np.testing.assert_array_equal(scores, np.ldexp(expected.scores, 0 if metric == "cosine" else 2 * power))


def test_negative_zero_scores_tie_with_zero():
    x = np.zeros((4, DIM), np.float32)
    x[1], x[3] = 1, 2
    q = np.zeros(DIM, np.float32)
    assert built(x).search(q, 4).ids.tolist() == [0, 1, 2, 3]
