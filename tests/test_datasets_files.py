"""Why a file can't be read: each reason has its own message, and none of them is called a wrong layout."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from vqindex_datasets import (
    DatasetError,
    exact_knn,
    is_annbench,
    load_annbench,
    open_vectors,
    read_column,
    write_annbench,
)

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.fixture
def annbench(tmp_path: Path) -> Path:
    neighbors, distances = exact_knn(ROWS, ROWS[:4], 5, "l2")
    return write_annbench(tmp_path / "a.hdf5", ROWS, ROWS[:4], neighbors, np.sqrt(distances), "euclidean")


READERS = [load_annbench, open_vectors, lambda path: read_column(path, "train")]


@pytest.mark.skipif(os.name != "posix", reason="locks of HDF5 differ")
@pytest.mark.parametrize("mode", ["lock", "swmr"])
def test_a_file_that_another_process_writes_is_called_so(annbench: Path, mode: str) -> None:
    if mode == "swmr":
        with h5py.File(annbench, "w", libver="latest") as file:
            file["train"] = ROWS
    begin = "f.swmr_mode = True" if mode == "swmr" else "pass"
    code = f"import h5py; f = h5py.File({str(annbench)!r}, 'r+', libver='latest'); {begin}; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for read in (*READERS, is_annbench):
            with pytest.raises(DatasetError, match=r"a\.hdf5: open for writing in another process.*a closed file"):
                read(annbench)
        holder.communicate(b"\n")
    assert holder.returncode == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file (0 bytes)"),
        (b"hello, this is text\n" * 10, "not an HDF5 file"),
        (None, "truncated: it is shorter than its header says"),
    ],
)
def test_damage_of_hdf5_is_told_apart(annbench: Path, content: bytes | None, words: str) -> None:
    annbench.write_bytes(annbench.read_bytes()[:-50] if content is None else content)
    assert not is_annbench(annbench)
    for read in READERS:
        with pytest.raises(DatasetError) as caught:
            read(annbench)
        assert str(caught.value).startswith(f"{annbench}: {words}; expected ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
    ],
)
@pytest.mark.parametrize("name", ["a.hdf5", "a.npy", "a.npz", "a.parquet", "a.fvecs"])
def test_errors_of_the_system_are_no_complaints_about_content(
    annbench: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: OSError, words: str
) -> None:
    pytest.importorskip("pyarrow")
    path = annbench.with_name(name)
    if name != "a.hdf5":
        path.write_bytes(b"some bytes")

    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("h5py.File", refuse)
    monkeypatch.setattr("zipfile.ZipFile", refuse)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DatasetError) as caught:
        open_vectors(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert "layout" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_this_user_may_not_read_is_called_so(annbench: Path) -> None:
    annbench.chmod(0)
    for read in READERS:
        with pytest.raises(DatasetError, match="permission denied"):
            read(annbench)


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file_is_named(tmp_path: Path, read: object) -> None:
    assert callable(read)
    (tmp_path / "folder.hdf5").mkdir()
    cases = {"none.hdf5": "no such file; ", "folder.hdf5": "no such file, but a folder; "}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.hdf5")
        cases["pipe.hdf5"] = "no regular file, but a device, pipe or socket; "
    for name, words in cases.items():
        with pytest.raises(DatasetError) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {words}")


def test_a_file_below_a_file_does_not_exist(annbench: Path) -> None:
    with pytest.raises(DatasetError, match=r"x\.npy: no such file; expected a file of vectors"):
        open_vectors(annbench / "x.npy")


def test_damaged_rows_of_hdf5_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("train", data=ROWS, chunks=(5, 3), fletcher32=True)
        offset = file["train"].id.get_chunk_info(1).byte_offset
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with (
        open_vectors(path) as source,
        pytest.raises(DatasetError, match=r"a\.hdf5\[train\]: rows 4:8 can't be read"),
    ):
        source.read(4, 8)


@pytest.mark.parametrize(("cut", "words"), [(True, "truncated or damaged"), (False, "not a parquet file")])
def test_a_truncated_parquet_file_is_told_from_another_file(tmp_path: Path, cut: bool, words: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"v": ROWS.tolist()}), path)
    path.write_bytes(path.read_bytes()[:-20] if cut else b"hello " * 9)
    with pytest.raises(DatasetError) as caught:
        open_vectors(path)
    assert str(caught.value).startswith(f"{path}: {words} (")


def make_files(folder: Path) -> None:
    """Write a small file of every format that is not HDF5."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    ids = [f"doc {i}" for i in range(20)]
    parquet.write_table(arrow.table({"v": list(ROWS), "id": ids}), folder / "a.parquet", row_group_size=7)
    np.savez_compressed(folder / "a.npz", train=ROWS, id=np.arange(20))
    np.savez(folder / "b.npz", train=ROWS, id=np.arange(20))
    np.save(folder / "a.npy", ROWS)
    np.hstack([np.full((20, 1), 3, "<i4").view("<f4"), ROWS]).tofile(folder / "a.fvecs")
    (folder / "a.fbin").write_bytes(np.array([20, 3], "<i4").tobytes() + ROWS.tobytes())


@pytest.mark.parametrize("name", ["a.parquet", "a.npz", "b.npz", "a.npy", "a.fvecs", "a.fbin"])
def test_a_damaged_file_gives_its_rows_or_a_data_set_error(tmp_path: Path, name: str) -> None:
    make_files(tmp_path)
    path = tmp_path / name
    whole, rng = path.read_bytes(), np.random.default_rng(7)
    refused: list[str] = []
    for turn in range(200):
        data = bytearray(whole)
        near = [len(data), min(len(data), 128), len(data)][turn % 3]  # the header, the footer, and between
        at = int(rng.integers(near)) if turn % 3 < 2 else len(data) - 1 - int(rng.integers(min(len(data), 200)))
        data[at] ^= int(rng.integers(1, 256))
        path.write_bytes(data[: int(rng.integers(len(data)))] if turn % 10 == 0 else data)
        try:
            with open_vectors(path) as source:
                source.read()
            if not name.endswith(("npy", "vecs", "bin")):
                read_column(path, "id")
        except DatasetError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert [text for text in refused if not text.startswith(str(path))] == []


@pytest.mark.parametrize("error", [RuntimeError("past the end"), KeyError("precision is zero"), OSError("no such eof")])
def test_damage_inside_hdf5_has_one_class_of_error(
    annbench: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The library of HDF5 raises almost any class of error for damaged content."""

    def refuse(*args: object) -> None:
        raise error

    monkeypatch.setattr(h5py.Group, "visititems", refuse)
    monkeypatch.setattr(h5py.Group, "get", refuse)
    for read in READERS:
        with pytest.raises(DatasetError, match=rf"a\.hdf5: damaged \(.*{error.args[0]}"):
            read(annbench)
    assert not is_annbench(annbench)


# ---- parquet in order, and columns


def write_parquet(path: Path, rows: int, group: int, **columns: object) -> np.ndarray:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    vectors = np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32)
    parquet.write_table(arrow.table({"v": list(vectors), **columns}), path, row_group_size=group)
    return vectors


def test_parquet_read_in_order_decodes_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqindex_datasets._parquet._BATCH_ROWS", 7)
    vectors = write_parquet(tmp_path / "a.parquet", 100, 40)
    with open_vectors(tmp_path / "a.parquet") as source:
        decoded: list[int] = []
        convert = type(source)._to_numpy  # type: ignore[attr-defined]
        monkeypatch.setattr(
            type(source), "_to_numpy", lambda self, c, first: (decoded.append(len(c)), convert(self, c, first))[1]
        )
        parts = [source.read(start, min(start + 9, 100)) for start in range(0, 100, 9)]
        np.testing.assert_array_equal(np.concatenate(parts), vectors)
        assert sum(decoded) == 100
        assert max(decoded) <= 7


def test_parquet_reads_any_rows_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqindex_datasets._parquet._BATCH_ROWS", 7)
    vectors = write_parquet(tmp_path / "a.parquet", 100, 40)
    rng = np.random.default_rng(1)
    with open_vectors(tmp_path / "a.parquet") as source:
        for start in rng.integers(0, 101, 200):
            stop = int(rng.integers(start, 101))
            np.testing.assert_array_equal(source.read(int(start), stop), vectors[start:stop])


def test_columns_of_parquet_are_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    names = [f"doc {i}" for i in range(20)]
    write_parquet(
        tmp_path / "a.parquet", 20, 6,
        number=arrow.array(range(20, 40), "int32"), text=names, large=arrow.array(names, "large_string"),
        coded=arrow.array(names).dictionary_encode(), holes=[1, None, *range(18)], real=[0.5] * 20,
    )  # fmt: skip
    np.testing.assert_array_equal(read_column(tmp_path / "a.parquet", "number"), np.arange(20, 40))
    for name in ("text", "large", "coded"):
        assert read_column(tmp_path / "a.parquet", name).tolist() == names
    for name, words in {
        "numbr": r"no column 'numbr'; expected one of \['v', 'number', 'text'",
        "holes": "column 'holes' is null in row 1; expected an id",
        "real": "column 'real' holds double; expected integers or strings",
        "v": "column 'v' holds list",
    }.items():
        with pytest.raises(DatasetError, match=words):
            read_column(tmp_path / "a.parquet", name)


def test_columns_of_hdf5_and_npz_are_read(tmp_path: Path) -> None:
    names = [f"doc {i}" for i in range(20)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train"], file["in/number"], file["text"] = ROWS, np.arange(20), names
        file["fixed"] = np.array(names, "S")
    np.savez(tmp_path / "a.npz", train=ROWS, number=np.arange(20), text=names)
    for path, number in ((tmp_path / "a.h5", "in/number"), (tmp_path / "a.npz", "number")):
        np.testing.assert_array_equal(read_column(path, number), np.arange(20))
        assert read_column(path, "text").tolist() == names
        with pytest.raises(DatasetError, match=r"no (data set|array) 'nummer'; expected one of \['"):
            read_column(path, "nummer")
        with pytest.raises(DatasetError, match=r"\[train\]: dtype float32 and shape \(20, 3\); expected integers or"):
            read_column(path, "train")
    assert read_column(tmp_path / "a.h5", "fixed").tolist() == names
    np.save(tmp_path / "a.npy", ROWS)
    with pytest.raises(DatasetError, match=r"has no columns with names; expected one of \.npz, \.hdf5"):
        read_column(tmp_path / "a.npy", "id")
