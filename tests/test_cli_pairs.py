"""The commands pairs and neighbors."""

import csv
import json

import cli_tools
import numpy as np
import pytest
from cli_tools import one_object, vectors

import vqindex

run, ok, folder = map(pytest.fixture, (cli_tools.run, cli_tools.ok, cli_tools.folder))


@pytest.fixture(params=["int", "str"])
def index(request, folder):
    x = np.concatenate([vectors(60), vectors(5) + 0.01 * vectors(5, seed=5)])
    found = vqindex.VQIndex(10, 4, "cosine")
    found.add(x, [f"v{i}" for i in range(65)] if request.param == "str" else None)
    found.save("a.vqi")
    return found


def read(path):
    """Return the columns of a file of pairs."""
    if path.suffix == ".csv":
        rows = list(csv.reader(path.read_text().splitlines()))
        return dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return {name: [row[name] for row in rows] for name in rows[0]}
    if path.suffix == ".npz":
        return dict(np.load(path))
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pydict()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".npz", ".parquet"])
def test_files_of_pairs_hold_what_the_index_finds(index, ok, folder, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    want = vqindex.Pairs.joined(index.near_pairs(0.7))
    assert want.first.size >= 3
    path = folder / f"out{suffix}"
    shown = one_object(ok("pairs", "a.vqi", "--threshold", 0.7, "-o", path, "--json"))
    assert shown == {"index": "a.vqi", "vectors": 65, "pairs": want.first.size}
    for column, name in zip(want, ("first", "second", "score", "bound"), strict=True):
        assert np.array_equal(np.array(read(path)[name]).astype(str), np.array(column.tolist()).astype(str)) or (
            np.array_equal(np.array(read(path)[name], np.float32), column)
        )
    assert sorted(each.name for each in folder.iterdir() if "tmp" in each.name) == []


def test_a_graph_of_neighbors_is_that_of_the_index(index, ok):
    assert "neighbors  195" in ok("neighbors", "a.vqi", "-k", 3, "-o", "g.npz")
    got = np.load("g.npz")
    for name, array in index.neighbors_graph(3)._asdict().items():
        np.testing.assert_array_equal(got[name], array.astype(str) if array.dtype == object else array)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("pairs", "a.vqi", "--threshold", 0.9, "-o", "x.txt"), 2, "should end in"),
        (("pairs", "a.vqi", "--threshold", 1.5, "-o", "x.csv"), 1, "threshold is 1.5"),
        (("pairs", "a.vqi", "--threshold", 0.9, "--confidence", 0.2, "-o", "x.csv"), 1, "confidence is 0.2"),
        (("pairs", "a.vqi", "--threshold", 0.9, "-o", "none/x.csv"), 1, "none is not a folder"),
        (("neighbors", "a.vqi", "-o", "x.csv"), 2, "should end in .npz"),
    ],
)
def test_wrong_arguments_write_nothing(index, run, folder, args, code, words):
    before = sorted(folder.iterdir())
    found = run(*args)
    assert found[0] == code
    assert words in found[2]
    assert sorted(folder.iterdir()) == before
