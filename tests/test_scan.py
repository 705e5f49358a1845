"""The compiled steps of the scan against NumPy, bit for bit, on every instruction set."""

import numpy as np
import pytest

from vqindex._native import decode_levels, integer_sums, supported_isas
from vqindex.backend import make_backend
from vqindex.codec import Codec
from vqindex.spec import IndexSpec

EDGES = (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100)


def exact_sums(queries, levels):
    return np.array([[float(sum(int(a) * int(b) for a, b in zip(q, r, strict=True))) for r in levels] for q in queries])


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("dim", EDGES)
def test_sums_of_all_edge_sizes(isa, dim):
    rng = np.random.default_rng(dim)
    for n in (0, 1, 3, 4, 5, 9):
        q = rng.integers(-32767, 32768, (3, dim)).astype(np.int16)
        levels = rng.integers(-127, 128, (n, dim)).astype(np.int8)
        expected = exact_sums(q, levels).reshape(3, n).astype(np.float32)
        np.testing.assert_array_equal(integer_sums(q, levels, isa), expected)


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("dim", [511, 512, 513, 1536, 16384])
def test_the_largest_sums_do_not_overflow(isa, dim):
    q = np.full((2, dim), 32767, np.int16)
    q[1] = -32767
    levels = np.full((5, dim), 127, np.int8)
    levels[1] = -127
    levels[2] = -128
    expected = (q.astype(np.int64) @ levels.T.astype(np.int64)).astype(np.float32)
    np.testing.assert_array_equal(integer_sums(q, levels, isa), expected)


@pytest.mark.parametrize("codec", ["turboquant-prod", "turboquant-mse", "trellis"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_decoding_of_all_edge_sizes(codec, bits):
    for dim in EDGES:
        c = Codec(IndexSpec(dim, bits, codec=codec))
        native, reference = make_backend(c, "native"), make_backend(c, "reference")
        for n in (0, 1, 5):
            codes = np.random.default_rng(dim + n).integers(0, 256, (n, c.spec.code_bytes), dtype=np.uint8)
            got, want = native._levels(codes), reference._levels(codes)
            assert got.dtype == want.dtype == np.int8
            np.testing.assert_array_equal(got, want)


def test_search_does_not_depend_on_threads(monkeypatch):
    rng = np.random.default_rng(0)
    x, q = rng.standard_normal((500, 40)).astype(np.float32), rng.standard_normal((37, 40)).astype(np.float32)
    c = Codec(IndexSpec(40, 2, "l2", codec="trellis"))
    reference = make_backend(c, "reference")
    rows, prepared = reference.encode(x), reference.prepare(q)
    expected = reference.search(prepared, [rows], 7)
    for count in (1, 2, 3, 64):
        monkeypatch.setattr("vqindex.cpu.cpu_count", lambda count=count: count)
        for got, want in zip(make_backend(c, "native").search(prepared, [rows], 7), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_wrong_shapes_are_refused_by_the_extension():
    codes, table = np.zeros((2, 5), np.uint8), np.zeros(16, np.int8)
    with pytest.raises(ValueError, match="hold dim windows"):
        decode_levels(codes, 11, 4, 4, table)  # 44 bits do not fit 40
    with pytest.raises(ValueError, match="table of"):
        decode_levels(codes, 10, 4, 4, table[:15])
    with pytest.raises(ValueError, match="same dimension"):
        integer_sums(np.zeros((1, 4), np.int16), np.zeros((1, 5), np.int8))
    with pytest.raises(ValueError, match="isa is 'mmx'"):
        integer_sums(np.zeros((1, 4), np.int16), np.zeros((1, 4), np.int8), "mmx")
