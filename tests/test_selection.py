"""A search of selected rows equals a search of an index that holds no others, on every backend, bit for bit."""

import itertools

import numpy as np
import pytest
from backend_search import range_hits, top_k
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import CODES, backends, make_rows, stored_segments

from vqindex._native import supported_isas
from vqindex.backends.registry import make_backend
from vqindex.codes.codec import Codec
from vqindex.rows.bitmap import bits_of, count, full, of_rows, rows_of, words_of
from vqindex.rows.request import SearchRequest, Selection
from vqindex.rows.segment import Segment
from vqindex.spec import METRICS, IndexSpec

SIZES = (0, 1, 63, 64, 65, 127, 128, 129, 257, 1000)
# Shares of the rows that are selected, at random or in whole blocks of 64.
SHARES = (0.0, 0.01, 0.1, 0.5, 0.97, 1.0)


def random_mask(rng, n, share, nq=None):
    """Return bits (n,), or (nq, n) for one filter for each query; some select whole blocks of 64 rows."""
    shape = (n,) if nq is None else (nq, n)
    bits = rng.random(shape) < share
    if rng.random() < 0.3:
        bits = np.repeat(rng.random((*shape[:-1], n // 64 + 1)) < share, 64, axis=-1)[..., :n]
    return bits


def split_words(bits, segments, rng, junk=True):
    """Return words for each segment; bits past the last row are random, because they are ignored."""
    out, start = [], 0
    for segment in segments:
        words = words_of(bits[..., start : start + segment.rows])
        if junk and segment.rows % 64:
            words[..., -1] |= np.uint64(rng.integers(2**63)) << np.uint64(segment.rows % 64)
        out.append(words)
        start += segment.rows
    return out


def search_selected_rows(reference, spec, rows, queries, bits, k, confidence):
    """Search an index of the selected rows alone, query by query if each query has its own filter."""
    nq = len(queries.code_query)
    scores, found, rank_scores = (
        np.empty((nq, k), np.float32),
        np.empty((nq, k), np.int64),
        np.empty((nq, k), np.float32),
    )
    for q in range(nq) if bits.ndim == 2 else [slice(None)]:
        selected = np.flatnonzero(bits[q] if bits.ndim == 2 else bits)
        few = stored_segments(spec, rows.select(selected), ())
        one = queries.select(slice(q, q + 1) if bits.ndim == 2 else q)
        scores[q], at, rank_scores[q] = top_k(reference, one, few, k, confidence)
        found[q] = np.where(at >= 0, np.append(selected, -1)[at], -1)
    return scores, found, rank_scores


def check(spec, kind, n, nq, k, confidence, threads, cuts, share, each, seed=0):
    """Compare the reference and every instruction set with the search of an index of the selected rows."""
    reference, compiled = backends(spec)
    rng = np.random.default_rng(seed)
    encoder = compiled[supported_isas()[-1]]
    rows, queries = encoder.encode(make_rows(kind, n, spec.dim, 1)), encoder.prepare(make_rows(kind, nq, spec.dim, 2))
    segments = stored_segments(spec, rows, cuts)
    bits = random_mask(rng, n, share, nq if each else None)
    selection = split_words(bits, segments, rng)
    want = search_selected_rows(reference, spec, rows, queries, bits, k, confidence)
    case = f"{spec} {kind} n={n} nq={nq} k={k} confidence={confidence} cuts={cuts} share={share} each={each}"
    for backend in (reference, *compiled.values()):
        got = top_k(backend, queries, segments, k, confidence, threads, selection)
        for one, other in zip(got, want, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, err_msg=f"{backend.name} {case}")


# One query or many, short vectors or long: the ways through the rows (native/scan_*.hpp).
@pytest.mark.parametrize(("dim", "nq"), [(64, 1), (64, 5), (300, 2), (300, 20)])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_search_returns_only_selected_rows_at_block_edges(metric, each, dim, nq):
    for i, n in enumerate(SIZES):
        share, confidence = SHARES[(i + nq) % 6], (1.0, 0.995, 0.6)[(i + dim) % 3]
        check(IndexSpec(dim, 2, metric), "ties", n, nq, 10, confidence, 2, (1, 3), share, each, seed=n)


@pytest.mark.parametrize(("codec", "bits"), [("trellis", 2), ("turboquant-mse", 6), ("turboquant-prod", 1)])
def test_search_returns_only_selected_rows_with_other_codecs(codec, bits):
    for dim, nq, share, each in itertools.product((65, 257), (2, 9), SHARES[::2], (False, True)):
        check(IndexSpec(dim, bits, "l2", codec=codec), "mixed", 700, nq, 40, 0.9, 1, (2,), share, each)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(
    ("metric", "dim", "nq"), [("cosine", 64, 1), ("l2", 64, 20), ("l2", 300, 1), ("cosine", 300, 9)]
)
def test_search_of_many_rows_returns_only_selected_ones(metric, dim, nq, each):
    """Enough rows for a seed threshold, for several threads, and for more gathered rows than fit in the buffer."""
    for share in (0.001, 0.02, 0.3, 0.99):
        check(IndexSpec(dim, 2, metric), "plain", 12_000, nq, 10, 0.9, 3, (40,), share, each)


def test_rows_gathered_in_several_rounds_give_the_same_results():
    """1,200 such long vectors do not fit in the buffer of gathered sign bits; 40 queries are enough to gather them."""
    check(IndexSpec(16384, 1, "cosine"), "plain", 3_000, 40, 5, 0.9, 1, (), 0.4, False)


@pytest.mark.parametrize("codec", [("turboquant-prod", "orthogonal"), ("qjl", None)])
def test_codes_that_numpy_scans_respect_the_selection(codec):
    spec = IndexSpec(24, 3, "l2", codec=codec[0], sketch=codec[1])
    backend, rng = make_backend(Codec(spec), "native"), np.random.default_rng(0)
    rows, queries = backend.encode(make_rows("ties", 300, 24, 1)), backend.prepare(make_rows("ties", 3, 24, 2))
    segments = stored_segments(spec, rows, (1,))
    for share, each in itertools.product(SHARES, (False, True)):
        bits = random_mask(rng, 300, share, 3 if each else None)
        want = search_selected_rows(backend, spec, rows, queries, bits, 10, 0.9)
        got = top_k(backend, queries, segments, 10, 0.9, 1, split_words(bits, segments, rng))
        np.testing.assert_array_equal(got[1], want[1])
        # The dense product of a Gaussian sketch may round by the number of rows, which differs here.
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5)


def test_blocks_without_a_selection_return_any_of_their_rows():
    """None selects all rows of its segment, also where other segments have a line of words for each query."""
    spec = IndexSpec(64, 3, "ip")
    reference, compiled = backends(spec)
    rows, queries = reference.encode(make_rows("ties", 200, 64, 1)), reference.prepare(make_rows("plain", 4, 64, 2))
    segments = stored_segments(spec, rows, (1, 2))
    rng = np.random.default_rng(0)
    each = words_of(rng.random((4, 64)) < 0.3)
    for selection in (
        [None, None, None],
        [None, each, None],
        [each[0], None, np.zeros(2, np.uint64)],
        [each, each[1], None],
    ):
        bits = np.concatenate(
            [
                np.ones((4, segment.rows), bool)
                if words is None
                else np.broadcast_to(bits_of(words, segment.rows), (4, segment.rows))
                for segment, words in zip(segments, selection, strict=True)
            ],
            axis=1,
        )
        want = search_selected_rows(reference, spec, rows, queries, bits, 30, 0.9)
        for backend in (reference, *compiled.values()):
            for one, other in zip(top_k(backend, queries, segments, 30, 0.9, 2, selection), want, strict=True):
                np.testing.assert_array_equal(one, other)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_search_of_any_shape_returns_only_selected_rows(data):
    codec, bits = data.draw(st.sampled_from([code for code in CODES if code[1] < 7]), "code")
    dim = data.draw(st.sampled_from((1, 3, 24, 64, 65, 257, 300)), "dim")
    check(
        IndexSpec(dim, bits, data.draw(st.sampled_from(METRICS), "metric"), codec=codec),
        data.draw(st.sampled_from(("plain", "ties", "zeros", "mixed")), "kind"),
        data.draw(st.integers(0, 600), "rows"),
        data.draw(st.integers(0, 9), "queries"),
        data.draw(st.integers(1, 700), "k"),
        data.draw(st.sampled_from((1.0, 0.995, 0.6)), "confidence"),
        data.draw(st.integers(1, 5), "threads"),
        tuple(data.draw(st.lists(st.integers(0, 9), max_size=3), "cuts")),
        data.draw(st.sampled_from(SHARES), "share"),
        data.draw(st.booleans(), "each"),
        data.draw(st.integers(0, 9), "seed"),
    )


def test_selection_words_of_wrong_shape_or_dtype_are_refused():
    spec = IndexSpec(10, 4, "ip")
    reference, compiled = backends(spec)
    rows, queries = reference.encode(make_rows("plain", 70, 10, 1)), reference.prepare(make_rows("plain", 3, 10, 2))
    segments = stored_segments(spec, rows, ())
    scanner = compiled[supported_isas()[-1]]._scanner

    def search(selection):
        return scanner.search(segments, queries.code_query, queries.code_scale, queries.norm, 3, None, 1, selection)

    search([np.zeros((1, 2), np.uint64)])
    for wrong in (np.zeros((2, 2), np.uint64), np.zeros((1, 1), np.uint64), np.zeros((3, 4), np.uint64)[:, ::2]):
        with pytest.raises(ValueError, match="expected uint64 words"):
            search([wrong])
    with pytest.raises(ValueError, match="for each segment"):
        search([])
    for wrong in (np.zeros((1, 2), np.int64), np.zeros(2, np.uint64), 3):
        with pytest.raises((RuntimeError, TypeError)):
            search([wrong])


# ---- the bits themselves


@pytest.mark.parametrize("n", [0, 1, 8, 63, 64, 65, 128, 200])
def test_bits_survive_packing_into_words(n):
    rng = np.random.default_rng(n)
    bits = rng.random((3, n)) < 0.5
    words = words_of(bits)
    assert words.shape == (3, -(-n // 64))
    assert words.dtype == np.uint64
    np.testing.assert_array_equal(bits_of(words, n), bits)
    assert count(words) == bits.sum()
    for line, row_bits in zip(words, bits, strict=True):
        np.testing.assert_array_equal(rows_of(line, n), np.flatnonzero(row_bits))
        np.testing.assert_array_equal(of_rows(np.flatnonzero(row_bits)[::-1], n), line)
        for r in range(n):
            assert bool(line[r // 64] >> np.uint64(r % 64) & np.uint64(1)) == row_bits[r], "bit r % 64 of word r // 64"
    np.testing.assert_array_equal(full(n), words_of(np.ones(n, bool)))


def test_counting_bits_without_bitwise_count_gives_the_same_count(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**63, 9).astype(np.uint64)
    want = count(words)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert count(words) == want


@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
@pytest.mark.parametrize("confidence", [0.9, 1.0])
def test_results_do_not_depend_on_how_threads_share_filtered_queries(codec, confidence):
    """With so many queries each thread gets some of them; spare threads share the rows."""
    spec, nq, n = IndexSpec(64, 2, "l2", codec=codec), 300, 9000
    rng = np.random.default_rng(3)
    backend = make_backend(Codec(spec), "native")
    rows, queries = backend.encode(make_rows("ties", n, 64, 1)), backend.prepare(make_rows("plain", nq, 64, 2))
    for bits in (None, rng.random(n) < 0.5, rng.random((nq, n)) < 0.5):
        first = ()
        for cuts, threads in itertools.product(((), (7, 40)), (1, 2, 3, 5, 8)):
            segments = stored_segments(spec, rows, cuts)
            selection = None if bits is None else split_words(bits, segments, rng)
            found = top_k(backend, queries, segments, 20, confidence, threads, selection)
            thresholds = (first or found)[0][:, 5]
            got = (*found, *range_hits(backend, queries, segments, thresholds, confidence, threads, selection))
            first = first or got
            for one, other in zip(got, first, strict=True):
                np.testing.assert_array_equal(one, other, err_msg=f"{cuts} {threads}")


@pytest.mark.parametrize("selected", ["all", "one for all queries", "one for each"])
def test_removed_rows_of_segments_are_never_returned(selected):
    """Also where a caller passes segments as a store reads them, without a selection of its own."""
    spec = IndexSpec(64, 3, "l2")
    reference, compiled = backends(spec)
    rng = np.random.default_rng(0)
    rows, queries = reference.encode(make_rows("ties", 200, 64, 1)), reference.prepare(make_rows("plain", 4, 64, 2))
    stored = stored_segments(spec, rows, (1, 2))
    removed = [np.array([0, 5, 63]), None, np.arange(70)]
    segments = [Segment(part, removed=gone) for part, gone in zip(stored, removed, strict=True)]
    live = np.ones(200, bool)
    live[[0, 5, 63]] = live[128:198] = False
    bits = {"all": None, "one for all queries": rng.random(200) < 0.5, "one for each": rng.random((4, 200)) < 0.5}[
        selected
    ]
    words = None if bits is None else [words_of(bits[..., a:b]) for a, b in ((0, 64), (64, 128), (128, 200))]
    want_bits = live if bits is None else bits & live
    plain_words = [words_of(want_bits[..., a:b]) for a, b in ((0, 64), (64, 128), (128, 200))]
    selection = None if words is None else Selection(tuple(words))
    for backend in (reference, *compiled.values()):
        want = top_k(backend, queries, stored, 60, words=plain_words)
        got = backend.search(SearchRequest(queries, k=60, selection=selection), segments)
        for one, other in zip((got.scores, got.rows, got.rank_scores), want, strict=True):
            np.testing.assert_array_equal(one, other)
        thresholds = np.ascontiguousarray(want[0][:, 7])
        want = range_hits(backend, queries, stored, thresholds, words=plain_words)
        got = backend.range_search(SearchRequest(queries, thresholds=thresholds, selection=selection), segments)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_array_equal(one, other)
