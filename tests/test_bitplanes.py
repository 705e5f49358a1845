"""The stored layout: golden bytes, round trips, and all the ways to write rows."""

import gate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import coded

from vqindex._native import split_rows
from vqindex.backends.registry import make_backend
from vqindex.codes.bitplanes import BLOCK_ROWS, StoredRows, join, join_rows, put_rows, split
from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded
from vqindex.codes.packing import pack, unpack
from vqindex.spec import IndexSpec

DIMS = (1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 100, 257)
ROWS = (0, 1, 63, 64, 65, 127, 128, 129, 200)
NO_SIGN_BITS = (
    {"codec": "trellis", "bits": 1},
    {"codec": "qjl", "bits": 3},
    {"sketch": "orthogonal", "bits": 3},
    {"sketch": "gaussian", "bits": 3},
)


# Codes with sign bits: scalar codes and trellis codes.
SIGNED = [*(("turboquant-prod", bits) for bits in range(1, 9)), *(("trellis", bits) for bits in (2, 3, 4))]
every_signed = pytest.mark.parametrize(("codec", "bits"), SIGNED)


def empty(spec, n, fill=0xFF):
    """Return arrays for n rows. The old bytes of the codes must not matter; sign bits start as zeros."""
    whole = -(-n // BLOCK_ROWS)
    return StoredRows(
        np.zeros((whole, spec.sign_bytes, BLOCK_ROWS), np.uint8) if spec.has_sign_bits else None,
        np.full((n, spec.row_bytes), fill, np.uint8),
        np.zeros(n, np.float32),
        np.zeros(n, np.float32) if spec.stores_norm else None,
    )


def assert_same(got, want):
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bits", range(1, 9))
def test_stored_layout_has_the_golden_bytes(golden, bits):
    fields = ((5 * np.arange(19) + 3 * np.arange(66)[:, None]) % 2**bits).astype(np.uint8)
    spec, rows = IndexSpec(19, bits, "cosine"), Encoded(pack(fields, bits), np.zeros(66, np.float32), None)
    block = empty(spec, 66)
    make_backend(Codec(spec), "native").put(rows, block, 0)
    for stored in (split(spec, rows), block):
        expected = {"digest": gate.digest(stored.signs, stored.codes), "row 65": stored.signs[1, :, 1].tolist()}
        assert golden("planes.json")[str(bits)] == expected


@every_signed
@pytest.mark.parametrize("dim", DIMS)
def test_layout_is_as_defined_bit_by_bit(dim, codec, bits):
    spec = IndexSpec(dim, bits, codec=codec)
    rows = coded(spec, 70)
    fields = unpack(rows.codes, spec.fields, bits)
    stored = split(spec, rows)
    assert stored.rows == 70
    assert stored.signs.shape == (2, spec.sign_bytes, 64)
    assert stored.signs.flags.c_contiguous
    assert stored.codes.shape == (70, spec.row_bytes)
    for row in (0, 1, 63, 64, 69):
        for field in range(spec.fields):
            j = field - spec.warmup_fields
            sign = int(stored.signs[row // 64, j // 8, row % 64] >> (j % 8) & 1) if j >= 0 else 0
            rest = 0
            for i in range(bits - 1):
                at = field * (bits - 1) + i
                rest |= int(stored.codes[row, at // 8] >> (at % 8) & 1) << i
            assert (sign << (bits - 1)) + rest == fields[row, field]
    assert not stored.signs[1, :, 6:].any(), "the rows past the last one are zero"
    assert not stored.signs[:, -1].astype(int).max() >> ((dim - 1) % 8 + 1), (
        "the bits past the last coordinate are zero"
    )


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@every_signed
def test_joining_bit_planes_undoes_splitting_them(bits, codec, metric):
    for dim in DIMS:
        spec = IndexSpec(dim, bits, metric, codec=codec)
        for n in ROWS:
            rows = coded(spec, n)
            assert_same(join(spec, split(spec, rows)), rows)


@pytest.mark.parametrize("kwargs", NO_SIGN_BITS)
def test_codes_without_sign_bits_are_stored_unchanged(kwargs):
    spec = IndexSpec(17, **kwargs)
    assert (spec.has_sign_bits, spec.sign_bytes, spec.row_bytes) == (False, 0, spec.code_bytes)
    rows = coded(spec, 70)
    assert_same(split(spec, rows), (None, *rows, None))
    assert_same(join(spec, split(spec, rows)), rows)
    for name in ("native", "reference"):
        block = empty(spec, 70)
        make_backend(Codec(spec), name).put(rows, block, 0)
        assert_same(block, (None, *rows, None))


@pytest.mark.parametrize("bits", [1, 4])
def test_any_rows_can_be_gathered_from_the_stored_layout(bits):
    spec = IndexSpec(17, bits)
    rows = coded(spec, 200)
    stored = split(spec, rows)
    for at in (slice(0, 0), slice(3, 130), slice(64, 128), slice(199, 500), slice(None, None, 7)):
        assert_same(join_rows(spec, stored, at), rows.select(at))
    for picked in ([], [199], [5, 5, 64, 0], range(199, -1, -1)):
        at = np.array(picked, np.int64)
        assert_same(join_rows(spec, stored, at), (rows.codes[at], rows.rescale[at], rows.norm[at]))


# ---- rows written into allocated arrays


@every_signed
@pytest.mark.parametrize("dim", DIMS)
def test_compiled_splitting_equals_the_reference(dim, codec, bits):
    spec = IndexSpec(dim, bits, codec=codec)
    for start in (0, 1, 5, 62, 63, 64, 65, 127, 128):
        for n in (0, 1, 2, 63, 64, 65, 130):
            rows = coded(spec, n, seed=start)
            want, got = empty(spec, start + n + 3), empty(spec, start + n + 3)
            put_rows(spec, rows, want, start)
            split_rows(rows.codes, dim, spec.warmup_fields, bits, start, got.signs, got.codes)
            np.testing.assert_array_equal(got.signs, want.signs)
            np.testing.assert_array_equal(got.codes, want.codes)
            assert_same(join_rows(spec, want, slice(start, start + n)), rows)


@pytest.mark.parametrize("backend", ["native", "reference"])
@settings(max_examples=40, deadline=None)
@given(
    dim=st.integers(1, 70),
    bits=st.integers(1, 6),
    metric=st.sampled_from(["ip", "cosine"]),
    sizes=st.lists(st.integers(0, 90), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_rows_written_in_any_order_give_the_layout_of_one_write(backend, dim, bits, metric, sizes, order):
    spec = IndexSpec(dim, bits, metric)
    rows = coded(spec, sum(sizes))
    put = make_backend(Codec(spec), backend).put
    block = empty(spec, sum(sizes))
    starts = np.cumsum([0, *sizes])
    row_ranges = list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
    order.shuffle(row_ranges)
    for start, stop in row_ranges:
        put(rows.select(slice(start, stop)), block, start)
    assert_same(block, split(spec, rows))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_overwriting_rows_leaves_the_others_unchanged(backend):
    spec = IndexSpec(17, 4)
    first, second = coded(spec, 130, seed=1), coded(spec, 66, seed=2)
    put = make_backend(Codec(spec), backend).put
    block = empty(spec, 130)
    put(first, block, 0)
    put(second, block, 31)
    assert_same(join_rows(spec, block, slice(31, 97)), second)
    for untouched in (slice(0, 31), slice(97, 130)):
        assert_same(join_rows(spec, block, untouched), first.select(untouched))


def test_splitting_into_arrays_of_wrong_shapes_is_refused():
    spec = IndexSpec(17, 4)
    rows = coded(spec, 10).codes
    block = empty(spec, 70)
    split_rows(rows, 17, 0, 4, 60, block.signs, block.codes)
    right = {
        "codes": rows,
        "dim": 17,
        "warmup_fields": 0,
        "bits": 4,
        "start": 0,
        "signs": block.signs,
        "rest": block.codes,
    }
    for wrong in (
        {"start": 61},
        {"start": 130},
        {"bits": 0},
        {"bits": 9},
        {"bits": 3},
        {"dim": 19},
        {"warmup_fields": 3},
        {"warmup_fields": 3, "bits": 5},
        {"codes": rows[:, :-1].copy()},
        {"signs": block.signs[:, :2].copy()},
        {"rest": block.codes[:, :-1].copy()},
        {"signs": block.signs[:1].copy(), "start": 60},
    ):
        with pytest.raises(ValueError, match=r"expected rows of warmup_fields \+ dim fields"):
            split_rows(**{**right, **wrong})


# ---- bytes per vector


def test_bytes_per_vector_equal_sums_by_hand():
    assert IndexSpec(100, 2, "cosine").bytes_per_vector == 13 + 13 + 4
    assert IndexSpec(100, 4, "l2").bytes_per_vector == 13 + 38 + 8
    assert IndexSpec(384, 2, "cosine").bytes_per_vector == 48 + 48 + 4
    assert IndexSpec(100, 1, "cosine").bytes_per_vector == 13 + 0 + 4
    assert IndexSpec(100, 2, "cosine", codec="trellis").bytes_per_vector == 26 + 4
    assert IndexSpec(100, 2, "cosine", sketch="orthogonal").bytes_per_vector == 25 + 4


@pytest.mark.parametrize("bits", range(1, 9))
def test_separate_sign_bits_cost_at_most_one_byte_per_vector(bits):
    for dim in range(1, 200):
        spec = IndexSpec(dim, bits)
        assert 0 <= spec.sign_bytes + spec.row_bytes - spec.code_bytes <= 1
