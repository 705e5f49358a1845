"""Range searches: all rows better than a threshold, on every backend, bit for bit."""

import itertools

import numpy as np
import pytest
from backend_search import range_hits
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import CODES, backends, make_rows, stored_segments

from vqindex._native import supported_isas
from vqindex.backends.registry import make_backend
from vqindex.codes.bitplanes import join
from vqindex.codes.codec import Codec
from vqindex.rows.bitmap import words_of
from vqindex.spec import METRICS, IndexSpec


def all_scores(backend, queries, segments):
    none = [np.empty((len(queries.code_query), 0), np.float32)]
    return np.concatenate(none + [backend.scores(queries, join(backend.spec, segment)) for segment in segments], axis=1)


def oracle(backend, queries, segments, thresholds, bits):
    """Compare all scores one by one."""
    sign = 1 if backend.spec.metric == "l2" else -1
    scores = all_scores(backend, queries, segments)
    lims, found = [0], []
    for q, line in enumerate(scores):
        hits = [(sign * s, r) for r, s in enumerate(line) if sign * s < sign * thresholds[q] and bits[q, r]]
        found += sorted(hits)
        lims.append(len(found))
    return lims, [np.float32(sign * signed) for signed, _ in found], [row for _, row in found]


def some_thresholds(backend, queries, segments, rng):
    """Return scores that occur, where a strict comparison matters, and some infinities."""
    scores = all_scores(backend, queries, segments)
    out = np.array([rng.choice(line) if line.size else 0.5 for line in scores], np.float32)
    out[rng.random(len(out)) < 0.1] = np.inf
    out[rng.random(len(out)) < 0.1] = -np.inf
    return out


def check(spec, kind, n, nq, confidence, threads, cuts, seed=0):
    reference, compiled = backends(spec)
    rng = np.random.default_rng(seed)
    encoder = compiled[supported_isas()[-1]]
    rows, queries = encoder.encode(make_rows(kind, n, spec.dim, 1)), encoder.prepare(make_rows(kind, nq, spec.dim, 2))
    segments = stored_segments(spec, rows, cuts)
    thresholds = some_thresholds(reference, queries, segments, rng)
    bits = rng.random((nq, n)) < rng.choice([0.02, 0.5, 1])
    edges = np.cumsum([0, *(segment.rows for segment in segments)])
    selection = [words_of(bits[:, a:b]) for a, b in itertools.pairwise(edges)]
    want = range_hits(reference, queries, segments, thresholds, confidence, threads, selection)
    assert want[0].dtype == want[2].dtype == np.int64
    assert want[1].dtype == np.float32
    if confidence == 1:
        for one, other in zip(want, oracle(reference, queries, segments, thresholds, bits), strict=True):
            assert one.tolist() == list(other)
    for isa, backend in compiled.items():
        got = range_hits(backend, queries, segments, thresholds, confidence, threads, selection)
        for one, other in zip(got, want, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(
                one, other, err_msg=f"{isa} {spec} {kind} {n} {nq} {confidence} {cuts} {seed}"
            )


@pytest.mark.parametrize(("dim", "nq"), [(64, 1), (64, 5), (300, 2), (300, 9)])
@pytest.mark.parametrize("metric", METRICS)
def test_range_search_equals_the_reference_at_block_edges(metric, dim, nq):
    for i, n in enumerate((0, 1, 63, 64, 65, 127, 128, 129, 257, 600)):
        check(IndexSpec(dim, 2, metric), "ties", n, nq, (1.0, 0.995, 0.6)[(i + dim) % 3], 2, (1, 3), seed=n)


@pytest.mark.parametrize(("metric", "dim", "nq"), [("cosine", 64, 1), ("l2", 64, 9), ("l2", 300, 1), ("ip", 300, 9)])
def test_range_search_of_many_rows_equals_the_reference(metric, dim, nq):
    for seed in range(3):
        check(IndexSpec(dim, 2, metric), "plain", 9_000, nq, 0.9, 3, (40,), seed)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_range_search_of_any_shape_equals_the_reference(data):
    codec, bits = data.draw(st.sampled_from([code for code in CODES if code[1] < 7]), "code")
    dim = data.draw(st.sampled_from((1, 3, 24, 64, 65, 257, 300)), "dim")
    check(
        IndexSpec(dim, bits, data.draw(st.sampled_from(METRICS), "metric"), codec=codec),
        data.draw(st.sampled_from(("plain", "ties", "zeros", "huge", "mixed")), "kind"),
        data.draw(st.integers(0, 400), "rows"),
        data.draw(st.integers(0, 9), "queries"),
        data.draw(st.sampled_from((1.0, 0.995, 0.6)), "confidence"),
        data.draw(st.integers(1, 5), "threads"),
        tuple(data.draw(st.lists(st.integers(0, 6), max_size=3), "cuts")),
        data.draw(st.integers(0, 9), "seed"),
    )


def test_codes_that_numpy_scans_give_the_results_of_the_reference():
    spec = IndexSpec(24, 3, "l2", codec="turboquant-prod", sketch="orthogonal")
    backend = make_backend(Codec(spec), "native")
    rows, queries = backend.encode(make_rows("ties", 200, 24, 1)), backend.prepare(make_rows("ties", 3, 24, 2))
    segments = stored_segments(spec, rows, (1,))
    thresholds = some_thresholds(backend, queries, segments, np.random.default_rng(0))
    want = oracle(backend, queries, segments, thresholds, np.ones((3, 200), bool))
    for one, other in zip(range_hits(backend, queries, segments, thresholds), want, strict=True):
        assert one.tolist() == list(other)


def test_a_range_search_without_queries_or_rows_finds_nothing():
    spec = IndexSpec(20, 4, "l2")
    reference, compiled = backends(spec)
    queries = reference.prepare(np.ones((2, 20), np.float32))
    for backend in (reference, *compiled.values()):
        lims, scores, rows = range_hits(backend, queries, [], np.full(2, np.inf, np.float32))
        assert (lims.tolist(), scores.size, rows.size) == ([0, 0, 0], 0, 0)
        lims, scores, rows = range_hits(backend, queries.select(slice(0)), [], np.empty(0, np.float32))
        assert (lims.tolist(), scores.size, rows.size) == ([0], 0, 0)


def test_a_wrong_number_of_thresholds_is_refused():
    spec = IndexSpec(20, 4, "l2")
    reference, compiled = backends(spec)
    queries = reference.prepare(np.ones((2, 20), np.float32))
    with pytest.raises(ValueError, match="a threshold for each query"):
        compiled["scalar"]._scanner.range_search(
            [], queries.code_query, queries.code_scale, queries.norm, np.zeros(3, np.float32), None, 1
        )
