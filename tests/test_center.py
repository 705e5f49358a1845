"""center=: an index that subtracts a vector before it encodes equals an index of residuals computed by hand."""

import copy
import warnings

import fake_cupy
import gate
import gpu_checks as gpu
import numpy as np
import pytest
from cases import DIM, every_codec, vectors
from hypothesis import given
from hypothesis import strategies as st

from vqindex import InvalidInputError, OffsetWarning, VQIndex, exclude
from vqindex._native import residuals, supported_isas
from vqindex.center import Centering
from vqindex.codes.estimator import sum64
from vqindex.residuals import residuals_of
from vqindex.search.rerank import exact_scores
from vqindex.spec import IndexSpec

N, NQ = 300, 7
M = np.linspace(-0.4, 0.6, DIM).astype(np.float32)
X, Q = vectors(N) + 3 * M, vectors(NQ, seed=9) + 3 * M
HALF = np.float32(0.5)
every_metric = pytest.mark.parametrize("metric", ["cosine", "l2"])


def unit(x):
    """Return rows divided by their lengths, in float64."""
    x = x.astype(np.float64)
    return x / np.sqrt(sum64((x * x).T))[:, None]


def exact(x, q, metric):
    """Return all scores in float64."""
    if metric == "cosine":
        return unit(q) @ unit(x).T
    x, q = x.astype(np.float64), q.astype(np.float64)
    return ((q[:, None] - x[None]) ** 2).sum(axis=2)


def by_hand(x, q, m, metric, **kwargs):
    """Return an index of residuals, its queries, and the function from its scores to those of the vectors."""
    if metric == "l2":
        rows, queries, back = x - m, q - m, lambda s: s
    else:
        rows, queries = (unit(x) - m).astype(np.float32), (unit(q) - m).astype(np.float32)
        back = lambda s: np.float32(1) - HALF * s  # noqa: E731
    index = VQIndex(x.shape[1], metric="l2", **kwargs)
    index.add(rows)
    return index, queries, back


def centered(x, m, metric, **kwargs):
    index = VQIndex(x.shape[1], metric=metric, center=m, **kwargs)
    index.add(x)
    return index


def same_as_by_hand(index, hand, q, queries, back):
    """Compare search, filters and estimates, bit for bit."""
    for confidence in (1, 0.9):
        got, want = index.search(q, 20, confidence=confidence), hand.search(queries, 20, confidence=confidence)
        gpu.same(got.ids, want.ids)
        gpu.same(got.scores, back(want.scores))
    ids = np.arange(0, N, 3)
    gpu.same(index.search(q, 20, filter=ids).ids, hand.search(queries, 20, filter=ids).ids)
    gpu.same(index.search(q, 20, filter=exclude(ids)).ids, hand.search(queries, 20, filter=exclude(ids)).ids)
    estimates = index.estimate(q, ids)
    gpu.same(estimates, back(hand.estimate(queries, ids)))
    gpu.same(index.search(q[0], 5).scores, index.search(q, 5).scores[0])


# ---- the same as an index of residuals


@every_metric
@every_codec
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_centered_index_equals_an_index_of_residuals(metric, codec, sketch, bits):
    kwargs = {"bits": bits, "codec": codec, "sketch": sketch, "seed": 5}
    hand, queries, back = by_hand(X, Q, M, metric, **kwargs)
    index = centered(X, M, metric, **kwargs)
    if sketch != "gaussian" and codec != "qjl":
        same_as_by_hand(index, hand, Q, queries, back)
    gpu.same(index.estimate(Q, range(N)), back(hand.estimate(queries, range(N))))
    gpu.same(index.reconstruct(range(N)), hand.reconstruct(range(N)) + M)
    errors = index.search(Q, 9, return_stderr=True).stderr, hand.search(queries, 9, return_stderr=True).stderr
    gpu.same(errors[0], errors[1] * (HALF if metric == "cosine" else np.float32(1)))


@every_metric
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
@pytest.mark.parametrize("isa", supported_isas())
def test_centered_codes_and_results_are_equal_on_every_instruction_set(metric, codec, isa, monkeypatch):
    slow = centered(X, M, metric, codec=codec, bits=3, device="reference")
    monkeypatch.setenv("VQINDEX_ISA", isa)
    fast = centered(X, M, metric, codec=codec, bits=3, device="native")
    assert fast._backend.isa == isa
    for got, want in zip(fast._contents.rows.stored()[0], slow._contents.rows.stored()[0], strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            gpu.same(got, want)
    for got, want in zip(fast.search(Q, 30), slow.search(Q, 30), strict=True):
        gpu.same(got, want)


@every_metric
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_centered_results_are_equal_on_an_emulated_gpu(metric, codec, monkeypatch):
    fake_cupy.install(monkeypatch)
    x, q = gate.corpus(33, rows=150), gate.queries(33)
    indexes = [centered(x, "mean", metric, bits=3, codec=codec, device=device) for device in ("cuda", "cpu")]
    assert indexes[0].stats()["backend"] == "cuda"
    gpu.same(indexes[0].center, indexes[1].center)
    for got, want in zip(*[index.search(q, 7) for index in indexes], strict=True):
        gpu.same(got, want)
    for got, want in zip(*[index.range_search(q, median_scores(indexes[1], q)) for index in indexes], strict=True):
        gpu.same(got, want)


def median_scores(index, q):
    return np.median(index.estimate(q, index.ids), axis=1)


# ---- scores


@every_metric
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_estimates_are_unbiased_with_the_stated_error_whatever_the_center(metric, codec):
    """Over 300 rotations, with a distant center and with the mean."""
    x, q = vectors(40, seed=3) + 3 * M, vectors(6, seed=4) + 3 * M
    truth = exact(x, q, metric)
    for center in (np.full(DIM, -0.5, np.float32), "mean"):
        slopes, errors, stated = [], [], []
        for seed in range(300):
            index = centered(x, center, metric, codec=codec, bits=2, seed=seed)
            scores, ids, stderr = index.search(q, 40, return_stderr=True, confidence=1)
            true = np.take_along_axis(truth, ids, axis=1)
            slopes.append((scores * true).sum() / (true * true).sum())
            order = np.argsort(ids, axis=1)
            errors.append(np.take_along_axis(scores - true, order, axis=1))
            stated.append(np.take_along_axis(stderr, order, axis=1))
        width = np.std(slopes) / np.sqrt(len(slopes))
        # Four standard errors: one run in 16,000 would fail by chance, and the seeds are fixed. Without the rescale
        # values the slope on the residuals would be at most 0.9.
        assert abs(np.mean(slopes) - 1) < 4 * width
        assert width < 0.01
        ratio = np.std(errors, axis=0) / np.sqrt(np.mean(np.square(stated), axis=0))
        # 300 rotations determine a spread to 4 % (1 / sqrt(600)), and the median of 240 pairs much better. Standard
        # errors are those at a lower cosine, one sigma of its angle lower: for pairs as close as those of the distant
        # center, whose sigma is 0.2, that is a fifth too much.
        assert 0.8 < np.median(ratio) < 1.02


@every_metric
def test_errors_fall_with_the_distance_to_the_center(metric):
    truth = exact(X, Q, metric)

    def error(center):
        return np.sqrt(np.mean((centered(X, center, metric, bits=2).estimate(Q, range(N)) - truth) ** 2))

    assert error("mean") < 0.9 * error(None) < error(np.full(DIM, 5, np.float32))


@every_metric
def test_reranking_a_centered_index_equals_brute_force(metric):
    """With 8 bits the ten best are nearly those of exact search; reranked, they are exactly those."""
    index = centered(X, "mean", metric, bits=8, keep_vectors="f32")
    order = np.argsort(exact(X, Q, metric) * (1 if metric == "l2" else -1), axis=1)[:, :10]
    found = index.search(Q, 10).ids
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), order.tolist(), strict=True)]) > 9
    scores, ids = index.search(Q, 10, rerank=True)
    assert ids.tolist() == order.tolist()
    everything = exact_scores(metric, Q, np.broadcast_to(X, (NQ, N, DIM)))
    gpu.same(scores, np.take_along_axis(everything, ids, axis=1))


@every_metric
def test_range_search_finds_exactly_the_rows_that_beat_the_threshold(metric):
    index = centered(X, M, metric, bits=2)
    scores = index.estimate(Q, range(N))
    sign = -1 if metric == "l2" else 1
    # A row whose score equals the threshold is not a hit. The others lie just beside it, or return all rows or none.
    for thresholds in (scores[:, 5], np.nextafter(scores[:, 5], np.float32(-9)), np.full(NQ, np.inf, np.float32)):
        for threshold in (thresholds, -thresholds):
            lims, got, ids = index.range_search(Q, threshold, confidence=1)
            better = sign * scores > sign * threshold[:, None]
            assert np.diff(lims).tolist() == better.sum(axis=1).tolist()
            for i in range(NQ):
                at = slice(lims[i], lims[i + 1])
                assert sorted(ids[at].tolist()) == np.flatnonzero(better[i]).tolist()
                gpu.same(got[at], scores[i, ids[at]])


numbers = st.floats(width=32, allow_nan=False)


@given(numbers, numbers)
def test_a_converted_threshold_passes_exactly_the_better_scores(found, limit):
    """For any float32 numbers, infinities among them."""
    centering = Centering.of(IndexSpec(2, metric="cosine"), [1, 1])
    found, limit = np.float32([found]), np.float32([limit])
    threshold, score = centering.thresholds(limit), centering.scores(found)
    assert threshold.dtype == score.dtype == np.float32
    assert (found < threshold) == (score > limit)


def test_zero_vectors_have_cosine_0():
    x, q = X.copy(), Q.copy()
    x[::10], q[0] = 0, 0
    x[10] = 1e-45  # shorter than every normal float32
    index = centered(x, M, "cosine", bits=8)
    scores = index.estimate(q, range(N))
    # With 8 bits the errors are about |q - m| |x - m| / 1000, here well below 0.01.
    assert np.abs(scores[:, ::10]).max() < 0.05
    assert np.abs(scores[0]).max() < 0.05
    others = np.arange(N) % 10 > 0
    np.testing.assert_allclose(scores[1:, others], exact(x[others], q[1:], "cosine"), atol=0.05)
    np.testing.assert_allclose(index.reconstruct([0, 20]), 0, atol=0.05)
    scores, ids = centered(np.zeros((3, DIM), np.float32), "mean", "cosine").search(Q, 3)
    assert ids.tolist() == [[0, 1, 2]] * NQ
    assert np.abs(scores).max() < 1e-6


@every_metric
def test_an_empty_centered_index_finds_nothing(metric):
    for center in ("mean", M):
        index = VQIndex(DIM, metric=metric, center=center)
        scores, ids = index.search(Q, 2)
        assert ids.tolist() == [[-1, -1]] * NQ
        assert (scores == (np.inf if metric == "l2" else -np.inf)).all()
        assert index.range_search(Q, 0.0).ids.size == 0
        assert index.estimate(Q, []).shape == (NQ, 0)


# ---- the mean


class Sliced:
    """Rows that can only be sliced, and that record the longest slice."""

    def __init__(self, x):
        self.x, self.shape, self.dtype, self.longest = x, x.shape, x.dtype, 0

    def __getitem__(self, at):
        rows = self.x[at]
        self.longest = max(self.longest, len(rows))
        return rows


@every_metric
def test_the_mean_is_that_of_the_first_vectors(metric, monkeypatch):
    rows = unit(X) if metric == "cosine" else X.astype(np.float64)
    index = VQIndex(DIM, metric=metric, center="mean")
    index.add(np.empty((0, DIM)))
    index.upsert([], np.empty((0, DIM)))
    assert index.center is None
    index.add(X)
    # One rounding to float32, of sums whose float64 errors are far smaller.
    np.testing.assert_allclose(index.center, rows.mean(axis=0), rtol=6e-8, atol=1e-9)
    first = index.center.copy()
    with pytest.raises(ValueError, match="read-only"):
        index.center[0] = 1
    index.add(X + 1)
    index.remove(index.ids)
    index.compact()
    index.add(X - 1)
    gpu.same(index.center, first)
    # The mean is the same for lists and for rows read slice by slice.
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 64 * DIM)
    monkeypatch.setattr("vqindex.residuals._CHUNK_VALUES", 2 * DIM)
    sliced = Sliced(X)
    upserted = VQIndex(DIM, metric=metric, center="mean")
    upserted.upsert(range(N), sliced)
    assert sliced.longest == 64
    listed = VQIndex(DIM, metric=metric, center="mean")
    listed.add(X.tolist())
    gpu.same(listed.center, upserted.center)
    gpu.same(listed.search(Q).scores, upserted.search(Q).scores)
    np.testing.assert_allclose(listed.center, first, rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("is_unit", [False, True])
@pytest.mark.parametrize("dim", [1, 31, 32, 33, 100])
def test_compiled_residuals_equal_their_definition(isa, is_unit, dim):
    rng = np.random.default_rng(dim)
    rows = (
        rng.standard_normal((60, dim), np.float32) * np.float32(10.0) ** np.arange(-40, 20, dtype=np.float32)[:, None]
    )
    rows[3], rows[4] = 0, np.float32(-0.0)
    rows[5], rows[6] = 1e-45, 1.17e-38
    for point in (rng.standard_normal(dim, np.float32), np.full(dim, 1e-40, np.float32), None):
        want, want_zero = residuals_of(rows, point, is_unit)
        center = np.zeros(dim, np.float32) if point is None else point
        got, zero = residuals(rows, center, is_unit, isa)
        assert got.tobytes() == want.tobytes()
        assert zero.tolist() == want_zero.tolist()
        assert zero.any() == is_unit
    with pytest.raises(ValueError, match="expected a point"):
        residuals(rows, np.zeros(dim + 1, np.float32), is_unit, isa)


def test_the_mean_of_many_blocks_is_summed_in_the_frozen_order():
    """2^17 // 24 = 5,461 rows at a time, added in the order that the docstring of center.py defines."""
    x = vectors(20_000) + 1
    total = sum(sum64(x[start : start + 5461].astype(np.float64)) for start in range(0, len(x), 5461))
    gpu.same(centered(x, "mean", "l2", bits=1).center, (total / len(x)).astype(np.float32))


@every_metric
def test_a_refused_add_leaves_the_mean_unset(metric):
    bad = X.copy()
    bad[250, 3] = np.nan
    index = VQIndex(DIM, metric=metric, center="mean", keep_vectors="f16")
    for call in (lambda: index.add(bad), lambda: index.upsert(range(N), bad)):
        with pytest.raises(InvalidInputError, match=r"vectors\[250, 3\] is nan"):
            call()
    with pytest.raises(InvalidInputError, match="65520"):
        index.add(X * np.float32(1e6))  # fails after the mean is computed
    assert index.center is None
    assert repr(index).count("center=<mean>") == 1
    index.add(X)
    gpu.same(index.center, centered(X, "mean", metric).center)
    with pytest.raises(InvalidInputError, match="nan"):
        index.add(bad)
    gpu.same(index.center, centered(X, "mean", metric).center)


def test_a_mean_of_too_large_a_norm_is_refused():
    index = VQIndex(DIM, metric="l2", center="mean")
    with pytest.raises(InvalidInputError, match=r"norm .*e\+\d+; expected less than 2\*\*62"):
        index.add(np.full((3, DIM), 1e30))
    assert index.center is None
    index.add(X)
    gpu.same(index.center, centered(X, "mean", "l2").center)


# ---- what is refused


@pytest.mark.parametrize(
    ("center", "words"),
    [
        ("median", "'median'; expected 'mean'"),
        (np.zeros(DIM + 1), rf"shape \({DIM + 1},\); expected 'mean', or numbers of shape \({DIM},\)"),
        (np.zeros((1, DIM)), "expected 'mean'"),
        (0.5, r"shape \(\)"),
        ([True] * DIM, "dtype bool"),
        (["a"] * DIM, "dtype <U1"),
        ([0, np.nan] * (DIM // 2), r"center\[1\] is nan"),
        ([0] * (DIM - 1) + [1e39], rf"center\[{DIM - 1}\] is 1e\+39; expected a finite float32"),
        ([2.0**62] + [0] * (DIM - 1), r"norm 4\.61169e\+18; expected less than 2\*\*62"),
    ],
)
def test_wrong_centers_are_refused_with_their_values(center, words):
    with pytest.raises(InvalidInputError, match=words):
        VQIndex(DIM, metric="l2", center=center)


def test_center_for_inner_products_is_refused():
    for center in ("mean", M):
        with pytest.raises(InvalidInputError, match=r"metric is 'ip'.*expected metric 'cosine'"):
            VQIndex(DIM, center=center)


def test_merge_of_another_center_is_refused():
    index = centered(X, M, "cosine")
    for center in (None, "mean", -M):
        other = centered(X, center, "cosine")
        with pytest.raises(InvalidInputError, match=r"center is .* in the other index and .* norm 1\.5.* in this one"):
            index.merge(other)
    index.merge(centered(X + 1, M, "cosine"))
    both = centered(np.concatenate([X, X + 1]), M, "cosine")
    for got, want in zip(index.search(Q), both.search(Q), strict=True):
        gpu.same(got, want)


def test_stats_and_repr_describe_the_center():
    index = centered(X, M, "cosine")
    plain = centered(X, None, "cosine")
    assert (plain.center, plain.stats()["center"]) == (None, None)
    assert "center" not in repr(plain)
    gpu.same(index.center, M)
    assert index.stats()["bytes_per_vector"] == plain.stats()["bytes_per_vector"] + 4
    sizes = [centered(X, center, "l2").stats()["bytes_per_vector"] for center in (None, M)]
    assert sizes[0] == sizes[1]
    assert index.spec == plain.spec
    name = index.stats()["center"]
    assert name.startswith(f"vector of norm {np.linalg.norm(M):.4g}")
    assert f"center=<{name}>" in repr(index)


# ---- offsets that need a center


def with_offset(ratio, n=3000, dim=32):
    """Gaussian rows, and queries, around a point that is `ratio` times as far away as they scatter."""
    rng = np.random.default_rng(1)
    point = rng.standard_normal(dim)
    point *= ratio * np.sqrt(dim) / np.linalg.norm(point)
    return [(rng.standard_normal((count, dim)) + point).astype(np.float32) for count in (n, 100)]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_an_offset_that_dwarfs_the_spread_is_warned_of_and_the_remedy_helps(metric):
    x, q = with_offset(5)
    plain, centered = VQIndex(32, metric=metric), VQIndex(32, metric=metric, center="mean")
    with pytest.warns(OffsetWarning, match=r'mean is \d\.?\d* times as long as their spread.*center="mean"') as seen:
        plain.add(x)
    assert seen[0].filename == __file__, "the warning points at the caller's line"
    plain.add(x[:5])  # the first vectors decide: no second warning, which would be an error here
    centered.add(x)
    wide_x, wide_q = x.astype(np.float64), q.astype(np.float64)
    if metric == "cosine":
        wide_x, wide_q = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (wide_x, wide_q))
    true = np.argsort(((wide_q[:, None] - wide_x) ** 2).sum(axis=2), axis=1)[:, :10]

    def recall(index):
        found = index.search(q, 10).ids
        return np.mean([np.isin(line, want).mean() for line, want in zip(found, true, strict=True)])

    assert recall(plain) < 0.6
    assert recall(centered) > 0.75


@pytest.mark.parametrize("size", [1, 2, 32, 63])
def test_an_offset_is_warned_of_once_however_few_vectors_come_at_a_time(size, tmp_path):
    x = with_offset(5)[0][: 4 * 64]
    index, warned_at = VQIndex(32, metric="l2"), []
    for start in range(0, len(x), size):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            index.add(x[start : start + size])
        warned_at += [len(index)] * sum(warning.category is OffsetWarning for warning in seen)
    assert warned_at == [-(-64 // size) * size]
    index.save(tmp_path / "a.vqi")
    for later in (VQIndex.load(tmp_path / "a.vqi"), copy.copy(index)):
        later.add(x)  # a second warning would be an error here
    centered = VQIndex(32, metric="l2", center=x.mean(axis=0))
    for start in range(0, len(x), size):
        centered.add(x[start : start + size])


@pytest.mark.parametrize("size", [40, 256])
def test_an_offset_warning_that_is_an_error_refuses_every_call_until_it_is_heeded(size):
    x = with_offset(5)[0]
    index = VQIndex(32, metric="l2")
    if size < 64:
        index.add(x[:size])
    count = len(index)
    for _ in range(2):
        with pytest.raises(OffsetWarning):  # the tests turn warnings into errors
            index.add(x[size : 2 * size])
    assert len(index) == count


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("ratio", [1e3, 1e4, 1e5])
def test_the_worst_offsets_are_warned_of(metric, ratio):
    with pytest.warns(OffsetWarning, match=r"mean is .* times as long as their spread"):
        VQIndex(32, metric=metric).add(with_offset(ratio)[0])


@pytest.mark.parametrize(
    ("metric", "ratio", "settings"),
    [
        ("l2", 1.5, {}),
        ("cosine", 1.5, {}),
        ("ip", 9, {}),
        ("l2", 9, {"center": "mean"}),
        ("l2", 9, {"center": np.ones(32)}),
    ],
)
def test_small_offsets_inner_products_and_centers_are_not_warned_of(metric, ratio, settings):
    VQIndex(32, metric=metric, **settings).add(with_offset(ratio)[0])


@pytest.mark.parametrize(
    "rows", [np.zeros((99, 32)), np.ones((99, 32)), np.ones((1, 32)), np.empty((0, 32)), with_offset(9)[0][:63]]
)
def test_vectors_without_a_spread_and_few_vectors_are_not_warned_of(rows):
    VQIndex(32, metric="l2").add(rows)
