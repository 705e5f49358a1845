"""The compiled scan of records against the reference's scan of split rows, bit for bit, on every instruction set."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from backend_search import range_hits, top_k
from scans import CODES, backends, every_isa, in_records, make_rows, stored_segments

from vqindex._native import Scanner, supported_isas
from vqindex.codes.bitplanes import join
from vqindex.spec import METRICS, IndexSpec

DIMS = (1, 8, 17, 31, 64, 65, 100, 129, 257)
KINDS = ("plain", "ties", "zeros", "mixed")
SIGN_BOUNDS = (1.0, 0.995, 0.6)


class Rows(NamedTuple):
    """Prepared queries, and the same rows in both layouts."""

    queries: object
    split: list
    records: list


def made(spec, n, nq, kind="plain", cuts=()):
    """Return rows and queries of a kind."""
    encoder = backends(spec)[1][supported_isas()[-1]]
    rows = encoder.encode(make_rows(kind, n, spec.dim, 1))
    split = stored_segments(spec, rows, cuts)
    queries = encoder.prepare(make_rows(kind, nq, spec.dim, 2))
    return Rows(queries, split, [in_records(spec, join(spec, segment)) for segment in split])


def words(rng, rows, nq, segments, share):
    """Return random words of selected rows for each segment; some serve all queries."""
    shape = (nq, rows) if rng.random() < 0.5 else (rows,)
    bits = rng.random(shape) < share
    edges = np.cumsum([0, *(segment.rows for segment in segments)]).tolist()
    out = []
    for start, stop in itertools.pairwise(edges):
        packed = np.packbits(bits[..., start:stop], axis=-1, bitorder="little")
        whole = np.zeros((*packed.shape[:-1], -(-packed.shape[-1] // 8) * 8), np.uint8)
        whole[..., : packed.shape[-1]] = packed
        out.append(whole.view(np.uint64))
    return out


def assert_same(got, want, about):
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, err_msg=about)
    at = 0 if got[0].dtype == np.float32 else 1  # the scores of the k best, or of all hits
    np.testing.assert_array_equal(np.signbit(got[at]), np.signbit(want[at]), err_msg=f"signs of zeros of {about}")


@pytest.mark.parametrize(("codec", "bits"), [code for code in CODES if code[1] < 7])
def test_search_of_records_equals_the_reference(codec, bits):
    rng = np.random.default_rng(bits)
    for dim in DIMS:
        spec = IndexSpec(dim, bits, METRICS[rng.integers(3)], codec=codec)
        reference, compiled = backends(spec)
        n = int(rng.choice((1, 63, 64, 65, 129, 300, 1000)))
        cuts = tuple(np.flatnonzero(rng.random(n // 64 + 1) < 0.3).tolist())
        nq, kind = int(rng.choice((1, 2, 3, 40))), str(rng.choice(KINDS))
        rows = made(spec, n, nq, kind, cuts)
        for confidence, share in zip(SIGN_BOUNDS, (1, 0.5, 0.03), strict=True):
            selected = None if share == 1 else words(rng, n, nq, rows.split, share)
            k, threads = int(rng.choice((1, 10, n + 1))), int(rng.choice((1, 3)))
            about = f"{spec} {kind} n {n} nq {nq} cuts {cuts} confidence {confidence} share {share} k {k}"
            want = top_k(reference, rows.queries, rows.split, k, confidence, words=selected)
            assert_same(top_k(reference, rows.queries, rows.records, k, confidence, words=selected), want, about)
            for isa, backend in compiled.items():
                got = top_k(backend, rows.queries, rows.records, k, confidence, threads, selected)
                assert_same(got, want, f"{isa} {about}")


@every_isa
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("codec", "bits"), [("turboquant-prod", 4), ("turboquant-mse", 8), ("trellis", 2)])
def test_extreme_rows_in_records_give_the_results_of_the_reference(isa, codec, bits, metric):
    for kind, nq in itertools.product(("huge", "tiny", "mixed"), (1, 5)):
        spec = IndexSpec(65, bits, metric, codec=codec)
        reference, compiled = backends(spec)
        rows = made(spec, 257, nq, kind)
        for confidence in SIGN_BOUNDS:
            want = top_k(reference, rows.queries, rows.split, 10, confidence)
            got = top_k(compiled[isa], rows.queries, rows.records, 10, confidence, 1)
            assert_same(got, want, f"{kind} {nq} {confidence}")


LARGE = [
    *((IndexSpec(64, 4, metric), nq) for metric in METRICS for nq in (1, 70)),
    (IndexSpec(300, 1, "l2"), 20),
    (IndexSpec(100, 2, "cosine", codec="trellis"), 1),
    (IndexSpec(100, 3, "l2", codec="trellis"), 20),
    (IndexSpec(64, 1, "ip", codec="trellis"), 3),
    (IndexSpec(100, 5, "ip", codec="turboquant-mse"), 20),
]


@pytest.mark.parametrize("at", range(len(LARGE)))
def test_many_records_give_the_results_of_split_rows(at):
    spec, nq = LARGE[at]
    isa = supported_isas()[-1]
    backend = backends(spec)[1][isa]
    rows = made(spec, 20_000, nq, "ties", (1, 40, 200))
    for k, confidence, threads in ((10, 0.995, 3), (100, 0.6, 1), (1, 1.0, 2)):
        want = top_k(backend, rows.queries, rows.split, k, confidence, threads)
        assert_same(top_k(backend, rows.queries, rows.records, k, confidence, threads), want, f"{k} {confidence}")


@every_isa
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("codec", "bits"), [("turboquant-prod", 4), ("trellis", 1), ("trellis", 4)])
def test_range_search_of_records_equals_the_reference(isa, codec, bits, metric):
    for nq, confidence in itertools.product((1, 4), SIGN_BOUNDS):
        spec = IndexSpec(33, bits, metric, codec=codec)
        reference, compiled = backends(spec)
        rows = made(spec, 400, nq, "ties", (2,))
        thresholds = np.median(reference.scores(rows.queries, join(spec, rows.split[0])), axis=1).astype(np.float32)
        want = range_hits(reference, rows.queries, rows.split, thresholds, confidence)
        assert want.lims[-1] > 20
        got = range_hits(compiled[isa], rows.queries, rows.records, thresholds, confidence, 2)
        assert_same(got, want, f"{nq} {confidence}")


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize(("codec", "bits"), [("turboquant-prod", 4), ("trellis", 2)])
def test_segments_of_both_layouts_are_searched_together(codec, bits, metric):
    rng = np.random.default_rng(0)
    spec = IndexSpec(20, bits, metric, codec=codec)
    reference, compiled = backends(spec)
    backend = compiled[supported_isas()[-1]]
    rows = made(spec, 500, 6, "ties", (1, 3, 4))
    thresholds = np.median(reference.scores(rows.queries, join(spec, rows.split[0])), axis=1).astype(np.float32)
    for layouts in itertools.product((True, False), repeat=4):
        mixed = [pair[layout] for pair, layout in zip(zip(rows.split, rows.records, strict=True), layouts, strict=True)]
        for confidence, selected in ((1.0, None), (0.6, words(rng, 500, 6, mixed, 0.4))):
            for k in (1, 10, 501):
                want = top_k(reference, rows.queries, rows.split, k, confidence, words=selected)
                assert_same(top_k(backend, rows.queries, mixed, k, confidence, 1, selected), want, str(layouts))
            want = range_hits(reference, rows.queries, rows.split, thresholds, confidence, words=selected)
            got = range_hits(backend, rows.queries, mixed, thresholds, confidence, 1, selected)
            assert_same(got, want, str(layouts))


# ---- the steps


@every_isa
def test_whole_scalar_codes_are_decoded_at_every_row_length(isa):
    """Rows end inside 32 bytes, at them, and past them; the bytes after a row are not its own."""
    for bits, dim in itertools.product((1, 2, 3, 4, 5, 8), (*range(1, 20), 63, 64, 65, 127, 128, 129, 200)):
        rng = np.random.default_rng(dim)
        levels = rng.integers(-127, 128, 2**bits).astype(np.int16)
        scanner = Scanner(dim, bits, bits, 0, levels, "cosine", isa)
        fields = rng.integers(0, 2**bits, (3, dim))
        codes = np.packbits(fields[..., None] >> np.arange(bits) & 1, axis=-1, bitorder="little")
        stream = (fields[..., None] >> np.arange(bits) & 1).reshape(3, -1).astype(np.uint8)
        codes = np.packbits(stream, axis=1, bitorder="little")
        got = scanner.decode(codes, None)
        np.testing.assert_array_equal(got[:, :dim], levels[fields])
        assert not got[:, dim:].any()
        query = rng.integers(-32767, 32768, (1, dim)).astype(np.int16)
        one = np.ones(1, np.float32)
        apart = np.full((3, codes.shape[1] + 5), 0xFF, np.uint8)
        apart[:, : codes.shape[1]] = codes
        segment = (None, apart[:, : codes.shape[1]], np.ones(6, np.float32)[::2], None)
        scores, rows, _, _ = scanner.search([segment], query, one, one, 3, None, 1)
        sums = (levels[fields].astype(np.int64) * query.astype(np.int64)).sum(axis=1)
        np.testing.assert_array_equal(scores[0], np.sort(sums.astype(np.float32))[::-1])
        np.testing.assert_array_equal(rows[0], np.argsort(-sums, kind="stable"))


def test_rows_that_do_not_lie_in_order_are_refused():
    spec = IndexSpec(16, 4, "l2")
    rows = made(spec, 70, 1)
    backend = backends(spec)[1][supported_isas()[-1]]
    signs, codes, rescale, norm, _ = right = rows.records[0]
    queries = rows.queries
    args = queries.code_query, queries.code_scale, queries.norm, 3

    def search(segment, bound=None):
        return backend._decoder.search([segment], *args, bound, 1)

    want = search(right)
    bound = (*backend._sign_bound_terms, 2.0)
    search(right, bound)
    for wrong in (
        (signs, codes[::-1], rescale, norm),
        (signs, codes[:, ::2], rescale, norm),
        (signs, codes[:, :-1], rescale, norm),
        (signs, codes[:69], rescale, norm),
        (signs, codes, rescale[::-1], norm),
        (signs, codes, rescale[1:], norm),
        (signs, codes, rescale, norm[::-1]),
        (signs, codes, rescale, norm[1:]),
    ):
        with pytest.raises(ValueError, match="expected"):
            search(wrong)
    for wrong in (
        (signs, codes, rescale.astype(np.float64), norm),
        (signs, codes.astype(np.int8), rescale, norm),
        (signs, codes, rescale, None),
    ):
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            search(wrong)
    for wrong in (None, signs[:1], signs[:, :1], signs.astype(np.int8)):
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            search((wrong, *right[1:]), bound)
    assert_same(search((None, *right[1:])), want, "no sign bits are needed without a bound")
