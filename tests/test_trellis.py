"""The trellis codec: the path is optimal, every backend gives the same bits, and the distortion is as stated."""

import itertools

import numpy as np
import pytest

import vqindex
from vqindex import BackendError, InvalidInputError, file_format
from vqindex._native import supported_isas, trellis_encode
from vqindex.backends.registry import make_backend
from vqindex.codes.codec import Codec
from vqindex.codes.packing import pack, unpack
from vqindex.codes.trellis import (
    FRACTION,
    PEAK,
    TABLE_VERSION,
    Trellis,
    cost_limits,
    mirror,
    sign_of_window,
    trellis_values,
    viterbi,
)
from vqindex.spec import IndexSpec

WIDTHS = (1, 2, 3, 4)


def gaussian_values(rows, dim, trellis, seed=0):
    y = np.random.default_rng(seed).standard_normal((dim, rows)).astype(np.float32)
    return y, trellis_values(y, np.ones(rows, np.float32), trellis.step)


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_table_uses_the_int8_range_with_a_window_of_whole_fields(bits):
    t = Trellis.of(bits)
    assert t.table.shape == (2**t.window,)
    assert t.table.dtype == np.int8
    assert t.window % bits == 0
    assert not t.table.flags.writeable
    assert np.float32(t.step) == t.step


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_table_is_symmetric(bits):
    """table[mirror(w)] = -table[w]: decoders may keep half of it. Hence no level is -128."""
    t = Trellis.of(bits)
    table, other = t.table.astype(int), mirror(np.arange(t.table.size), bits, t.window)
    np.testing.assert_array_equal(other[other], np.arange(t.table.size))
    np.testing.assert_array_equal(table[other], -table)
    assert np.abs(table).max() <= 127


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_stored_signs_are_those_of_all_levels_but_a_few_near_zero(bits):
    t = Trellis.of(bits)
    signs = sign_of_window(np.arange(t.table.size), bits, t.window)
    wrong = np.where(signs == 1, t.table, -t.table) < 0
    assert wrong.mean() < 0.1
    assert np.abs(t.table[wrong].astype(int)).max(initial=0) * t.step < 0.3


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_correlation_of_signs_with_values_is_as_stated(bits):
    """1,000,000 values leave a standard error of 0.0007 (a product of variance 1 - 0.78^2)."""
    t = Trellis.of(bits)
    y, values = gaussian_values(1000, 1000, t, seed=6)
    index = vqindex.VQIndex(1000, bits, codec="trellis")
    fields = index._backend._search_trellis(values, t)
    signs = 2.0 * (t.swapped(fields)[:, t.warmup_fields :] >> (bits - 1)) - 1
    assert (signs.T * y).mean() / np.sqrt((y.astype(np.float64) ** 2).mean()) == pytest.approx(
        t.correlation, abs=0.0035
    )


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 21])
def test_stored_fields_give_back_the_path(bits, dim):
    t = Trellis.of(bits)
    _, values = gaussian_values(50, dim, t)
    fields = viterbi(values, t)
    stored = t.swapped(fields)
    np.testing.assert_array_equal(t.swapped(stored), fields)
    if bits > 1:
        assert not (stored[:, : t.warmup_fields] >> (bits - 1)).any(), (
            "the highest bits before the first coordinate are 0"
        )
        signs = sign_of_window(t.windows(fields), bits, t.window)
        np.testing.assert_array_equal(stored[:, t.warmup_fields :] >> (bits - 1), signs)


@pytest.mark.parametrize("bits", WIDTHS)
def test_costs_fit_int16(bits):
    """The spread over states is at most (window/bits - 1) costs; one more is added before the minimum is subtracted."""
    t = Trellis.of(bits)
    largest = (t.limit << t.gain) ** 2 >> 16
    assert largest * (t.window // bits) <= 32767
    assert t.limit << t.gain <= 32767
    assert 2 * PEAK <= 32767


@pytest.mark.parametrize(("bits", "window", "correlation"), [(1, 3, None), (2, 4, None), (2, 4, 0.8), (2, 6, 0.8)])
def test_viterbi_finds_the_cheapest_of_all_paths(bits, window, correlation):
    """Against enumeration of every stream that can be stored, on small trellises with random tables."""
    rng = np.random.default_rng(window)
    dim = 5 if bits == 1 else 3
    table = rng.integers(-127, 128, 2**window).astype(np.int8)
    t = Trellis(bits, window, table, 0.03, 0.0, *cost_limits(bits, window), correlation)
    values = rng.integers(-PEAK, PEAK, (dim, 40)).astype(np.int16)
    fields = viterbi(values, t)
    streams = np.array(list(itertools.product(range(2**bits), repeat=t.warmup_fields + dim)), np.uint8)
    if correlation:
        streams = streams[(streams[:, : t.warmup_fields] < 2 ** (bits - 1)).all(axis=1)]

    def costs(column, rows):
        x = np.clip(column - table[t.windows(rows)].astype(int) * FRACTION, -t.limit, t.limit) << t.gain
        return (x * x >> 16).sum(axis=1)

    for i in range(values.shape[1]):
        column = values[:, i].astype(int)
        assert costs(column, fields[i : i + 1])[0] == costs(column, streams).min()


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize(("rows", "dim"), [(1, 50), (31, 50), (32, 50), (33, 50), (70, 50), (40, 1), (40, 2), (40, 3)])
def test_every_instruction_set_gives_the_reference_fields(isa, bits, rows, dim):
    t = Trellis.of(bits)
    _, values = gaussian_values(rows, dim, t, seed=rows)
    values[:, 0] = 0
    values[:10, -1] = PEAK
    values[10:, -1] = -PEAK
    levels = t.table.astype(np.int16) * np.int16(FRACTION)
    limits = t.limit, t.gain, t.start_mask
    fields, starts = trellis_encode(np.ascontiguousarray(values.T), levels, bits, t.window, *limits, isa)
    expected = viterbi(values, t)
    np.testing.assert_array_equal(fields, expected[:, t.warmup_fields :])
    first = sum(expected[:, i].astype(int) << (i * bits) for i in range(t.warmup_fields))
    np.testing.assert_array_equal(starts, first)


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("reach", [0, 1, 127])
def test_the_largest_costs_at_every_coordinate_fit_the_search(isa, bits, reach):
    """Values far from all levels: each coordinate adds the largest cost to some path, or to all of them."""
    t = Trellis.of(bits)
    rng = np.random.default_rng(reach)
    t = t._replace(table=rng.integers(-reach, reach + 1, t.table.size).astype(np.int8))
    values = rng.choice(np.array([-PEAK, 0, PEAK], np.int16), (61, 40), p=[0.45, 0.1, 0.45])
    levels = t.table.astype(np.int16) * np.int16(FRACTION)
    limits = t.limit, t.gain, t.start_mask
    fields, _ = trellis_encode(np.ascontiguousarray(values.T), levels, bits, t.window, *limits, isa)
    np.testing.assert_array_equal(fields, viterbi(values, t)[:, t.warmup_fields :])


def test_ties_take_the_lowest_dropped_bits_and_the_lowest_state():
    flat = Trellis(2, 8, np.zeros(256, np.int8), 0.03, 0.0, *cost_limits(2, 8))
    fields = viterbi(np.zeros((6, 3), np.int16), flat)
    assert not fields.any(), "every path costs the same: all zero bits win"
    levels = np.zeros(256, np.int16)
    own, starts = trellis_encode(np.zeros((3, 6), np.int16), levels, 2, 8, flat.limit, flat.gain)
    assert not own.any()
    assert not starts.any()


@pytest.mark.parametrize("bits", WIDTHS)
def test_any_coordinate_decodes_from_its_window_alone(bits):
    t = Trellis.of(bits)
    _, values = gaussian_values(5, 21, t)
    fields = viterbi(values, t)
    rows = pack(fields, bits)
    np.testing.assert_array_equal(unpack(rows, fields.shape[1], bits), fields)
    windows = t.windows(fields)
    for i, row in enumerate(rows):
        stream = int.from_bytes(row.tobytes(), "little")
        for j in (0, 1, 7, 20):
            assert windows[i, j] == stream >> (j * bits) & (2**t.window - 1)


@pytest.mark.parametrize(("bits", "reach"), [(1, 0.277), (2, 0.077), (3, 0.0203), (4, 0.0060)])
def test_distortion_on_gaussian_sequences_is_as_stated(bits, reach):
    """Mean squared error over the sample's own energy; 1,000,000 values leave a standard error of about 0.15 %."""
    t = Trellis.of(bits)
    index = vqindex.VQIndex(1000, bits, codec="trellis")
    y, values = gaussian_values(1000, 1000, t, seed=5)
    fields = index._backend._search_trellis(values, t)
    error = y - (t.table[t.windows(fields)] * np.float32(t.step)).T
    found = (error.astype(np.float64) ** 2).mean() / (y.astype(np.float64) ** 2).mean()
    assert found == pytest.approx(t.mse, rel=0.0075)  # five standard errors
    assert 4.0**-bits < found < reach


def test_codes_do_not_depend_on_threads(monkeypatch):
    x = np.random.default_rng(0).standard_normal((3000, 24)).astype(np.float32)
    codec = Codec(IndexSpec(24, 2, codec="trellis"))
    expected = make_backend(codec, "reference").encode(x)
    for count in (1, 2, 3, 8):
        monkeypatch.setattr("vqindex.backends.cpu.cpu_count", lambda count=count: count)
        for got, want in zip(make_backend(codec, "native").encode(x), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_the_trellis_code_beats_the_scalar_code_at_the_same_bits():
    x = np.random.default_rng(1).standard_normal((3000, 64)).astype(np.float32)
    q = x[:200] + 0.6 * np.random.default_rng(2).standard_normal((200, 64)).astype(np.float32)
    truth = np.argsort(-(q @ x.T), axis=1)[:, :10]
    recall = {}
    for codec in ("trellis", "turboquant-prod"):
        index = vqindex.VQIndex(64, 2, codec=codec)
        index.add(x)
        recall[codec] = (index.search(q, 10).ids[:, :, None] == truth[:, None, :]).any(axis=2).mean()
    # 2,000 places: a standard error of 0.011 for each; the gap on Gaussian data is about 0.07.
    assert recall["trellis"] > recall["turboquant-prod"] + 0.03


@pytest.mark.parametrize("bits", [5, 6, 7, 8])
def test_wider_codes_are_refused_by_name(bits):
    with pytest.raises(InvalidInputError, match=rf"bits is {bits}; codec 'trellis' expects .* 1 to 4"):
        vqindex.VQIndex(16, bits, codec="trellis")


def test_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("VQINDEX_ISA", "sse9")
    with pytest.raises(BackendError, match=r"VQINDEX_ISA is .sse9.; this machine has: .*scalar"):
        vqindex.VQIndex(16, 2, codec="trellis")
    with pytest.raises(ValueError, match="isa is 'sse9'"):
        trellis_encode(np.zeros((1, 4), np.int16), np.zeros(256, np.int16), 2, 8, 100, 0, 0, "sse9")


def test_wrong_shapes_are_refused_by_the_extension():
    with pytest.raises(ValueError, match=r"2\^window levels"):
        trellis_encode(np.zeros((1, 4), np.int16), np.zeros(255, np.int16), 2, 8, 100, 0)
    with pytest.raises(ValueError, match="window of whole fields"):
        trellis_encode(np.zeros((1, 4), np.int16), np.zeros(128, np.int16), 2, 7, 100, 0)
    with pytest.raises(ValueError, match=r"gain 0\.\.3"):
        trellis_encode(np.zeros((1, 4), np.int16), np.zeros(256, np.int16), 2, 8, 100, 4)


def test_saved_trellis_index_loads_as_it_was(tmp_path):
    x = np.random.default_rng(3).standard_normal((200, 33)).astype(np.float32)
    index = vqindex.VQIndex(33, 3, "l2", codec="trellis")
    index.add(x)
    index.save(tmp_path / "t.vqi")
    for mmap in (False, True):
        loaded = vqindex.VQIndex.load(tmp_path / "t.vqi", mmap=mmap)
        for got, want in zip(loaded.search(x[:20], 5), index.search(x[:20], 5), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("codec", "version"), [("trellis", TABLE_VERSION), ("turboquant-mse", None)])
def test_a_file_names_the_version_of_its_tables(tmp_path, codec, version):
    index = vqindex.VQIndex(8, 2, codec=codec)
    index.add(np.eye(8))
    index.save(tmp_path / "t.vqi")
    assert file_format.read_header(tmp_path / "t.vqi").get("tables") == version


def test_a_file_with_another_table_is_refused(tmp_path, monkeypatch):
    index = vqindex.VQIndex(8, 2, codec="trellis")
    index.add(np.eye(8))
    index.save(tmp_path / "t.vqi")
    other = Trellis.of(2)
    changed = other.table.copy()
    changed[17] += 1
    monkeypatch.setattr(Trellis, "of", classmethod(lambda cls, bits: other._replace(table=changed)))
    with pytest.raises(vqindex.FileFormatError, match=r"its codebook is not the one .* codec='trellis'"):
        vqindex.VQIndex.load(tmp_path / "t.vqi")
