"""The compiled scan against NumPy, bit for bit, on every instruction set."""

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from backend_search import top_k
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import CODES, backends, every_isa, make_rows, native_backend, stored_segments

from vqindex import BackendError
from vqindex._native import Scanner, supported_isas
from vqindex.backends.cpu import NativeBackend
from vqindex.codes.bitplanes import split
from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded
from vqindex.codes.packing import pack
from vqindex.spec import METRICS, IndexSpec

# Dimensions at the edges of 64 coordinates, units of 24, bytes of 8, and where the scan changes its loops.
DIMS = (1, 3, 8, 17, 24, 25, 48, 63, 64, 65, 100, 129, 256, 257, 300, 385)
# Where blocks of 64 rows, dot tiles of 128 and groups of 256 end.
ROWS = (0, 1, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000)
QUERIES = (1, 2, 3, 5, 70)
WIDE_DIMS = (3, 65, 257)  # codebooks of 7 and 8 bits take long to compute: few dimensions
KINDS = ("plain", "ties", "zeros", "huge", "tiny", "mixed")


class Case(NamedTuple):
    """A search, described by a few parameters."""

    spec: IndexSpec
    kind: str
    n: int
    nq: int
    k: int
    confidence: float
    threads: int
    cuts: tuple[int, ...]


@cache
def expected(case):
    """Return queries, segments, and what the reference finds."""
    reference, compiled = backends(case.spec)
    encoder = compiled[supported_isas()[-1]]  # test_native_encode.py compares it with the reference
    rows = encoder.encode(make_rows(case.kind, case.n, case.spec.dim, 1))
    queries = encoder.prepare(make_rows(case.kind, case.nq, case.spec.dim, 2))
    segments = stored_segments(case.spec, rows, case.cuts)
    return queries, segments, top_k(reference, queries, segments, case.k, case.confidence)


def assert_same_search(isa, case):
    queries, segments, want = expected(case)
    got = top_k(backends(case.spec)[1][isa], queries, segments, case.k, case.confidence, case.threads)
    for name, one, other in zip(("scores", "rows", "rank scores"), got, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, err_msg=f"{name} of {case}")
        if name == "scores":
            np.testing.assert_array_equal(np.signbit(one), np.signbit(other), err_msg=f"signs of zeros of {case}")


def some_cases():
    """Yield every code in every dimension; the other parameters are random."""
    rng = np.random.default_rng(5)

    def one(choices):
        return choices[rng.integers(len(choices))]

    for (codec, bits), dim in itertools.product(CODES, DIMS):
        if bits >= 7 and dim not in WIDE_DIMS:
            continue
        spec = IndexSpec(dim, bits, one(METRICS), codec=codec)
        n = int(one(ROWS))
        cuts = tuple(np.flatnonzero(rng.random(n // 64 + 1) < one((0, 0.5))).tolist())
        confidence = one((1.0, 0.995, 0.6))
        yield Case(spec, one(KINDS), n, one(QUERIES), one((1, 10, 100, n + 1)), confidence, one((1, 2, 3, 8)), cuts)


CASES = list(some_cases())


@every_isa
@pytest.mark.parametrize("eighth", range(8))
def test_search_of_every_code_and_dimension_equals_the_reference(isa, eighth):
    for case in CASES[eighth::8]:
        assert_same_search(isa, case)


@every_isa
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [64, 300])
def test_every_number_of_rows_and_queries_gives_the_results_of_the_reference(isa, metric, dim):
    for n, nq in itertools.product(ROWS, QUERIES[:4]):
        for confidence in (0.995, 0.6):
            assert_same_search(isa, Case(IndexSpec(dim, 2, metric), "ties", n, nq, 10, confidence, 2, (1, 3)))


@every_isa
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_extreme_rows_give_the_results_of_the_reference(isa, metric, kind):
    for codec, bits in (
        ("turboquant-prod", 1),
        ("turboquant-prod", 4),
        ("turboquant-mse", 6),
        ("trellis", 1),
        ("trellis", 2),
    ):
        for dim, nq in ((65, 2), (65, 5), (257, 3)):
            spec = IndexSpec(dim, bits, metric, codec=codec)
            for k, confidence in ((10, 1.0), (10, 0.6), (300, 0.995)):
                assert_same_search(isa, Case(spec, kind, 257, nq, k, confidence, 1, ()))


@every_isa
@pytest.mark.parametrize(
    ("dim", "metric", "kind", "n", "nq", "k", "confidence"),
    [
        (24, "cosine", "plain", 2500, 1100, 10, 0.995),  # more queries than one chunk, several row ranges
        (800, "l2", "plain", 4500, 20, 10, 0.995),  # more than one call of sign_tile_u8u16 for the coordinates
        (1600, "cosine", "plain", 700, 70, 3, 0.9),  # more look-up tables than fit in the cache
        (40, "ip", "plain", 3000, 45, 2500, 0.995),  # more candidates of a query group than fit in its buffer
        (16, "cosine", "plain", 40000, 1, 10, 0.9),  # one query, more than one row range
        (257, "l2", "plain", 16000, 1, 10, 0.9),
        (1600, "cosine", "plain", 7000, 1, 10, 0.995),  # one query, whose first row ranges are scanned last
        # Equal rank scores, and row ranges that are scanned after later ones.
        (64, "l2", "ties", 40000, 20, 10, 0.6),
        (24, "cosine", "ties", 40000, 5, 40, 0.6),
        (24, "l2", "zeros", 40000, 20, 10, 0.995),
        (24, "ip", "zeros", 40000, 5, 10, 0.6),
        (64, "l2", "ties", 40000, 1, 10, 0.6),
        (1600, "l2", "zeros", 7000, 1, 10, 0.6),
    ],
)
def test_several_query_groups_and_row_ranges_give_the_results_of_the_reference(
    isa, dim, metric, kind, n, nq, k, confidence
):
    assert_same_search(isa, Case(IndexSpec(dim, 2, metric), kind, n, nq, k, confidence, 1, ()))


@every_isa
def test_largest_distances_equal_the_reference(isa):
    """Norms just under the limit of 2**62 in opposite directions: distances and bounds stay finite."""
    spec = IndexSpec(1, 1, "l2")
    reference, compiled = backends(spec)
    far = np.full((3, 1), 4.6e18, np.float32)
    rows = split(spec, reference.encode(-far[:2]))
    for nq in (2, 3):
        queries = reference.prepare(far[:nq])
        want = top_k(reference, queries, [rows], 2, 0.6)
        for got, other in zip(top_k(compiled[isa], queries, [rows], 2, 0.6, 1), want, strict=True):
            np.testing.assert_array_equal(got, other)


# ---- sizes with a seed threshold, many tiles and several threads


LARGE = [
    # Searches with a sign bound read the sign bits first. At confidence 1 a batch scans all levels.
    *((IndexSpec(64, 2, metric), nq) for metric in METRICS for nq in (1, 2, 70)),
    (IndexSpec(300, 2, "ip"), 1),
    (IndexSpec(300, 3, "cosine"), 20),
    (IndexSpec(300, 1, "l2"), 20),
    (IndexSpec(64, 4, "l2", codec="trellis"), 20),
    (IndexSpec(64, 1, "ip", codec="trellis"), 1),
    (IndexSpec(100, 2, "cosine", codec="trellis"), 1),
    (IndexSpec(300, 2, "ip", codec="trellis"), 20),
    (IndexSpec(300, 3, "l2", codec="trellis"), 2),
    (IndexSpec(100, 5, "ip", codec="turboquant-mse"), 20),
]


@every_isa
@pytest.mark.parametrize("kind", ["plain", "ties"])
@pytest.mark.parametrize("at", range(len(LARGE)))
def test_many_rows_give_the_results_of_the_reference(isa, at, kind):
    spec, nq = LARGE[at]
    for k, confidence, threads, cuts in ((10, 0.995, 8, ()), (100, 0.6, 3, (1, 40, 200)), (1, 1.0, 2, (64,))):
        assert_same_search(isa, Case(spec, kind, 20_000, nq, k, confidence, threads, cuts))


@every_isa
@pytest.mark.parametrize(("dim", "nq"), [(385, 130), (1536, 40), (3072, 20), (6144, 5), (6145, 5)])
def test_long_vectors_scanned_for_chunks_of_queries_give_the_results_of_the_reference(isa, dim, nq):
    for metric, confidence in (("cosine", 0.995), ("l2", 0.6)):
        assert_same_search(isa, Case(IndexSpec(dim, 2, metric), "plain", 600, nq, 10, confidence, 2, (4,)))


@pytest.mark.parametrize("nq", [1, 9])
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_results_do_not_depend_on_threads_or_blocks(codec, nq):
    spec = IndexSpec(320, 2, "ip", codec=codec)
    x = make_rows("ties", 110_000, 320, 1)
    x[:: 2**12] = x[5]  # ties across the row ranges of threads
    backend = native_backend(supported_isas()[-1], Codec(spec))
    rows, queries = backend.encode(x), backend.prepare(x[5 : 5 + nq])
    want = top_k(backend, queries, stored_segments(spec, rows, ()), 40, 0.9, 1)
    for threads, cuts in ((2, ()), (3, (1, 2, 700)), (8, range(0, 1720, 100)), (64, (1700,)), (None, ())):
        for got, other in zip(
            top_k(backend, queries, stored_segments(spec, rows, cuts), 40, 0.9, threads), want, strict=True
        ):
            np.testing.assert_array_equal(got, other)


@every_isa
def test_queries_scanned_in_chunks_give_the_results_of_the_reference(isa, monkeypatch):
    case = Case(IndexSpec(65, 3, "l2"), "ties", 257, 70, 10, 0.995, 1, ())
    for hits in (1, 10, 35, 699):
        monkeypatch.setattr("vqindex.backends.cpu._HITS", hits)
        assert_same_search(isa, case)


@every_isa
@pytest.mark.parametrize("n", [0, 70])
def test_a_search_without_queries_or_rows_returns_missing_places(isa, n):
    spec = IndexSpec(20, 4, "l2")
    assert_same_search(isa, Case(spec, "plain", n, 0, 3, 0.995, 1, ()))
    backend = backends(spec)[1][isa]
    scores, rows, _ = top_k(backend, backend.prepare(np.ones((2, 20), np.float32)), [], 3, 0.995, 4)
    assert scores.tolist() == [[np.inf] * 3] * 2
    assert rows.tolist() == [[-1] * 3] * 2


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_shape_gives_the_results_of_the_reference(data):
    codec, bits = data.draw(st.sampled_from([code for code in CODES if code[1] < 7]), "code")
    spec = IndexSpec(
        data.draw(st.sampled_from((2, 31, *DIMS)), "dim"),
        bits,
        data.draw(st.sampled_from(METRICS), "metric"),
        codec=codec,
    )
    case = Case(
        spec,
        data.draw(st.sampled_from(KINDS), "kind"),
        data.draw(st.integers(0, 600), "rows"),
        data.draw(st.integers(0, 9), "queries"),
        data.draw(st.integers(1, 700), "k"),
        data.draw(st.sampled_from((1.0, 0.999, 0.9, 0.51)), "confidence"),
        data.draw(st.integers(1, 9), "threads"),
        tuple(data.draw(st.lists(st.integers(0, 9), max_size=3), "cuts")),
    )
    assert_same_search(data.draw(st.sampled_from(supported_isas()), "isa"), case)


# ---- the steps


@every_isa
@pytest.mark.parametrize(("codec", "bits"), CODES)
def test_decoded_levels_equal_the_reference(isa, codec, bits):
    for dim in DIMS if bits < 7 else WIDE_DIMS:
        spec = IndexSpec(dim, bits, codec=codec)
        reference, compiled = backends(spec)
        for n in (0, 1, 5):
            fields = np.random.default_rng(dim + n).integers(0, 2**bits, (n, spec.fields)).astype(np.uint8)
            got, want = (backend._levels(pack(fields, bits)) for backend in (compiled[isa], reference))
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


@every_isa
def test_decoded_rows_end_with_zeros(isa):
    for dim in DIMS:
        scanner = Scanner(dim, 4, 4, 0, np.arange(16, dtype=np.int16) + 1, "ip", isa)
        got = scanner.decode(np.full((3, (dim + 1) // 2), 0x21, np.uint8), None)
        assert got.shape == (3, -(-dim // 64) * 64)
        np.testing.assert_array_equal(got[:, :dim], np.resize([2, 3], dim)[None].repeat(3, axis=0))
        assert not got[:, dim:].any()


# Steps and windows that the scanner takes.
WINDOWS = [(step, window) for step in range(9) for window in range(step, 10)]


# At step 8 and window 9, eight windows do not fit in one word of 64 bits. No code uses them.
@every_isa
@pytest.mark.parametrize(("step", "window"), [pair for pair in WINDOWS if pair != (8, 9)])
def test_windows_read_the_fields_of_the_bits(isa, step, window):
    """The oracle reads fields bit by bit: without sign bits, with them, and with those of a trellis."""
    rng = np.random.default_rng(0)
    n = 3
    for dim, tops in itertools.product((1, 7, 63, 64, 131, 200), (0, 1, 2, 3, 4)):
        if tops > 1 and (window == 0 or window + tops > 10):
            continue
        levels = rng.integers(-127, 128, 2 ** (window + tops)).astype(np.int16)
        scanner = Scanner(dim, step, window, tops, levels, "ip", isa)
        codes = rng.integers(0, 256, (n, ((dim - 1) * step + window + 7) // 8), dtype=np.uint8)
        sign_bits = rng.integers(0, 2, (n, dim)).astype(np.uint8)
        bits = np.unpackbits(codes, axis=1, bitorder="little").astype(np.int64)
        at = step * np.arange(dim)[:, None] + np.arange(window)
        index = (bits[:, at] << np.arange(window)).sum(axis=2)
        top = np.concatenate([np.zeros((n, 3), np.int64), sign_bits ^ (index & 1 if tops > 1 else 0)], axis=1)
        for i in range(tops):
            index = index + (top[:, 3 - i : 3 - i + dim] << (window + tops - 1 - i))
        packed = np.packbits(sign_bits, axis=1, bitorder="little") if tops else None
        np.testing.assert_array_equal(scanner.decode(codes, packed)[:, :dim], levels[index])


def scanner_of(dim, isa=""):
    return Scanner(dim, 1, 1, 0, np.array([-1, 1], np.int16), "ip", isa)


@every_isa
def test_sums_equal_integer_products(isa):
    for dim in DIMS:
        rng = np.random.default_rng(dim)
        for n in (0, 1, 3, 4, 5, 9):
            q = rng.integers(-32767, 32768, (3, dim)).astype(np.int16)
            levels = rng.integers(-127, 128, (n, dim)).astype(np.int8)
            want = (q.astype(np.int64) @ levels.T.astype(np.int64)).astype(np.float32)
            np.testing.assert_array_equal(scanner_of(dim, isa).sums(q, levels), want)


@every_isa
@pytest.mark.parametrize("dim", [511, 512, 513, 1536, 8191, 8192, 8193, 16384])
def test_the_largest_sums_do_not_overflow(isa, dim):
    q = np.full((2, dim), 32767, np.int16)
    q[1] = -32767
    levels = np.full((5, dim), 127, np.int8)
    levels[1] = -127
    levels[2, ::2] = -127
    want = (q.astype(np.int64) @ levels.T.astype(np.int64)).astype(np.float32)
    np.testing.assert_array_equal(scanner_of(dim, isa).sums(q, levels), want)


@every_isa
def test_one_hot_queries_against_constant_rows_equal_the_reference(isa):
    """The largest sums of all kinds that search itself takes: int8 levels, signs, and exact ones."""
    for dim, confidence in itertools.product((64, 6144, 16384), (1.0, 0.6)):
        spec = IndexSpec(dim, 4, "ip")
        reference, compiled = backends(spec)
        fields = np.zeros((130, dim), np.uint8)
        fields[1::3] = 15
        fields[2::3] = np.arange(dim) % 16
        rows = Encoded(pack(fields, 4), np.linspace(0.5, 1, 130, dtype=np.float32), np.ones(130, np.float32))
        code_query = np.full((3, dim), 32767, np.int16)
        code_query[1] = -32767
        code_query[2, 1:] = 0
        queries = reference.prepare(np.ones((3, dim), np.float32))
        queries.code_query[:] = code_query
        segments = [split(spec, rows)]
        want = top_k(reference, queries, segments, 7, confidence)
        for got, other in zip(top_k(compiled[isa], queries, segments, 7, confidence, 1), want, strict=True):
            np.testing.assert_array_equal(got, other)


# ---- what is refused


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("VQINDEX_ISA", "mmx")
    with pytest.raises(BackendError, match=r"VQINDEX_ISA is 'mmx'; this machine has: .*scalar"):
        NativeBackend(Codec(IndexSpec(4)))
    with pytest.raises(ValueError, match="isa is 'mmx'"):
        scanner_of(4, "mmx")


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 0},
        {"dim": 16385},
        {"step": -1},
        {"step": 9, "window": 9, "levels": np.zeros(512, np.int16)},
        {"step": 3},
        {"window": 11, "levels": np.zeros(2048, np.int16)},
        {"levels": np.zeros(3, np.int16)},
        {"tops": 1},
        {"tops": -1},
        {"tops": 5, "levels": np.zeros(128, np.int16)},
        {"metric": "hamming"},
        {"window": 9, "levels": np.full(512, 1000, np.int16)},
    ],
)
def test_a_scanner_of_inconsistent_tables_is_refused(wrong):
    right = {"dim": 8, "step": 2, "window": 2, "tops": 0, "levels": np.zeros(4, np.int16), "metric": "ip"}
    Scanner(**right)
    with pytest.raises(ValueError, match="expected"):
        Scanner(**{**right, **wrong})


def test_wrong_shapes_are_refused():
    spec = IndexSpec(10, 4, "ip")
    backend = NativeBackend(Codec(spec))
    scanner = backend._scanner
    (segment,) = stored_segments(spec, backend.encode(make_rows("plain", 70, 10, 0)), ())
    q = backend.prepare(make_rows("plain", 2, 10, 1))

    def search(segment=segment, code_query=q.code_query, scale=q.code_scale, norm=q.norm, k=3, sign_bound=None):
        return scanner.search([segment], code_query, scale, norm, k, sign_bound, 1)

    search()
    for wrong in (
        segment._replace(signs=segment.signs[:1].copy()),
        segment._replace(signs=segment.signs[:, :1].copy()),
        segment._replace(rescale=segment.rescale[:-1].copy()),
        segment._replace(norm=segment.norm[:-1].copy()),
    ):
        with pytest.raises(ValueError, match="expected segments of"):
            search(wrong)
    with pytest.raises(ValueError, match="hold dim windows"):
        search(segment._replace(codes=segment.codes[:, :-1].copy()))
    for wrong in (
        {"code_query": q.code_query[:, :9].copy()},
        {"scale": q.code_scale[:1]},
        {"norm": q.norm[:1]},
        {"k": 0},
    ):
        with pytest.raises(ValueError, match="expected queries"):
            search(**wrong)
    with pytest.raises(RuntimeError):
        search(segment._replace(signs=None))
    bound = 1.0, 1.0, 1.0, 1.0
    whole = segment._replace(codes=np.zeros((70, 10), np.uint8), signs=None)
    scanner_of(10).search([whole], q.code_query, q.code_scale, q.norm, 1, None, 1)
    with pytest.raises(RuntimeError):
        scanner_of(10).search([whole], q.code_query, q.code_scale, q.norm, 1, bound, 1)
    with pytest.raises(ValueError, match="sign rows"):
        scanner.decode(segment.codes, np.zeros((70, 3), np.uint8))
    with pytest.raises(ValueError, match="hold dim windows"):
        scanner.decode(segment.codes[:, :-1].copy(), np.zeros((70, 2), np.uint8))
    with pytest.raises(ValueError, match="dimension"):
        scanner.sums(np.zeros((1, 9), np.int16), np.zeros((1, 10), np.int8))
    long, one = np.zeros((1, 6145), np.int16), np.ones(1, np.float32)
    with pytest.raises(ValueError, match="expected sign bits of at most 6144"):
        scanner_of(6145).search([], long, one, one, 1, bound, 1)
