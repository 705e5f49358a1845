"""The compiled encoder and query preparation against NumPy, bit for bit, on every instruction set."""

import gate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqindex._native import Tables, encode, prepare, supported_isas
from vqindex.backends.registry import make_backend
from vqindex.codes.codec import Codec
from vqindex.spec import METRICS, IndexSpec

# Dimensions at the edges of lanes, chunks of the rotation, packed groups and partial sums.
DIMS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 384)
ROWS = (0, 1, 15, 16, 17, 31, 32, 33, 48)
CODECS = ("turboquant-prod", "turboquant-mse", "trellis")
WIDTHS = [(codec, bits) for codec in CODECS for bits in range(1, 9) if codec != "trellis" or bits <= 4]
LARGEST = np.finfo(np.float32).max
TINY = np.finfo(np.float32).tiny


def same(got, want, what):
    """Fail unless arrays (or None) are equal in type, shape and every bit."""
    assert (got is None) == (want is None), what
    if want is None:
        return
    assert got.dtype == want.dtype, what
    assert got.shape == want.shape, what
    np.testing.assert_array_equal(got, want, err_msg=what)


def backends(dim, bits, metric="ip", codec="turboquant-prod", isa=None, **kwargs):
    c = Codec(IndexSpec(dim, bits, metric, codec=codec, seed=3, **kwargs))
    native = make_backend(c, "native")
    if isa is not None:
        native.isa = isa
    return native, make_backend(c, "reference")


def assert_same_encoding(native, reference, x):
    for name, got, want in zip(("codes", "rescale", "norm"), native.encode(x), reference.encode(x), strict=True):
        same(got, want, name)


def assert_same_preparation(native, reference, q):
    got, want = native.prepare(q), reference.prepare(q)
    for name in ("code_query", "code_scale", "sketch_query", "sketch_scale", "norm"):
        same(getattr(got, name), getattr(want, name), name)
        if want.norm is not None:
            assert got.code_query.flags.c_contiguous
    for few in (1, 4, 5) if native._tables is not None else ():  # few queries take another way than many
        for at in (slice(start, start + few) for start in range(0, len(q), few)):
            got = native.prepare(q[at])
            for name in ("code_query", "code_scale", "norm"):
                same(getattr(got, name), getattr(want, name)[at], f"{name} of {few} queries")


def hostile(dim, rows=48):
    """Return the gate's corpus with values at the limits of float32."""
    x = gate.corpus(dim, rows=max(rows, 24), seed=dim)
    x[17] = LARGEST
    x[18, ::2] = -LARGEST
    x[19] = TINY
    x[20] = np.nextafter(TINY, np.float32(0))
    x[20, 0] = TINY
    x[21, 0] = np.float32(2.0**31)  # puts coordinates on both sides of the limit at 2^-31
    x[21, 1:] *= np.float32(2.0**-30)
    x[22] *= np.float32(2.0**-120)
    x[23] *= np.float32(2.0**100)
    return x[:rows]


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("dim", DIMS)
def test_codes_of_every_width_and_metric_equal_the_reference(isa, dim):
    x = hostile(dim)
    for codec, bits in WIDTHS:
        for metric in METRICS:
            native, reference = backends(dim, bits, metric, codec, isa)
            assert_same_encoding(native, reference, x if codec != "trellis" or dim < 100 else x[:24])


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("dim", DIMS)
def test_prepared_queries_equal_the_reference(isa, dim):
    for codec in CODECS:
        for metric in METRICS:
            assert_same_preparation(*backends(dim, 4, metric, codec, isa), hostile(dim))


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("rows", ROWS)
def test_any_number_of_rows_is_encoded_as_by_the_reference(isa, rows):
    for codec in CODECS:
        pair = backends(20, 3, "l2", codec, isa)
        x = hostile(20)[48 - rows :]
        assert_same_encoding(*pair, x)
        assert_same_preparation(*pair, x)


@pytest.mark.parametrize("isa", supported_isas())
def test_every_small_dimension_is_encoded_as_by_the_reference(isa):
    """All remainders of tiles of 16, groups of 8 and 32 partial sums; two full blocks of rows and a short one."""
    for dim in range(1, 71):
        x = hostile(dim, rows=37)
        for bits in (1, 2, 3, 4):
            assert_same_encoding(*backends(dim, bits, METRICS[dim % 3], CODECS[dim // 3 % 2], isa), x)


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("dim", [768, 1536, 16383])
def test_common_dimensions_are_encoded_as_by_the_reference(isa, dim):
    x = hostile(dim, rows=24)
    for bits in (1, 2, 4):
        assert_same_encoding(*backends(dim, bits, "cosine", isa=isa), x)


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("dim", [256, 512, 1024, 2048, 4095])
def test_long_vectors_are_encoded_as_by_the_reference(isa, dim):
    x = hostile(dim, rows=20)
    for codec in ("turboquant-prod", "trellis"):
        pair = backends(dim, 4, "ip", codec, isa)
        assert_same_encoding(*pair, x if codec != "trellis" else x[:3])
        assert_same_preparation(*pair, x)


@pytest.mark.parametrize("isa", supported_isas())
def test_a_coordinate_equal_to_its_threshold_is_not_above_it(isa):
    """In one dimension y is x and s is |x|: y / s is 1 or -1, and the thresholds lie at, below and above that."""
    x = np.array([[3], [-3], [0]], np.float32)
    one, two = np.float32(1), np.float32(2)
    cases = ((one, [2, 0, 0]), (np.nextafter(one, -two), [3, 0, 0]), (np.nextafter(one, two), [2, 1, 0]))
    for t, expected in cases:
        tables = Tables(np.ones((3, 1), np.float32), np.zeros(1, np.uint32), 2, False, True, 0.0)
        tables.set_codebook(np.array([-t, 0, t], np.float32), np.array([-9, -3, 3, 9], np.int16))
        np.testing.assert_array_equal(encode(tables, x, 1, isa)[0][:, 0], expected)


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("bits", range(2, 9))
def test_a_coordinate_equal_to_any_of_many_thresholds_is_not_above_it(isa, bits):
    half = 2 ** (bits - 1)
    levels = np.arange(1 - 2 * half, 2 * half, 2, dtype=np.int16)
    x = np.array([[3], [-3], [0]], np.float32)
    for equal in range(half - 1):
        positive = (1 + (np.arange(half - 1) - equal) / np.float32(256)).astype(np.float32)
        tables = Tables(np.ones((3, 1), np.float32), np.zeros(1, np.uint32), bits, False, True, 0.0)
        tables.set_codebook(np.concatenate([-positive[::-1], [np.float32(0)], positive]), levels)
        codes = encode(tables, x, 1, isa)[0][:, 0]
        np.testing.assert_array_equal(codes, [half + equal, half - 1 - (equal + 1), 0])


@pytest.mark.parametrize("isa", supported_isas())
def test_rotated_coordinates_that_are_zero_are_encoded_as_by_the_reference(isa):
    x = np.random.default_rng(0).integers(-2, 3, (400, 4)).astype(np.float32)
    for bits in (1, 4, 8):
        assert_same_encoding(*backends(4, bits, isa=isa), x)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_finite_rows_are_encoded_as_by_the_reference(data):
    dim = data.draw(st.integers(1, 70), "dim")
    codec, bits = data.draw(st.sampled_from(WIDTHS), "code")
    metric = data.draw(st.sampled_from(METRICS), "metric")
    isa = data.draw(st.sampled_from(supported_isas()), "isa")
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    x = data.draw(hnp.arrays(np.float32, (data.draw(st.integers(0, 36), "rows"), dim), elements=floats), "x")
    pair = backends(dim, bits, metric, codec, isa)
    assert_same_encoding(*pair, x)
    assert_same_preparation(*pair, x)


@pytest.mark.parametrize("codec", CODECS)
def test_results_do_not_depend_on_threads(monkeypatch, codec):
    x = np.random.default_rng(0).standard_normal((3001, 24)).astype(np.float32)
    native, reference = backends(24, 2, codec=codec)
    rows, prepared = reference.encode(x), reference.prepare(x)
    monkeypatch.setattr("vqindex.backends.cpu._FEW_VALUES", 1)
    monkeypatch.setattr("vqindex.backends.cpu._FEW_TRELLIS_VALUES", 1)
    for count in (1, 2, 3, 8, 200):
        monkeypatch.setattr("vqindex.backends.cpu.cpu_count", lambda count=count: count)
        for got, want in zip(native.encode(x), rows, strict=True):
            same(got, want, f"{count} threads")
        got = native.prepare(x)
        same(got.code_query, prepared.code_query, f"{count} threads")
        same(got.code_scale, prepared.code_scale, f"{count} threads")


@pytest.mark.parametrize(
    "kwargs", [{"sketch": "orthogonal"}, {"sketch": "gaussian"}, {"codec": "qjl"}, {"rotation": "haar"}]
)
def test_other_codecs_go_through_numpy(kwargs):
    native, reference = backends(17, 3, "ip", **kwargs)
    assert native._tables is None
    x = hostile(17)
    assert_same_encoding(native, reference, x)
    assert_same_preparation(native, reference, x)


def test_strided_and_fortran_rows_are_encoded_as_contiguous_ones():
    native, reference = backends(24, 4)
    x = np.random.default_rng(0).standard_normal((40, 48)).astype(np.float32)
    assert_same_encoding(native, reference, x[::2, ::2])
    assert_same_preparation(native, reference, np.asfortranarray(x[:, :24]))


def test_wrong_tables_and_shapes_are_refused():
    signs, source = np.ones((3, 4), np.float32), np.arange(4, dtype=np.uint32)
    thresholds, levels = np.array([-1, 0, 1], np.float32), np.array([-9, -3, 3, 9], np.int16)
    x = np.zeros((2, 4), np.float32)
    for wrong in ((signs[:2], source, 2), (signs[:, :3], source, 2), (signs, source + 1, 2), (signs, source, 9)):
        with pytest.raises(ValueError, match="expected bits"):
            Tables(*(np.ascontiguousarray(a) for a in wrong[:2]), wrong[2], False, True, 0.0)
    tables = Tables(signs, source, 2, False, True, 0.0)
    with pytest.raises(ValueError, match="no codebook"):
        encode(tables, x)
    with pytest.raises(ValueError, match="thresholds and"):
        tables.set_codebook(thresholds[:2], levels)
    with pytest.raises(ValueError, match="symmetric"):
        tables.set_codebook(thresholds + 1, levels)
    with pytest.raises(ValueError, match="symmetric"):
        tables.set_codebook(thresholds, levels + 1)
    with pytest.raises(ValueError, match="table of"):
        tables.set_trellis(np.zeros(255, np.int8), 128, 8, 100, 1, 0, 1.0)
    tables.set_codebook(thresholds, levels)
    for call in (encode, prepare):
        with pytest.raises(ValueError, match="dimension"):
            call(tables, x[:, :3].copy())
        with pytest.raises(ValueError, match="threads"):
            call(tables, x, 0)
        with pytest.raises(ValueError, match="isa is 'mmx'"):
            call(tables, x, 1, "mmx")
