"""What users may pass as vectors, queries and ids, and what is refused. Casts are exact or NumPy's."""

import h5py
import numpy as np
import pytest

from vqindex import InvalidInputError, UnknownIdError, VQIndex
from vqindex._native import all_finite
from vqindex.arrays import as_ids, as_matrix, as_queries, float_chunks

DIM = 6
ROWS = 9
# Small whole numbers: every dtype below holds them exactly.
WHOLE = np.random.default_rng(0).integers(0, 100, (ROWS, DIM)).astype(np.float32)


def through(array, rows=4, dim=DIM):
    """Return what the index would encode, joined from its chunks."""
    chunks = list(float_chunks(as_matrix(array, dim, "vectors"), rows, "vectors"))
    for chunk in chunks:
        assert chunk.dtype == np.float32
        assert chunk.flags.c_contiguous
        assert len(chunk) <= rows
    return np.concatenate(chunks) if chunks else np.empty((0, dim), np.float32)


class Sliced:
    """Shape, dtype and slices, and nothing else."""

    def __init__(self, array):
        self._array, self.shape, self.dtype, self.asked = array, array.shape, array.dtype, []

    def __getitem__(self, at):
        self.asked.append(at)
        return self._array[at]


class BareDlpack:
    """DLPack and nothing else."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class BareArray:
    """``__array__`` and nothing else."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array if dtype is None else self._array.astype(dtype)


# ---- vectors


@pytest.mark.parametrize("size", [0, 1, 3, 4, 15, 16, 17, 4095, 4096, 4097, 8200])
def test_a_value_that_is_not_finite_is_seen_wherever_it_is(size):
    values = np.full(size, np.finfo(np.float32).max, np.float32)
    values[::2] *= -1
    assert all_finite(values)
    for at in {0, size // 2, size - 1} if size else ():
        for wrong in (np.nan, np.inf, -np.inf):
            bad = values.copy()
            bad[at] = wrong
            assert not all_finite(bad), (at, wrong)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">f4", ">i2"])
def test_every_real_dtype_keeps_its_values(dtype):
    np.testing.assert_array_equal(through(WHOLE.astype(dtype)), WHOLE)


def test_float64_is_rounded_to_nearest():
    fine = np.random.default_rng(0).standard_normal((ROWS, DIM))
    np.testing.assert_array_equal(through(fine), fine.astype(np.float32))
    subnormal = np.full((1, DIM), 1e-42)
    np.testing.assert_array_equal(through(subnormal), subnormal.astype(np.float32))
    np.testing.assert_array_equal(through(np.full((1, DIM), 1e-300)), np.zeros((1, DIM), np.float32))


@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: np.repeat(x, 3, axis=1)[:, ::3],
        lambda x: x[::-1][::-1],
        lambda x: x[:, ::-1].copy()[:, ::-1],
        lambda x: x.T.copy().T,
        lambda x: x.tolist(),
        lambda x: tuple(map(tuple, x.tolist())),
        list,
        lambda x: x.astype(int).tolist(),
        Sliced,
        BareDlpack,
        BareArray,
        np.ma.masked_array,
        memoryview,
    ],
)
def test_every_form_of_array_keeps_its_values(form):
    np.testing.assert_array_equal(through(form(WHOLE)), WHOLE)


def test_input_is_not_changed_and_not_kept():
    x = WHOLE.copy()
    x.setflags(write=False)
    index = VQIndex(DIM)
    index.add(x)
    before = index.search(WHOLE, 3)
    y = WHOLE.copy()
    other = VQIndex(DIM)
    other.add(y)
    y[:] = 0
    for a, b in zip(before, other.search(WHOLE, 3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_memory_maps_and_files_are_read_by_slices(tmp_path):
    np.save(tmp_path / "x.npy", WHOLE)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert as_matrix(mapped, DIM, "vectors") is mapped
    np.testing.assert_array_equal(through(mapped), WHOLE)
    sliced = Sliced(WHOLE)
    assert as_matrix(sliced, DIM, "vectors") is sliced
    through(sliced, rows=4)
    assert sliced.asked == [slice(0, 4), slice(4, 8), slice(8, 12)]
    for dtype in ("f2", "f4", "f8", "u1"):
        with h5py.File(tmp_path / f"{dtype}.h5", "w") as file:
            dataset = file.create_dataset("x", data=WHOLE.astype(dtype))
            assert as_matrix(dataset, DIM, "vectors") is dataset
            np.testing.assert_array_equal(through(dataset), WHOLE)
            np.testing.assert_array_equal(as_queries(dataset, DIM)[0], WHOLE)


def test_empty_arrays_of_any_form_add_no_rows():
    for nothing in ([], np.empty((0, DIM)), np.empty(0), np.empty((0, DIM), np.int8)):
        assert through(nothing).shape == (0, DIM)
    with pytest.raises(InvalidInputError, match="have 5 columns; the index has dim 6"):
        through(np.empty((0, 5)))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, DIM), bool), "dtype bool"),
        (np.zeros((3, DIM), complex), "dtype complex128"),
        (np.zeros((3, DIM), object), "dtype object"),
        (np.full((3, DIM), "1.5"), "dtype <U3"),
        (np.full((3, DIM), b"1.5"), "dtype |S3"),
        (np.zeros((3, DIM), "M8[s]"), "dtype datetime64"),
        (np.zeros((3, DIM), "m8[s]"), "dtype timedelta64"),
        (np.zeros((3, DIM), [("a", "f4")]), "dtype"),
        ([[True] * DIM], "dtype bool"),
        ([["1"] * DIM], "dtype <U1"),
        ([[None] * DIM], "dtype object"),
        (np.ma.masked_equal(WHOLE, WHOLE[0, 0]), "masked"),
        ([[2**70] * DIM], "dtype object"),
        ([[1.0] * DIM, [1.0]], "ragged"),
        ([[1.0] * DIM, 1.0], "ragged"),
        (np.zeros(DIM), r"shape (6,), one vector; expected (n, 6), here vectors[None]"),
        (np.zeros((2, 3, DIM)), r"shape (2, 3, 6); expected (n, 6)"),
        (1.5, r"vectors is 1.5; expected an array of shape (n, 6)"),
        ("vectors.npy", r"vectors is 'vectors.npy'; expected an array of shape (n, 6)"),
        (None, "vectors is None; expected an array of shape (n, 6)"),
        ({1: 2}, r"vectors is a dict; expected an array of shape (n, 6)"),
        (np.zeros((3, DIM + 1)), "7 columns; the index has dim 6"),
        (np.zeros((3, 0)), "0 columns; the index has dim 6"),
    ],
)
def test_wrong_vectors_are_refused_and_change_nothing(array, words):
    index = VQIndex(DIM)
    with pytest.raises(InvalidInputError) as raised:
        index.add(array)
    assert words in str(raised.value)
    assert len(index) == 0


def test_a_source_whose_slices_contradict_it_is_refused():
    liar = Sliced(WHOLE)
    liar._array = WHOLE.astype(complex)
    with pytest.raises(InvalidInputError, match="complex"):
        through(liar)
    for wrong, shape in ((WHOLE[:, 0], r"4,"), (WHOLE[:, :5], "4, 5"), (WHOLE[:2], "2, 6")):
        liar._array = wrong
        with pytest.raises(InvalidInputError, match=rf"shape \({shape}\); expected numbers of shape \(4, 6\)"):
            through(liar)


@pytest.mark.parametrize("short", [lambda block: block[:10], lambda block: np.repeat(block, 2, axis=0)])
def test_a_source_of_fewer_or_more_rows_than_it_said_changes_nothing(short):
    class Liar(Sliced):
        def __getitem__(self, at):
            return short(super().__getitem__(at))

    liar, index = Liar(np.resize(WHOLE, (300, DIM))), VQIndex(DIM)
    for ids in (None, range(300)):
        with pytest.raises(InvalidInputError, match=r"vectors slice to .*; expected numbers of shape \(300, 6\)"):
            index.add(liar, ids)
    assert len(index) == 0
    index.add(np.resize(WHOLE, (300, DIM)))
    with pytest.raises(InvalidInputError, match="vectors of rerank slice to"):
        index.search(WHOLE, 300, rerank=liar)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_not_finite_is_named_by_row_and_column(dtype, value):
    x = WHOLE.astype(dtype)
    x[7, 2] = value
    x[8, 0] = value
    with pytest.raises(InvalidInputError, match=rf"^vectors\[7, 2\] is {value}; expected a finite"):
        through(x, rows=4)  # row 3 of the second chunk


def test_overflow_to_infinity_is_refused():
    x = WHOLE.astype(np.float64)
    x[3, 1] = -1e39
    with pytest.raises(InvalidInputError, match=r"vectors\[3, 1\] is -1e\+39; expected a finite float32"):
        through(x)
    x[3, 1] = float(np.finfo(np.float32).max)
    assert through(x)[3, 1] == np.finfo(np.float32).max


# ---- queries


def test_queries_may_have_one_or_two_dimensions():
    for form in (np.asarray, np.ndarray.tolist, BareDlpack, lambda x: x.astype("i1"), lambda x: np.repeat(x, 2)[::2]):
        block, single = as_queries(form(WHOLE[0]), DIM)
        assert single
        np.testing.assert_array_equal(block, WHOLE[:1])
    block, single = as_queries(WHOLE, DIM)
    assert not single
    np.testing.assert_array_equal(block, WHOLE)
    assert as_queries([], DIM)[0].shape == (0, DIM)
    assert as_queries([[1.5]], 1)[1] is False
    assert as_queries([1.5], 1)[1] is True
    with pytest.raises(InvalidInputError, match="queries have 5 columns; the index has dim 6"):
        as_queries(np.zeros(5), DIM)
    with pytest.raises(InvalidInputError, match=r"queries\[0, 4\] is nan"):
        as_queries([0, 0, 0, 0, np.nan, 0], DIM)


# ---- ids


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "u4", "i8", "u8", ">i8"])
def test_ids_of_every_integer_dtype_become_int64(dtype):
    ids = np.array([5, 3, 100], dtype)
    out = as_ids(ids, 3)
    assert out.dtype == np.int64
    assert out.tolist() == [5, 3, 100]


def test_ids_of_every_form_keep_their_values():
    for ids in ([5, 3], (5, 3), range(5, 1, -2), BareDlpack(np.array([5, 3])), np.array([5, 0, 3, 0])[::2]):
        assert as_ids(ids, 2).tolist() == [5, 3]
    assert as_ids([], 0).tolist() == []
    assert as_ids([2**63 - 1], 1).tolist() == [2**63 - 1]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([0, -1, 2], "id -1 is negative"),
        ([0, 1], "2 ids were given for 3 vectors"),
        ([0, 1, 0], "given twice: 0"),
        ([7, 7, 7], "given twice: 7"),
        ([0.0, 1.0, 2.0], "dtype float64"),
        ([True, False, True], "dtype bool"),
        (["a", "b", 3], "id 3 is among ids that are strings"),
        ([0, "b", 3], "dtype <U"),
        ("abc", "ids is 'abc'; expected a list"),
        (["a", "b", "a"], "given twice: 'a'"),
        (["a", "b"], "2 ids were given for 3 vectors"),
        (["a", "b", "\ud800"], "has no UTF-8 form"),
        ([b"a", b"b", b"c"], "dtype |S1"),
        ([[0, 1, 2]], "shape (1, 3)"),
        (5, "ids is 5; expected a list or an array of ids"),
        ([2**63, 2**63 + 1, 2**63 + 2], "9223372036854775810 does not fit int64"),
        ([0, 1, 2**64], "dtype object"),
        (np.array([0, 1, 2**64 - 1], np.uint64), "18446744073709551615 does not fit int64"),
        (np.array([0, 1, -(2**63)]), "id -9223372036854775808 is negative"),
    ],
)
def test_wrong_ids_are_refused_and_change_nothing(ids, words):
    index = VQIndex(DIM)
    with pytest.raises(InvalidInputError) as raised:
        index.add(WHOLE[:3], ids=ids)
    assert words in str(raised.value)
    assert len(index) == 0


def test_many_repeated_ids_are_abridged():
    with pytest.raises(InvalidInputError, match=r"given twice: 0, 1, 2, 3, 4 and 45 more$"):
        as_ids(list(range(50)) * 2, 100)


# ---- torch


def test_torch_vectors_of_every_dtype_keep_their_values():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64):
        x = torch.tensor(WHOLE).to(dtype)
        np.testing.assert_array_equal(through(x), WHOLE)
        np.testing.assert_array_equal(as_queries(x[0], DIM)[0], WHOLE[:1])
    np.testing.assert_array_equal(through(torch.tensor(WHOLE, requires_grad=True)), WHOLE)
    np.testing.assert_array_equal(through(torch.tensor(WHOLE.T.copy()).T), WHOLE)
    np.testing.assert_array_equal(through(BareDlpack(torch.tensor(WHOLE))), WHOLE)
    # Values that bfloat16 and float16 round: they are widened, not rounded again.
    fine = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.bfloat16, torch.float16):
        np.testing.assert_array_equal(through(fine.to(dtype)), fine.to(dtype).float().numpy())
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(InvalidInputError, match="dtype"):
            through(torch.zeros(3, DIM, dtype=dtype))
    bad = torch.tensor(WHOLE).to(torch.bfloat16)
    bad[6, 5] = float("nan")
    with pytest.raises(InvalidInputError, match=r"vectors\[6, 5\] is nan"):
        through(bad)


def test_torch_arguments_give_the_results_of_numpy():
    torch = pytest.importorskip("torch")
    ours, theirs = VQIndex(DIM), VQIndex(DIM)
    ours.add(WHOLE, ids=np.arange(ROWS) * 2)
    theirs.add(torch.tensor(WHOLE), ids=torch.arange(ROWS) * 2)
    for a, b in zip(ours.search(WHOLE, 4), theirs.search(torch.tensor(WHOLE, requires_grad=True), 4), strict=True):
        assert isinstance(b, np.ndarray)
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(ours.reconstruct([4, 2]), theirs.reconstruct(torch.tensor([4, 2])))
    with pytest.raises(UnknownIdError):
        theirs.reconstruct(torch.tensor([3]))
