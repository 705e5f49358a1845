"""The ann-benchmarks layout: written and old files are read, and wrong files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vqindex_datasets import (
    ArraySource,
    DatasetError,
    exact_neighbors,
    is_annbench,
    load_annbench,
    write_annbench,
)

pytestmark = pytest.mark.filterwarnings("error")

RNG = np.random.default_rng(8)
TRAIN = RNG.standard_normal((50, 6)).astype(np.float32)
TEST = RNG.standard_normal((7, 6)).astype(np.float32)
IDS, DISTANCES = exact_neighbors(TRAIN, TEST, 4, "angular")


def test_a_written_file_reads_back_equal(tmp_path: Path) -> None:
    path = write_annbench(tmp_path / "new" / "a.hdf5", TRAIN, TEST, IDS, DISTANCES, "angular")
    assert [entry.name for entry in path.parent.iterdir()] == ["a.hdf5"]
    data = load_annbench(str(path))
    assert (data.path, data.metric, data.distance) == (path, "cosine", "angular")
    assert (data.n, data.nq, data.dim, data.gt_k) == (50, 7, 6, 4)
    with data.train as train:
        np.testing.assert_array_equal(train.read(), TRAIN)
    for got, want, dtype in (
        (data.test, TEST, np.float32),
        (data.neighbors, IDS, np.int64),
        (data.distances, DISTANCES, np.float64),
    ):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want)
    data.test[:] = 0
    np.testing.assert_array_equal(data.test, TEST)  # each read returns a new array, which a caller may change
    with h5py.File(path) as file:
        assert dict(file.attrs) == {
            "type": "dense",
            "distance": "angular",
            "dimension": 6,
            "point_type": "float",
        }
        assert [file[x].dtype.name for x in ("train", "test", "neighbors", "distances")] == [
            "float32",
            "float32",
            "int64",
            "float64",
        ]
        assert file["train"].chunks is None  # contiguous


def test_train_rows_may_come_from_a_source_or_chunks(tmp_path: Path) -> None:
    for name, train in (
        ("source", ArraySource(TRAIN)),
        ("chunks", (rows for rows in (TRAIN[:20], TRAIN[20:21], TRAIN[21:]))),
    ):
        path = write_annbench(tmp_path / f"{name}.hdf5", train, TEST, IDS, DISTANCES, "angular")
        np.testing.assert_array_equal(load_annbench(path).train.read(), TRAIN)


def test_small_types_are_stored_and_read_back(tmp_path: Path) -> None:
    half, half_test = TRAIN.astype(np.float16), TEST.astype(np.float16)
    path = write_annbench(
        tmp_path / "a.hdf5",
        half,
        half_test,
        IDS,
        DISTANCES,
        "angular",
        dtype=np.float16,
        neighbors_dtype=np.int32,
        distances_dtype=np.float32,
    )
    data = load_annbench(path)
    assert data.train.dtype == np.float16
    np.testing.assert_array_equal(data.train.read(), half)
    np.testing.assert_array_equal(data.test, half_test.astype(np.float32))
    assert data.neighbors.dtype == np.int64
    np.testing.assert_array_equal(data.distances, DISTANCES.astype(np.float32))


def test_the_old_layout_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        file["train"], file["test"] = TRAIN, TEST
        file["neighbors"], file["distances"] = IDS.astype(np.int32), DISTANCES.astype(np.float32)
        file.attrs["distance"] = np.bytes_(b"euclidean")
        file.attrs["point_type"] = "float"
    data = load_annbench(tmp_path / "old.hdf5")
    assert (data.metric, data.n, data.dim) == ("l2", 50, 6)
    np.testing.assert_array_equal(data.neighbors, IDS)


@pytest.mark.parametrize(
    ("distance", "metric"),
    [
        ("angular", "cosine"),
        ("cosine", "cosine"),
        ("normalized", "cosine"),
        ("euclidean", "l2"),
        ("ip", "ip"),
        ("dot", "ip"),
    ],
)
def test_each_distance_name_gives_its_metric(tmp_path: Path, distance: str, metric: str) -> None:
    path = write_annbench(tmp_path / "a.hdf5", TRAIN, TEST, IDS, DISTANCES, distance)
    assert load_annbench(path).metric == metric


def _set(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


def _attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_attribute("distance", "hamming"), "'hamming'; expected one of angular"),
        (lambda file: file.attrs.__delitem__("distance"), "no attribute 'distance'"),
        (_attribute("type", "sparse"), "'sparse'; expected 'dense'"),
        (_attribute("dimension", 7), "attribute says 7; expected 6"),
        (_set("train", TRAIN[:, 0]), "train has shape"),
        (_set("train", TRAIN > 0), "train has dtype bool"),
        (_set("test", TEST[:, :5]), "dimension 5"),
        (_set("neighbors", IDS[:6]), r"neighbors has shape \(6, 4\); expected \(7, k\)"),
        (_set("neighbors", IDS.astype(np.float32)), "neighbors has dtype float32"),
        (_set("distances", DISTANCES[:, :3]), r"distances has shape \(7, 3\); expected \(7, 4\)"),
        (_set("neighbors", np.where(IDS[2, 1] == IDS, 50, IDS)), r"is 50; expected 0 to 49"),
        (_set("neighbors", np.where(np.arange(28).reshape(7, 4) == 9, -1, IDS)), r"\[2, 1\] is -1"),
        (lambda file: file.__delitem__("distances"), "not in the ann-benchmarks layout"),
    ],
)
def test_a_file_that_disagrees_with_itself_is_refused(
    tmp_path: Path, change: Callable[[h5py.File], None], message: str
) -> None:
    path = write_annbench(tmp_path / "a.hdf5", TRAIN, TEST, IDS, DISTANCES, "angular")
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(DatasetError, match=message):
        load_annbench(path)


def test_is_annbench_accepts_only_readable_annbench_files(tmp_path: Path) -> None:
    path = write_annbench(tmp_path / "a.hdf5", TRAIN, TEST, IDS, DISTANCES, "angular")
    assert is_annbench(path)
    assert not is_annbench(tmp_path / "none.hdf5")
    assert not is_annbench(tmp_path)
    (tmp_path / "text.hdf5").write_text("not HDF5")
    assert not is_annbench(tmp_path / "text.hdf5")
    (tmp_path / "cut.hdf5").write_bytes(path.read_bytes()[:100])
    assert not is_annbench(tmp_path / "cut.hdf5")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["train"] = TRAIN
    assert not is_annbench(tmp_path / "other.hdf5")
    for name in ("none.hdf5", "text.hdf5", "cut.hdf5", "other.hdf5"):
        with pytest.raises(DatasetError, match=name):
            load_annbench(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "hamming"}, "'hamming'"),
        ({"test": TEST[0]}, r"test has shape \(6,\)"),
        ({"train": TRAIN[:, :5]}, r"\(50, 5\); expected \(m, 6\)"),
        ({"train": TRAIN[0]}, r"train has shape \(6,\)"),
        ({"train": iter([TRAIN, TRAIN[:, :5]])}, r"\(50, 5\); expected \(m, 6\)"),
        ({"train": TRAIN[:9]}, "expected 0 to 8, a train row"),
        ({"neighbors": IDS[:, :3]}, r"expected \(7, 3\)"),
        ({"train": TRAIN * 1e6, "dtype": np.float16}, r"train\[0, 0\] is .*float16"),
        ({"test": TEST * np.nan}, r"test\[0, 0\] is nan"),
        ({"dtype": np.int8}, "int8"),
    ],
)
def test_nothing_is_written_on_errors(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments = {
        "train": TRAIN,
        "test": TEST,
        "neighbors": IDS,
        "distances": DISTANCES,
        "distance": "angular",
    }
    (tmp_path / "a.hdf5").write_text("old")
    with pytest.raises(DatasetError, match=message):
        write_annbench(tmp_path / "a.hdf5", **(arguments | change))
    assert [path.name for path in tmp_path.iterdir()] == ["a.hdf5"]
    assert (tmp_path / "a.hdf5").read_text() == "old"
