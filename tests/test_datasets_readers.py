"""Readers: every format returns the written rows, and every kind of damage is named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vqindex_datasets import EXTENSIONS, ArraySource, DatasetError, open_vectors

pytestmark = pytest.mark.filterwarnings("error")

N, D = 23, 5


def _rows(dtype: str) -> np.ndarray:
    values = np.random.default_rng(1).integers(0, 100, (N, D))
    return values.astype(dtype)


def _write_vecs(path: Path, rows: np.ndarray) -> None:
    with path.open("wb") as file:
        for row in rows:
            file.write(struct.pack("<i", len(row)) + row.tobytes())


def _write_bin(path: Path, rows: np.ndarray) -> None:
    path.write_bytes(struct.pack("<ii", *rows.shape) + rows.tobytes())


def _write_hdf5(path: Path, rows: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["train"] = rows
        file["test"] = rows[:3]


def _write_parquet(path: Path, rows: np.ndarray) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"id": list(range(len(rows))), "vector": list(rows)})
    parquet.write_table(table, path, row_group_size=4)


WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray], Any]]] = {
    ".npy": ("float16", np.save),
    ".npz": ("float32", lambda path, rows: np.savez_compressed(path, rows)),
    ".hdf5": ("float32", _write_hdf5),
    ".h5": ("float64", _write_hdf5),
    ".fvecs": ("float32", _write_vecs),
    ".bvecs": ("uint8", _write_vecs),
    ".ivecs": ("int32", _write_vecs),
    ".fbin": ("float32", _write_bin),
    ".u8bin": ("uint8", _write_bin),
    ".i8bin": ("int8", _write_bin),
    ".parquet": ("float32", _write_parquet),
}


def test_every_extension_is_tested() -> None:
    assert set(EXTENSIONS) == set(WRITERS)


@pytest.mark.parametrize("extension", WRITERS)
def test_every_format_reads_back_what_was_written(tmp_path: Path, extension: str) -> None:
    dtype, write = WRITERS[extension]
    rows = _rows(dtype)
    path = tmp_path / f"vectors{extension}"
    write(path, rows)
    with open_vectors(path) as source:
        assert source.shape == (N, D)
        assert source.dtype == rows.dtype
        assert str(path) in source.name
        np.testing.assert_array_equal(source.read(), rows)
        np.testing.assert_array_equal(source.read(7, 19), rows[7:19])
        np.testing.assert_array_equal(source.read(3), rows[3:])
        assert source.read(4, 4).shape == (0, D)
        for size in (1, 4, 6, N, N + 1):
            chunks = list(source.chunks(size))
            assert all(0 < len(chunk) <= size for chunk in chunks)
            assert all(chunk.flags.c_contiguous and chunk.flags.writeable for chunk in chunks)
            np.testing.assert_array_equal(np.concatenate(chunks), rows)
    with pytest.raises(DatasetError, match="closed"):
        source.read()
    with pytest.raises(DatasetError, match="closed"):
        next(iter(source.chunks()))
    source.close()  # closing twice is harmless


@pytest.mark.parametrize("bounds", [(-1, 3), (5, 2), (0, N + 1)])
def test_bounds_outside_the_rows_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(DatasetError, match=rf"{bounds[0]}:{bounds[1]}.*{N}"):
        ArraySource(_rows("float32")).read(*bounds)


def test_chunks_of_0_rows_are_refused() -> None:
    with pytest.raises(DatasetError, match="chunks of 0 rows"):
        next(ArraySource(_rows("float32")).chunks(0))


def test_an_extension_in_capitals_is_known(tmp_path: Path) -> None:
    _write_vecs(tmp_path / "A.FVECS", _rows("float32"))
    np.testing.assert_array_equal(open_vectors(tmp_path / "A.FVECS").read(), _rows("float32"))


def test_unknown_extension_and_missing_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DatasetError, match=r"'\.csv'.*\.npy"):
        open_vectors(tmp_path / "a.csv")
    with pytest.raises(DatasetError, match=r"b\.npy: no such file"):
        open_vectors(tmp_path / "b.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(DatasetError, match="no such file"):
        open_vectors(tmp_path / "folder.npy")


@pytest.mark.parametrize("array", [np.zeros(4), np.zeros((2, 2, 2)), np.zeros((3, 0)), np.float32(1)])
@pytest.mark.parametrize("extension", [".npy", ".hdf5"])
def test_shapes_that_are_not_tables_are_refused(tmp_path: Path, array: np.ndarray, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    if extension == ".npy":
        np.save(path, array)
    else:
        with h5py.File(path, "w") as file:
            file["train"] = array
    with pytest.raises(DatasetError, match=r"2-D|one column"):
        open_vectors(path)


@pytest.mark.parametrize("dtype", ["complex64", "bool", "U3"])
def test_types_that_are_not_numbers_are_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2), dtype))
    with pytest.raises(DatasetError, match="expected floats or integers"):
        open_vectors(tmp_path / "a.npy")


class _Bomb:
    """An object whose unpickling ends the test run."""

    def __reduce__(self) -> Any:
        return (pytest.exit, ("something was unpickled",))


@pytest.mark.parametrize("extension", [".npy", ".npz"])
def test_pickles_are_refused(tmp_path: Path, extension: str) -> None:
    array = np.array([[_Bomb(), 1], [2, 3]], dtype=object)
    path = tmp_path / f"a{extension}"
    if extension == ".npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, train=array)
    with pytest.raises(DatasetError, match="pickle"):
        open_vectors(path)


def test_bare_pickle_is_refused(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "a.npy").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(DatasetError, match=r"not a \.npy array"):
        open_vectors(tmp_path / "a.npy")


def test_npy_may_be_empty_or_fortran_ordered_but_npz_may_not(tmp_path: Path) -> None:
    np.save(tmp_path / "empty.npy", np.zeros((0, 3), np.float32))
    assert open_vectors(tmp_path / "empty.npy").read().shape == (0, 3)
    rows = np.asfortranarray(_rows("float32"))
    np.save(tmp_path / "f.npy", rows)
    some = open_vectors(tmp_path / "f.npy").read(2, 9)
    assert some.flags.c_contiguous
    np.testing.assert_array_equal(some, rows[2:9])
    np.savez(tmp_path / "f.npz", rows)
    with pytest.raises(DatasetError, match="Fortran"):
        open_vectors(tmp_path / "f.npz")


def test_npz_reads_the_array_named_or_the_only_one(tmp_path: Path) -> None:
    rows = _rows("float32")
    np.savez(tmp_path / "a.npz", train=rows, other=rows + 1, flat=np.zeros(3))
    np.testing.assert_array_equal(open_vectors(tmp_path / "a.npz").read(), rows)
    np.testing.assert_array_equal(open_vectors(tmp_path / "a.npz", "other").read(), rows + 1)
    with pytest.raises(DatasetError, match=r"'nothing'.*flat.*other.*train"):
        open_vectors(tmp_path / "a.npz", "nothing")
    with pytest.raises(DatasetError, match="2-D"):
        open_vectors(tmp_path / "a.npz", "flat")
    np.savez(tmp_path / "b.npz", x=rows, y=rows)
    with pytest.raises(DatasetError, match=r"\['x', 'y'\].*dataset="):
        open_vectors(tmp_path / "b.npz")


def test_hdf5_reads_the_data_set_named_or_the_only_one(tmp_path: Path) -> None:
    rows = _rows("float32")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/vectors"] = rows
        file["names"] = np.zeros(4)
    np.testing.assert_array_equal(open_vectors(tmp_path / "a.h5").read(), rows)
    np.testing.assert_array_equal(open_vectors(tmp_path / "a.h5", "/group/vectors").read(), rows)
    with pytest.raises(DatasetError, match="'test'"):
        open_vectors(tmp_path / "a.h5", "test")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["more"] = rows
    with pytest.raises(DatasetError, match="dataset="):
        open_vectors(tmp_path / "a.h5")


@pytest.mark.parametrize("extension", [".npy", ".fvecs", ".fbin"])
def test_a_dataset_name_is_refused_where_there_are_none(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    WRITERS[extension][1](path, _rows("float32"))
    with pytest.raises(DatasetError, match="dataset='train'"):
        open_vectors(path, "train")


@pytest.mark.parametrize("extension", WRITERS)
@pytest.mark.parametrize("keep", ["nothing", "a byte less", "half"])
def test_truncated_files_are_refused(tmp_path: Path, extension: str, keep: str) -> None:
    dtype, write = WRITERS[extension]
    path = tmp_path / f"a{extension}"
    write(path, _rows(dtype))
    data = path.read_bytes()
    path.write_bytes({"nothing": b"", "a byte less": data[:-1], "half": data[: len(data) // 2 - 1]}[keep])
    with pytest.raises(DatasetError, match="expected"):
        open_vectors(path).read()


def test_wrong_headers_are_refused(tmp_path: Path) -> None:
    rows = _rows("float32")
    _write_vecs(tmp_path / "a.fvecs", rows)
    data = bytearray((tmp_path / "a.fvecs").read_bytes())
    record = 4 + 4 * D
    data[11 * record : 11 * record + 4] = struct.pack("<i", 6)
    (tmp_path / "a.fvecs").write_bytes(data)
    source = open_vectors(tmp_path / "a.fvecs")
    np.testing.assert_array_equal(source.read(0, 11), rows[:11])  # only the rows that are read are checked
    with pytest.raises(DatasetError, match=r"row 11 says dimension 6; expected 5"):
        source.read(3)
    for dim in (0, -4):
        (tmp_path / "b.bvecs").write_bytes(struct.pack("<i", dim) + b"1234")
        with pytest.raises(DatasetError, match=f"dimension {dim}"):
            open_vectors(tmp_path / "b.bvecs")
    for n, d in ((N + 1, D), (-1, D), (N, 0), (-N, -D)):
        (tmp_path / "c.fbin").write_bytes(struct.pack("<ii", n, d) + rows.tobytes())
        with pytest.raises(DatasetError, match=f"{n} x {d}"):
            open_vectors(tmp_path / "c.fbin")


def test_a_damaged_npz_member_is_refused(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((400, 50)).astype(np.float32)
    np.savez(tmp_path / "a.npz", rows)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DatasetError, match="damaged archive"):
        open_vectors(tmp_path / "a.npz").read()


def test_parquet_reads_the_column_named_or_the_only_one(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = _rows("float32")
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), D)
    table = pa.table({"a": fixed, "b": list(rows + 1), "name": ["x"] * N})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    np.testing.assert_array_equal(open_vectors(tmp_path / "a.parquet", "a").read(8, 21), rows[8:21])
    np.testing.assert_array_equal(open_vectors(tmp_path / "a.parquet", "b").read(8, 21), rows[8:21] + 1)
    with pytest.raises(DatasetError, match=r"\['a', 'b'\].*dataset="):
        open_vectors(tmp_path / "a.parquet")
    for column in ("name", "nothing"):
        with pytest.raises(DatasetError, match=repr(column)):
            open_vectors(tmp_path / "a.parquet", column)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1.0], "row 6 has 1 numbers; expected 2"),
        (None, "row 6 is null"),
        ([1.0, None], "row 6 holds a null"),
    ],
)
def test_parquet_rows_that_are_not_vectors_are_refused(tmp_path: Path, bad: Any, message: str) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lists = [[1.0, 2.0]] * 6 + [bad] + [[3.0, 4.0]] * 2
    parquet.write_table(pa.table({"v": lists}), tmp_path / "a.parquet", row_group_size=4)
    with pytest.raises(DatasetError, match=message):
        open_vectors(tmp_path / "a.parquet").read()
    with pytest.raises(DatasetError, match=message):
        list(open_vectors(tmp_path / "a.parquet").chunks(3))


def test_parquet_null_row_of_fixed_size_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lists = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    parquet.write_table(pa.table({"v": lists}), tmp_path / "a.parquet")
    # pyarrow before 26 can't read such a column at all and says so itself.
    with pytest.raises(DatasetError, match=r"row 1 is null|Expected all lists to be of size=2"):
        open_vectors(tmp_path / "a.parquet").read()


def test_parquet_without_pyarrow_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DatasetError, match=r"pip install 'vqindex\[parquet\]'"):
        open_vectors(tmp_path / "a.parquet")
