"""Rows as records: golden bytes, round trips, all the ways to write them, and stores of rows that have them."""

import itertools

import gate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import coded, in_records

from vqindex import InvalidInputError
from vqindex.backends.registry import make_backend
from vqindex.codes.bitplanes import BLOCK_ROWS, StoredRows, join, join_rows, split
from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded
from vqindex.codes.packing import unpack
from vqindex.codes.records import (
    RecordLayout,
    empty_records,
    pack_records,
    split_stored,
    unpack_records,
)
from vqindex.rows.row_store import RowStore
from vqindex.spec import IndexSpec

DIMS = (1, 2, 7, 8, 9, 16, 63, 64, 65, 100)
ROWS = (0, 1, 63, 64, 65, 130)
CODES = [
    *((codec, bits) for codec in ("turboquant-prod", "turboquant-mse") for bits in (1, 2, 4, 5)),
    ("turboquant-mse", 8),
    *(("trellis", bits) for bits in (1, 2, 3, 4)),
]
every_code = pytest.mark.parametrize(("codec", "bits"), CODES)


def assert_same_rows(got: Encoded, want: Encoded):
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def assert_same_stored(got: StoredRows, want: StoredRows):
    assert_same_rows(got[:4], want[:4])
    assert (got.records is None) == (want.records is None)
    if want.records is not None:
        np.testing.assert_array_equal(got.records, want.records)


def put(spec, backend="native"):
    return make_backend(Codec(spec), backend).put


# ---- the layout


@pytest.mark.parametrize("name", gate.RECORD_SPECS)
def test_records_have_the_golden_bytes(golden, name):
    spec = gate.RECORD_SPECS[name]
    rows = make_backend(Codec(spec), "native").encode(gate.corpus(spec.dim))
    want = golden("records.json")[name]
    assert list(RecordLayout.of(spec)) == want["layout"]
    block = empty_records(spec, rows.rows)
    put(spec)(rows, block, 0)
    for records in (pack_records(spec, rows), block.records):
        assert records[20].tobytes().hex() == want["row 20"]
        assert gate.digest(records) == want["digest"]


@pytest.mark.parametrize(
    ("spec", "layout"),
    [
        # size, sign bytes, code at, code bytes, rescale at, norm at
        (IndexSpec(384, 4, "cosine"), (196, 0, 0, 192, 192, None)),
        (IndexSpec(100, 4, "l2"), (64, 0, 0, 50, 52, 56)),
        (IndexSpec(384, 2, "cosine", codec="trellis"), (104, 48, 48, 49, 100, None)),
        (IndexSpec(384, 1, "cosine", codec="trellis"), (64, 0, 0, 49, 52, None)),
        (IndexSpec(1, 4, "ip"), (16, 0, 0, 1, 4, 8)),
        (IndexSpec(96, 4, "cosine"), (64, 0, 0, 48, 48, None)),
        (IndexSpec(120, 4, "cosine"), (64, 0, 0, 60, 60, None)),
        (IndexSpec(121, 4, "cosine"), (68, 0, 0, 61, 64, None)),
        (IndexSpec(24, 4, "cosine"), (16, 0, 0, 12, 12, None)),
        (IndexSpec(25, 4, "cosine"), (32, 0, 0, 13, 16, None)),
    ],
)
def test_layouts_equal_sums_by_hand(spec, layout):
    assert RecordLayout.of(spec) == layout


@every_code
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_records_are_as_defined_byte_by_byte(codec, bits, metric):
    for dim in DIMS:
        spec = IndexSpec(dim, bits, metric, codec=codec)
        layout, rows = RecordLayout.of(spec), coded(spec, 5)
        scalars = rows.rescale[:, None] if rows.norm is None else np.stack([rows.rescale, rows.norm], axis=1)
        for record, code, floats in zip(pack_records(spec, rows), rows.codes, scalars, strict=True):
            want = code.tobytes()
            if codec == "trellis" and bits > 1:
                fields = unpack(code[None], spec.fields, bits)[0]
                signs = [int(field) >> (bits - 1) for field in fields[spec.warmup_fields :]]
                lower = sum((int(field) & 2 ** (bits - 1) - 1) << (bits - 1) * i for i, field in enumerate(fields))
                want = sum(sign << i for i, sign in enumerate(signs)).to_bytes(-(-dim // 8), "little")
                want += lower.to_bytes(spec.row_bytes, "little")
            want += bytes(-len(want) % 4) + floats.tobytes()
            size = next((size for size in (16, 32, 64) if len(want) <= size), len(want))
            assert layout.size == size
            assert record.tobytes() == want + bytes(size - len(want))


@pytest.mark.parametrize("kwargs", [{"codec": "qjl"}, {"sketch": "orthogonal"}, {"sketch": "gaussian"}])
def test_codes_with_a_second_projection_have_no_records(kwargs):
    spec = IndexSpec(16, 3, **kwargs)
    with pytest.raises(
        InvalidInputError, match=r"has no graph; expected turboquant-prod with sketch 'shared', .*trellis"
    ):
        RecordLayout.of(spec)
    with pytest.raises(InvalidInputError, match="has no graph"):
        RowStore(spec, put(spec), records=True)


@every_code
@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_unpacking_undoes_packing(codec, bits, metric):
    for dim, n in itertools.product(DIMS, ROWS):
        spec = IndexSpec(dim, bits, metric, codec=codec)
        rows = coded(spec, n)
        records = pack_records(spec, rows)
        assert records.ctypes.data % 64 == 0 or not n
        assert_same_rows(unpack_records(spec, records), rows)
        stored = in_records(spec, rows)
        assert_same_rows(join(spec, stored), rows)
        assert_same_stored(split_stored(spec, stored), split(spec, rows))
        assert split_stored(spec, split(spec, rows)).records is None


def test_stored_rows_with_records_count_each_byte_once():
    spec = IndexSpec(100, 4, "l2")
    stored = in_records(spec, coded(spec, 70))
    assert stored.nbytes == 2 * 13 * 64 + 70 * 64
    assert stored.codes.base is not None
    assert all(np.shares_memory(part, stored.records) for part in (stored.codes, stored.rescale, stored.norm))


# ---- rows written into allocated records


@pytest.mark.parametrize("backend", ["native", "reference"])
@every_code
def test_rows_put_into_records_equal_the_definition(backend, codec, bits):
    for dim in DIMS:
        spec = IndexSpec(dim, bits, "l2", codec=codec)
        write = put(spec, backend)
        for start, n in itertools.product((0, 1, 63, 64), (0, 1, 2, 65)):
            before, rows = coded(spec, start + n + 3, seed=1), coded(spec, n)
            block = empty_records(spec, before.rows)
            write(before, block, 0)
            assert_same_stored(block, in_records(spec, before))
            write(rows, block, start)
            both = [np.concatenate([a[:start], b, a[start + n :]]) for a, b in zip(before, rows, strict=True)]
            assert_same_stored(block, in_records(spec, Encoded(*both)))


@settings(max_examples=40, deadline=None)
@given(
    code=st.sampled_from(CODES),
    dim=st.integers(1, 70),
    n=st.integers(0, 150),
    at=st.data(),
)
def test_any_rows_can_be_gathered_from_records(code, dim, n, at):
    spec = IndexSpec(dim, code[1], codec=code[0])
    rows = coded(spec, n)
    stored = in_records(spec, rows)
    start = at.draw(st.integers(0, n + 2))
    assert_same_rows(join_rows(spec, stored, slice(start, start + 70)), rows.select(slice(start, start + 70)))
    picked = np.array(at.draw(st.lists(st.integers(0, n - 1), max_size=9)) if n else [], np.int64)
    assert_same_rows(join_rows(spec, stored, picked), rows.select(picked))


# ---- stores of rows


STORES = [("turboquant-prod", 4, "l2"), ("turboquant-prod", 1, "cosine"), ("trellis", 2, "ip"), ("trellis", 1, "l2")]
every_store = pytest.mark.parametrize(
    "spec", [IndexSpec(17, bits, metric, codec=codec) for codec, bits, metric in STORES]
)


def filled(spec, sizes, backend="native", *, records=True):
    """Return a store and its rows, which were appended in parts of some sizes."""
    rows, store = coded(spec, sum(sizes)), RowStore(spec, put(spec, backend), records=records)
    edges = np.cumsum([0, *sizes]).tolist()
    for start, stop in itertools.pairwise(edges):
        store = store.fork()
        store.append(rows.select(slice(start, stop)))
    return store, rows


def assert_holds(store, rows, *, records=True):
    """Check the rows of a store, in whole blocks of one layout."""
    assert len(store) == rows.rows
    assert store.has_whole_blocks
    first = 0
    for block in store.stored():
        assert (block.records is not None) == records
        want = rows.select(slice(first, first + block.rows))
        expected = in_records(store._spec, want) if records else split(store._spec, want)
        signs = None if block.signs is None else np.concatenate(block.sign_parts())
        assert_same_stored(block._replace(signs=signs), expected)
        if records:
            assert block.records.ctypes.data % 64 == 0
        first += block.rows


@every_store
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_store_of_records_grows_like_one_without(spec, backend, monkeypatch):
    monkeypatch.setattr("vqindex.rows.row_store.SEGMENT_ROWS", 2048)
    store, rows = filled(spec, [1, 63, 64, 900, 1, 3000, 65], backend)
    assert store.has_records
    assert len(store.stored()) > 2
    assert_holds(store, rows)
    assert_same_rows(store.gather(np.array([0, 4093, 64, 1500])), rows.select(np.array([0, 4093, 64, 1500])))
    plain, _ = filled(spec, [4094], records=False)
    assert not plain.has_records
    assert_holds(plain, rows, records=False)


@every_store
def test_a_fork_of_records_leaves_the_store_before_it_unchanged(spec):
    store, rows = filled(spec, [70])
    fork = store.fork()
    fork.append(coded(spec, 9, seed=3))
    other = store.fork()  # its room was given out: it gets a copy
    other.append(coded(spec, 5, seed=4))
    assert_holds(store, rows)
    for one, more in ((fork, coded(spec, 9, seed=3)), (other, coded(spec, 5, seed=4))):
        both = Encoded(*(None if a is None else np.concatenate([a, b]) for a, b in zip(rows, more, strict=True)))
        assert_holds(one, both)


@every_store
def test_selected_and_first_rows_of_records_keep_their_bytes(spec):
    store, rows = filled(spec, [200, 300])
    at = np.flatnonzero(np.arange(500) % 3 > 0)
    assert_holds(store.select(at), rows.select(at))
    assert store.select(at).has_records
    assert_holds(store.first(100), rows.select(slice(0, 100)))
    joined = store.first(128).joined(store.select(np.arange(300, 500)))
    assert_holds(joined, rows.select(np.r_[0:128, 300:500]))


@every_store
@pytest.mark.parametrize("records", [True, False])
def test_blocks_of_either_layout_are_sealed_as_they_are(spec, records):
    rows = coded(spec, 100)
    block = in_records(spec, rows) if records else split(spec, rows)
    store = RowStore(spec, put(spec), records=records)
    store.seal(block)
    assert np.shares_memory(store.stored()[0].rescale, block.rescale)
    assert_holds(store, rows, records=records)
    other = RowStore(spec, put(spec), records=not records)
    other.seal(block, whole=True)
    assert (other.stored()[0].records is not None) == records
    assert_holds(other.select(np.arange(7, 99)), rows.select(slice(7, 99)), records=not records)
    assert_same_rows(other.gather(np.arange(100)), rows)


@every_store
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_stores_are_converted_to_records_and_back(spec, backend, monkeypatch):
    monkeypatch.setattr("vqindex.rows.row_store.SEGMENT_ROWS", 1024)
    monkeypatch.setattr("vqindex.rows.row_store._CONVERT_VALUES", 17 * 100)  # several batches a block
    plain, rows = filled(spec, [1000, 1000, 5], backend, records=False)
    store = plain.converted(records=True)
    assert_holds(store, rows)
    assert_holds(plain, rows, records=False)
    assert [block.rows for block in store.stored()] == [block.rows for block in plain.stored()]
    more = coded(spec, 30, seed=9)
    store.append(more)
    both = Encoded(*(None if a is None else np.concatenate([a, b]) for a, b in zip(rows, more, strict=True)))
    assert_holds(store, both)
    assert_holds(store.converted(records=False), both, records=False)
    same = store.converted(records=True)
    for one, other in zip(same.stored(), store.stored(), strict=True):
        assert np.shares_memory(one.records, other.records)


def test_converting_an_empty_store_gives_an_empty_one_of_the_other_layout():
    spec = IndexSpec(9, 2)
    store = RowStore(spec, put(spec)).converted(records=True)
    assert (len(store), store.has_records, store.stored()) == (0, True, [])
    assert store.empty_block().records.shape == (0, RecordLayout.of(spec).size)


def test_blocks_of_records_have_no_more_bytes_than_others(monkeypatch):
    monkeypatch.setattr("vqindex.rows.row_store.SEGMENT_BYTES", 2**17)
    spec = IndexSpec(1, 1, "cosine")
    store, _ = filled(spec, [20_000])
    assert [block.nbytes > 2**16 for block in store.stored()] == [True, True, True]
    assert max(block.nbytes for block in store.stored()) <= 2**17


def test_bytes_of_a_store_count_each_byte_of_its_records_once():
    spec = IndexSpec(100, 4, "l2")
    store, _ = filled(spec, [1024])
    assert store.nbytes == 1024 * (13 + 64)
    assert store.first(BLOCK_ROWS).nbytes == BLOCK_ROWS * (13 + 64)
