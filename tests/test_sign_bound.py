"""The sign bound: its arithmetic by hand, how often bounds fail, and what a search by rank scores returns."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from backend_search import top_k
from cases import built, every_metric, vectors

import vqindex_datasets
from vqindex import InvalidInputError, VQIndex
from vqindex.backends.registry import available, make_backend
from vqindex.codes.bitplanes import split
from vqindex.codes.codec import Codec
from vqindex.codes.estimator import l2_from_ip
from vqindex.codes.sign_bound import LIMIT, MAX_DIM, SignBoundTerms, bounds, quantile, sign_query
from vqindex.spec import IndexSpec
from vqindex_datasets.recall import recall_at_k


def test_quantiles_are_those_of_the_normal_distribution():
    assert quantile(1) == quantile(1.0) == math.inf
    # Tables of the normal distribution.
    for confidence, z in ((0.6, 0.2533471), (0.9, 1.2815516), (0.975, 1.9599640), (0.995, 2.5758293)):
        assert quantile(confidence) == pytest.approx(z, abs=1e-7)


def test_sign_bound_queries_of_all_values_sum_to_the_query():
    code_query = np.arange(-32767, 32768).astype(np.int16)[:, None]
    c, rounding = sign_query(code_query)
    assert (c.dtype, rounding.dtype) == (np.int8, np.int64)
    assert (c.min(), c.max()) == (-LIMIT, LIMIT)
    for x, y, error in zip(code_query[::37, 0].tolist(), c[::37, 0].tolist(), rounding[::37].tolist(), strict=True):
        assert y == math.floor(Fraction(LIMIT * x + 2**14, 2**15))
        assert error == (LIMIT * x - 32767 * y) ** 2
    # The nearest of the eleven values, up to the last unit of half a step.
    assert np.abs(LIMIT * code_query[:, 0].astype(int) - 32767 * c[:, 0].astype(int)).max() <= 2**14 + LIMIT


def test_the_rounding_error_of_a_query_is_summed_over_coordinates():
    code_query = np.random.default_rng(0).integers(-32767, 32768, (3, 50)).astype(np.int16)
    whole = sign_query(code_query)[1]
    np.testing.assert_array_equal(whole, sum(sign_query(code_query[:, j : j + 1])[1] for j in range(50)))
    assert sign_query(np.full((1, MAX_DIM), 3277, np.int16))[1].dtype == np.int64


def test_sums_of_the_longest_vectors_fit_16_bits():
    # Kernels shift each unit of 24 coordinates by 120 = 24 LIMIT, and sums lie between 0 and twice that.
    assert 2 * LIMIT * (-(-MAX_DIM // 24) * 24) < 2**16


@pytest.mark.parametrize("norm", [None, np.array([0, 1, 2.5, 1e18], np.float32)])
def test_bounds_equal_those_worked_out_by_hand(norm):
    """Apply the docstring's formula, one float32 operation at a time."""
    dim, z, f = 48, quantile(0.9), np.float32
    rng = np.random.default_rng(0)
    sums = rng.integers(-100, 100, (3, 4)).astype(np.float32)
    rounding = rng.integers(0, 2**40, 3)
    scale, query_norm = rng.random((2, 3)).astype(np.float32)
    found = bounds(SignBoundTerms.of(dim), z, sums, rounding, scale, query_norm, norm)
    assert found.dtype == np.float32
    for q in range(3):
        a = f(math.sqrt(math.pi / (2 * dim)) * 32767 / 5 * float(scale[q]))
        variance = (math.pi / 2 - 1) / dim * float(query_norm[q]) ** 2
        variance += math.pi / (50 * dim) * int(rounding[q]) * float(scale[q]) ** 2
        b = f(z * math.sqrt(variance))
        for row in range(4):
            want = f(f(a * sums[q, row]) + b)
            # a and b are rounded from float64, where the order of operations may turn the last bit.
            assert found[q, row] == pytest.approx(want if norm is None else f(want * norm[row]), rel=4e-7)


# ---- how often the bound fails


def failures(dim, confidence, metric="cosine", n=400):
    """Return the share of n^2 pairs of Gaussian vectors whose true inner product (or distance) exceeds its bound."""
    backend = make_backend(Codec(IndexSpec(dim, 4, metric)), "reference")
    x, q = vectors(n, dim, seed=1), vectors(n, dim, seed=2)
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        q /= np.linalg.norm(q, axis=1, keepdims=True)
    upper = backend._bounds(backend.prepare(q), backend.encode(x), quantile(confidence))
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "l2":
        return float((((q[:, None] - x[None]) ** 2).sum(axis=2) < upper).mean())
    return float((q @ x.T > upper).mean())


@pytest.mark.parametrize("dim", [64, 100, 384])
@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.975, 0.995])
def test_bounds_fail_as_often_as_stated(dim, confidence):
    rate, z = 1 - confidence, quantile(confidence)
    # Four deviations of the binomial distribution, and two more because pairs of a row share the length of its error,
    # whose spread over 400 rows moves the rate by about a deviation.
    tolerance = 6 * math.sqrt(rate * confidence / 400**2)
    # The error is a coordinate of a random direction rather than normal: its kurtosis is short by 6 / (d + 2), which
    # moves the tail by the next term of Edgeworth's series.
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    tolerance += 6 / (dim + 2) / 24 * abs(z**3 - 3 * z) * density
    assert abs(failures(dim, confidence) - rate) <= tolerance


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_bounds_of_other_metrics_fail_as_often(metric):
    # As above. The kurtosis adds at most 0.0003, which is small beside the rest.
    assert abs(failures(100, 0.9, metric) - 0.1) <= 6 * math.sqrt(0.09 / 400**2)


def test_a_higher_confidence_gives_a_higher_bound():
    terms, rng = SignBoundTerms.of(64), np.random.default_rng(0)
    sums, rounding = rng.integers(-99, 99, (2, 30)).astype(np.float32), np.array([5, 2**40])
    scale = norm = np.ones(2, np.float32)
    levels = [bounds(terms, quantile(c), sums, rounding, scale, norm, None) for c in (0.51, 0.6, 0.9, 0.995, 1)]
    for lower, higher in itertools.pairwise(levels):
        assert (lower < higher).all()
    assert np.isposinf(levels[-1]).all()


# ---- search


def by_rank_score(backend, queries, rows, k, confidence):
    """Keep the k best rank scores and order them by score: slow and obvious, from the docstring of sign_bound.py."""
    spec = backend.spec
    scores = backend.scores(queries, rows)
    sign = np.float32(1 if spec.metric != "l2" else -1)
    rank_scores = sign * scores
    if confidence < 1:
        c, rounding = sign_query(queries.code_query)
        stored = split(spec, rows)
        sign_bits = stored.signs.transpose(0, 2, 1).reshape(-1, spec.sign_bytes)[: rows.rows]
        signs = 2 * np.unpackbits(sign_bits, axis=1, count=spec.dim, bitorder="little").astype(np.int64) - 1
        sums = (c.astype(np.int64) @ signs.T).astype(np.float32)
        terms, z = SignBoundTerms.of(spec.dim), quantile(confidence)
        bound = bounds(terms, z, sums, rounding, queries.code_scale, queries.norm, rows.norm)
        if spec.metric == "l2":
            bound = l2_from_ip(bound, rows.norm, queries.norm)
        rank_scores = np.minimum(rank_scores, sign * bound)
    best = []
    for ranks, values in zip((-rank_scores).tolist(), (-sign * scores).tolist(), strict=True):
        selected = sorted(range(rows.rows), key=lambda row, ranks=ranks: (ranks[row], row))[:k]
        best.append(sorted(selected, key=lambda row, values=values: (values[row], row)))
    best = np.array(best)
    return np.take_along_axis(scores, best, axis=1), best, np.take_along_axis(rank_scores, best, axis=1)


@every_metric
@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("confidence", [1.0, 0.995, 0.6, 0.51])
def test_search_returns_the_best_rank_scores_by_score(name, confidence, metric):
    for codec, bits in (("turboquant-prod", 1), ("turboquant-prod", 4), ("turboquant-mse", 2)):
        backend = make_backend(Codec(IndexSpec(24, bits, metric, codec=codec)), name)
        x = vectors(500)[np.random.default_rng(0).integers(0, 300, 500)]
        rows, queries = backend.encode(x), backend.prepare(vectors(20, seed=1))
        want = by_rank_score(backend, queries, rows, 10, confidence)
        found = top_k(backend, queries, [split(backend.spec, rows)], 10, confidence)
        for got, expected in zip(found, want, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_a_low_confidence_does_change_results():
    index = built(vectors(2000, 64))
    q = vectors(50, 64, seed=1)
    full, low = index.search(q, 10, confidence=1), index.search(q, 10, confidence=0.6)
    assert (full.ids != low.ids).any()
    assert (low.scores <= full.scores).all(), "a worse row replaces each missed one"


@pytest.mark.parametrize(
    "kwargs", [{"codec": "trellis", "bits": 1}, {"codec": "qjl"}, {"sketch": "orthogonal"}, {"sketch": "gaussian"}]
)
def test_codes_without_sign_bits_score_every_row(kwargs):
    index, q = built(vectors(300), **kwargs), vectors(5, seed=1)
    want = index.search(q, 10, confidence=1)
    for confidence in (None, 0.51):
        for one, other in zip(index.search(q, 10, confidence=confidence), want, strict=True):
            np.testing.assert_array_equal(one, other)


def test_vectors_of_more_than_max_dim_score_every_row():
    spec = IndexSpec(MAX_DIM + 1, 1)
    index, q = VQIndex(spec.dim, 1), vectors(2, spec.dim, seed=1)
    index.add(vectors(100, spec.dim))
    assert not make_backend(Codec(spec)).has_sign_bound
    assert make_backend(Codec(IndexSpec(MAX_DIM, 1))).has_sign_bound
    for one, other in zip(index.search(q, 5, confidence=0.51), index.search(q, 5, confidence=1), strict=True):
        np.testing.assert_array_equal(one, other)


@every_metric
def test_the_default_is_a_confidence_of_995_thousandths(metric):
    index, q = built(vectors(3000, 64), metric), vectors(20, 64, seed=1)
    for one, other in zip(index.search(q), index.search(q, confidence=0.995), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def sample():
    """Return rows, queries and true neighbors of the shipped sample of GloVe."""
    data = vqindex_datasets.load_annbench(vqindex_datasets.sample_path())
    with vqindex_datasets.open_vectors(vqindex_datasets.sample_path(), "train") as source:
        return source.read(), data.test, data.neighbors


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_default_confidence_keeps_recall_on_real_vectors(sample, bits):
    x, q, neighbors = sample
    index = built(x, "cosine", bits=bits)
    full, default = index.search(q, 10, confidence=1), index.search(q, 10)
    # 10,000 places, each missed with probability at most 0.005: four standard deviations.
    assert recall_at_k(default.ids, full.ids, 10) >= 0.995 - 4 * math.sqrt(0.005 * 0.995 / 10_000)
    assert recall_at_k(default.ids, neighbors, 10) > recall_at_k(full.ids, neighbors, 10) - 0.001


# ---- arguments


@pytest.mark.parametrize("threads", [0, -1, True, 1.0, "2", [1], np.float32(2)])
def test_bad_threads_are_refused_with_their_value(threads):
    with pytest.raises(
        InvalidInputError, match=r"^threads is .*; expected an integer of at least 1, or None$"
    ) as raised:
        built(vectors(3)).search(vectors(1), 1, threads=threads)
    assert repr(threads) in str(raised.value)


@pytest.mark.parametrize("confidence", [0.5, 0, -1, 1.0001, 2, True, math.nan, math.inf, "0.9", [0.9], 1j])
def test_bad_confidence_is_refused_with_its_value(confidence):
    words = r"^confidence is .*; expected a number above 0\.5 and at most 1$"
    with pytest.raises(InvalidInputError, match=words) as raised:
        built(vectors(3)).search(vectors(1), 1, confidence=confidence)
    assert repr(confidence) in str(raised.value)


def test_arguments_are_checked_for_every_code():
    index = built(vectors(3), codec="trellis")
    with pytest.raises(InvalidInputError, match="threads is 0"):
        index.search(vectors(1), 1, threads=0)
    with pytest.raises(InvalidInputError, match="confidence is 0"):
        index.search(vectors(1), 1, confidence=0)


@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis", "qjl"])
def test_good_arguments_give_the_results_of_the_defaults(codec):
    index, q = built(vectors(100), codec=codec), vectors(4, seed=1)
    want = index.search(q, 5)
    for kwargs in (
        {"threads": None},
        {"threads": 1},
        {"threads": 1000},
        {"threads": np.int64(2)},
        {"confidence": None},
        {"confidence": 0.995},
    ):
        for one, other in zip(index.search(q, 5, **kwargs), want, strict=True):
            np.testing.assert_array_equal(one, other)
    for confidence in (1, np.float64(0.7), np.float32(0.7)):
        expected = index.search(q, 5, confidence=float(confidence))
        for one, other in zip(index.search(q, 5, confidence=confidence), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    found = index.search(q, 5, confidence=math.nextafter(0.5, 1))
    for i in range(4):
        np.testing.assert_array_equal(index.estimate(q, found.ids[i])[i], found.scores[i])
