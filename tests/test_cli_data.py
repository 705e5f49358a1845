"""The data of an index on the command line: which metric suits them, whether they are the right ones, and their ids."""

import json
import os

import cli_tools
import h5py
import numpy as np
import pytest
from cli_tools import DIM, no_constant, one_object, truth, vectors, write_annbench, write_fvecs

import vqindex
from vqindex_cli.samples import holds_others, sample_of
from vqindex_datasets import ArraySource

run, ok, folder = map(pytest.fixture, (cli_tools.run, cli_tools.ok, cli_tools.folder))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# ---- which metric


@pytest.mark.parametrize(
    ("rows", "metric", "reason"),
    [
        (unit(vectors(60)), "ip", "vectors are normalized, so inner product and cosine rank alike"),
        (unit(vectors(60)).astype(np.float16), "ip", "vectors are normalized"),
        (unit(vectors(60)) * 1.002, "cosine", "norms range from 1 to 1; --metric ip or l2 chooses another"),
        (np.eye(DIM, dtype=np.float32)[[0, 1, 2]] * [[2], [3], [5]], "cosine", "norms range from 2 to 5"),
        (np.eye(DIM, dtype=np.uint8) * 7, "cosine", "norms range from 7 to 7"),
        (np.zeros((0, DIM), np.float32), "cosine", "x.npy has no vectors to look at"),
    ],
)
@pytest.mark.parametrize("store", [(), ("--store",)])
def test_build_chooses_a_metric_and_says_why(folder, ok, rows, metric, reason, store):
    np.save("x.npy", rows)
    summary = one_object(ok("build", "x.npy", "-o", "a", *store, "--json"))
    assert summary["metric"] == metric
    assert summary["metric_reason"].startswith(reason)
    facts = one_object(ok("info", "a", "--json"))
    assert (facts["metric"], facts["metric_reason"]) == (metric, summary["metric_reason"])
    again = dict(line.split(None, 1) for line in ok("build", "x.npy", "-o", "b.vqi").splitlines()[1:])
    assert again["metric_reason"].strip() == summary["metric_reason"]


def test_unnormalized_embeddings_are_ranked_by_their_direction(folder, ok):
    """By inner product, the longest vectors would win every query."""
    x = unit(vectors(60)) * np.linspace(1, 50, 60, dtype=np.float32)[:, None]
    np.save("x.npy", x)
    ok("build", "x.npy", "-o", "a.vqi", "--bits", 8)
    found = vqindex.VQIndex.load("a.vqi").search(vectors(7, seed=1), 1).ids[:, 0]
    np.testing.assert_array_equal(found, truth(x, vectors(7, seed=1), "cosine")[:, 0])


@pytest.mark.parametrize(("distance", "metric"), [("cosine", "cosine"), ("l2", "l2"), ("ip", "ip")])
def test_the_distance_of_a_file_comes_before_its_norms(folder, ok, distance, metric):
    write_annbench("a.hdf5", distance, "new")
    for dataset in ((), ("--dataset", "train")):
        summary = one_object(ok("build", "a.hdf5", "-o", "a.vqi", "--force", *dataset, "--json"))
        assert summary["metric"] == metric
        assert summary["metric_reason"].startswith("the distance in a.hdf5 is '")


def test_the_distance_counts_without_true_neighbors(folder, ok):
    with h5py.File("x.h5", "w") as file:
        file["vectors"] = vectors(60)
        file.attrs["distance"] = "euclidean"
    assert one_object(ok("build", "x.h5", "-o", "a.vqi", "--json"))["metric"] == "l2"
    with h5py.File("x.h5", "a") as file:
        file.attrs["distance"] = "of my own"
    assert one_object(ok("build", "x.h5", "-o", "a.vqi", "--force", "--json"))["metric"] == "cosine"


def test_a_given_metric_is_taken_without_a_word(folder, ok):
    summary = one_object(ok("build", "base.npy", "-o", "a.vqi", "--metric", "ip", "--json"))
    assert summary["metric"] == "ip"
    assert "metric_reason" not in summary


def test_a_store_that_was_begun_keeps_its_metric(folder, ok, run):
    ok("build", "base.npy", "-o", "s", "--store", "--metric", "l2")
    code, _, err = run("build", "base.npy", "-o", "s")
    assert (code, "complete" in err) == (1, True)
    ok("add", "s", "queries.npy")
    assert vqindex.open("s").spec.metric == "l2"


def test_a_terminal_is_told_at_the_beginning(folder, run, monkeypatch):
    monkeypatch.setattr("vqindex_cli.build.is_terminal", lambda stream: True)
    monkeypatch.setattr("vqindex_cli.build.build_index", lambda *_, **__: (_ for _ in ()).throw(ValueError("halted")))
    code, _, err = run("build", "base.npy", "-o", "a.vqi")
    assert code == 1
    assert err.splitlines()[0].startswith("metric cosine: norms range from ")


def test_eval_compares_with_neighbors_of_the_metric_of_the_index(folder, ok):
    x = vectors(60) * np.linspace(1, 50, 60, dtype=np.float32)[:, None]
    np.save("x.npy", x)
    for metric in ("ip", "cosine", "l2"):
        ok("build", "x.npy", "-o", "a.vqi", "--metric", metric, "--bits", 8, "--force")
        report = one_object(ok("eval", "a.vqi", "x.npy", "--queries", "queries.npy", "-k", 3, "--json"))
        found = vqindex.VQIndex.load("a.vqi").search(vectors(7, seed=1), 3).ids
        true = truth(x, vectors(7, seed=1), metric)[:, :3]
        overlap = np.mean([len(set(f) & set(t)) / 3 for f, t in zip(found.tolist(), true.tolist(), strict=True)])
        assert report["recall_at_k"] == pytest.approx(overlap)
        assert report["recall_at_k"] > 0.9


def test_a_sample_spreads_over_a_file_and_never_changes():
    x = np.arange(5000, dtype=np.float64)[:, None] * np.ones(3)
    sample = sample_of(ArraySource(x))
    assert len(sample.rows) == 1024
    assert (sample.rows[0], sample.rows[-1]) == (0, 4999)
    assert np.diff(sample.rows).max() < 5000 / 15
    np.testing.assert_array_equal(sample.vectors, x[sample.rows])
    assert sample.digest == sample_of(ArraySource(x.astype(np.float32))).digest
    x[4999, 2] += 1
    assert sample_of(ArraySource(x)).digest != sample.digest


# ---- whether data are those of the index

KINDS = [
    ("turboquant-prod", 1), ("turboquant-prod", 4), ("turboquant-mse", 2), ("trellis", 2), ("qjl", 1),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "bits"), KINDS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_eval_refuses_other_data_of_the_same_shape(folder, ok, run, codec, bits, metric):
    np.save("other.npy", vectors(60, seed=9))
    np.save("mixed.npy", vectors(60)[::-1])
    ok("build", "base.npy", "-o", "a.vqi", "--codec", codec, "--bits", bits, "--metric", metric)
    for name in ("other.npy", "mixed.npy"):
        command = ("eval", "a.vqi", name, "--queries", "queries.npy", "--json")
        code, out, err = run(*command)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {name} holds other vectors than a.vqi: ")
        assert "a.vqi was built from base.npy (60 rows)" in err
        assert "--other-data" in err
        assert one_object(ok(*command, "--other-data"))["recall_at_k"] < 0.7
    ok("eval", "a.vqi", "base.npy", "--queries", "queries.npy")


def test_eval_refuses_another_annbench_file_before_it_reads_its_neighbors(folder, ok, run):
    write_annbench("a.hdf5", "l2", "new")
    np.save("other.npy", vectors(60, seed=9))
    ok("build", "other.npy", "-o", "a.vqi", "--metric", "l2")
    for extra in ((), ("--exact",)):
        code, _, err = run("eval", "a.vqi", "a.hdf5", *extra)
        assert (code, "a.hdf5 holds other vectors than a.vqi" in err) == (1, True)


def test_eval_refuses_other_data_of_an_index_without_notes(folder, ok, run):
    index = vqindex.VQIndex(DIM, metric="l2")
    index.add(vectors(60), ids=np.arange(60) * 3)
    index.save("a.vqi")
    np.save("other.npy", vectors(60, seed=9))
    code, _, err = run("eval", "a.vqi", "other.npy", "--queries", "queries.npy")
    assert (code, "other.npy holds other vectors than a.vqi" in err, "built from base" in err) == (1, True, False)
    ok("eval", "a.vqi", "base.npy", "--queries", "queries.npy")


def test_eval_takes_the_same_data_in_other_formats_without_a_word(folder, ok):
    ok("build", "base.npy", "-o", "a.vqi")
    write_fvecs("base.fvecs", vectors(60))
    np.save("wide.npy", vectors(60).astype(np.float64))
    for name in ("base.fvecs", "wide.npy"):
        ok("eval", "a.vqi", name, "--queries", "queries.npy")


def test_eval_warns_of_data_that_are_nearly_those_of_the_index(folder, ok, run):
    ok("build", "base.npy", "-o", "a.vqi")
    np.save("rounded.npy", vectors(60).astype(np.float16))
    code, _, err = run("eval", "a.vqi", "rounded.npy", "--queries", "queries.npy")
    assert code == 0
    assert err == ("warning: rounded.npy is not what a.vqi was built from: a.vqi was built from base.npy (60 rows)\n")


@pytest.mark.parametrize("index", ["a.vqi", "s"])
def test_changes_drop_what_is_known_of_the_data(folder, ok, run, index):
    ok("build", "base.npy", "-o", index, *(("--store",) if index == "s" else ()))
    assert one_object(ok("info", index, "--json"))["built_sample"]
    np.save("gone.npy", np.arange(3))
    ok("delete", index, "--ids", "gone.npy")
    assert "built_sample" not in one_object(ok("info", index, "--json"))
    code, _, err = run("eval", index, "base.npy", "--queries", "queries.npy")
    assert code == 1
    assert f"({index} was built from base.npy (60 rows), and changed since)" in err
    np.save("rest.npy", vectors(60)[3:])
    ok("eval", index, "rest.npy", "--queries", "queries.npy")


def test_a_deletion_of_nothing_keeps_what_is_known(folder, ok):
    ok("build", "base.npy", "-o", "a.vqi")
    np.save("gone.npy", np.array([1000]))
    ok("delete", "a.vqi", "--ids", "gone.npy")
    assert one_object(ok("info", "a.vqi", "--json"))["built_sample"]


def test_an_upsert_is_found_in_the_codes(folder, ok, run):
    """Python changes an index without its notes: the number of rows is that of the data, and the rows are others."""
    ok("build", "base.npy", "-o", "a.vqi")
    index = vqindex.VQIndex.load("a.vqi")
    index.upsert(np.arange(60), vectors(60, seed=9))
    index.save("a.vqi")
    code, _, err = run("eval", "a.vqi", "base.npy", "--queries", "queries.npy")
    assert (code, "base.npy holds other vectors" in err) == (1, True)


@pytest.mark.parametrize("offset", [0, 10, 1000])
@pytest.mark.parametrize("center", [(), ("--center", "mean")])
def test_coarse_codes_and_offsets_do_not_look_like_other_data(folder, run, offset, center):
    np.save("x.npy", vectors(60, dim=2) + offset)
    np.save("q.npy", vectors(7, dim=2, seed=1) + offset)
    for codec in ("turboquant-prod",) if center else ("turboquant-prod", "qjl"):
        options = ("--bits", 1, "--codec", codec, *center, "--metric", "l2", "--force")
        assert run("build", "x.npy", "-o", "a.vqi", *options)[0] == 0
        code, _, err = run("eval", "a.vqi", "x.npy", "--queries", "q.npy")
        assert (code, err) == (0, "")


def test_codes_of_others_are_far_and_no_nearer_to_their_own():
    x, noise = vectors(200, dim=32), vectors(200, dim=32, seed=1)
    index = vqindex.VQIndex(32)
    index.add(x)
    assert not holds_others(index, index.ids, x)
    assert not holds_others(index, index.ids, x + 0.8 * noise), "far, and nearest to their own"
    assert holds_others(index, index.ids, noise)
    alike = np.ones(32, np.float32) + 1e-3 * x
    index = vqindex.VQIndex(32)
    index.add(alike)
    assert not holds_others(index, index.ids, np.roll(alike, 1, axis=0)), "near to all others, as codes are inexact"


def test_a_file_to_rerank_from_that_holds_other_vectors_is_named(folder, ok, run):
    ok("build", "base.npy", "-o", "a.vqi")
    np.save("other.npy", vectors(60, seed=9))
    ok("search", "a.vqi", "queries.npy", "--rerank-from", "base.npy")
    code, _, err = run("search", "a.vqi", "queries.npy", "--rerank-from", "other.npy")
    assert code == 0
    assert err.startswith("warning: other.npy holds other vectors than the index")


# ---- ids from a column


@pytest.fixture
def table(folder):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(path, x, **columns):
        parquet.write_table(arrow.table({"vector": list(x), **columns}), path, row_group_size=11)

    write("base.parquet", vectors(60), id=list(range(100, 160)), name=[f"doc {i}" for i in range(60)], half=[0.5] * 60)
    return write


@pytest.mark.parametrize("index", ["a.vqi", "s"])
@pytest.mark.parametrize(("column", "first"), [("id", 107), ("name", "doc 7")])
def test_ids_come_from_a_column_of_the_same_file(folder, ok, table, index, column, first):
    more = ("--store", "--commit-every", 25) if index == "s" else ()
    ok("build", "base.parquet", "-o", index, "--ids-column", column, "--bits", 8, *more)
    np.save("one.npy", vectors(60)[7:8])
    line = json.loads(ok("search", index, "one.npy", "-k", 1, "--json"), parse_constant=no_constant)
    assert line["ids"] == [first]
    new = {"id": [300, 301], "name": ["new", "newer"]}
    table("more.parquet", vectors(2, seed=4), **new)
    assert one_object(ok("add", index, "more.parquet", "--ids-column", column, "--json"))["added"] == 2
    change = ("add", index, "more.parquet", "--ids-column", column, "--upsert", "--json")
    assert one_object(ok(*change))["replaced"] == 2
    assert vqindex.open(index).ids[-2:].tolist() == new[column] if index == "s" else True
    gone = ("delete", index, "--ids", "more.parquet", "--ids-column", column, "--json")
    assert one_object(ok(*gone))["removed"] == 2
    ok("eval", index, "base.parquet", "--queries", "queries.npy")


def test_ids_come_from_a_column_of_another_file(folder, ok, table):
    ok("build", "base.npy", "-o", "a.vqi", "--ids", "base.parquet", "--ids-column", "name")
    assert vqindex.VQIndex.load("a.vqi").ids.tolist() == [f"doc {i}" for i in range(60)]


def test_ids_come_from_hdf5_and_npz(folder, ok):
    with h5py.File("x.h5", "w") as file:
        file["train"], file["id"], file["name"] = vectors(60), np.arange(60) * 2, [f"doc {i}" for i in range(60)]
    np.savez("x.npz", train=vectors(60), id=np.arange(60) * 2)
    for name in ("x.h5", "x.npz"):
        ok("build", name, "-o", "a.vqi", "--ids-column", "id", "--force")
        assert vqindex.VQIndex.load("a.vqi").ids.tolist() == list(range(0, 120, 2))
    ok("build", "x.h5", "-o", "a.vqi", "--ids-column", "name", "--force")
    assert vqindex.VQIndex.load("a.vqi").ids[5] == "doc 5"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--ids-column ids", "no column 'ids'; expected one of ['vector', 'id', 'name', 'half']"),
        ("--ids-column half", "column 'half' holds double; expected integers or strings"),
        ("--ids-column vector", "column 'vector' holds list"),
        ("--ids name", "name: no such file; for the column 'name' of base.parquet give --ids-column name"),
        ("--ids base.parquet", "base.parquet: not a .npy file; give --ids-column NAME for a column of it"),
        ("--ids short.parquet --ids-column id", "short.parquet[id]: 2 ids were given for 60 vectors"),
        ("--ids base.npy --ids-column id", "base.npy: has no columns with names"),
    ],
)
def test_wrong_columns_are_named(folder, run, table, options, words):
    table("short.parquet", vectors(2), id=[1, 2])
    before = sorted(os.listdir())
    code, out, err = run("build", "base.parquet", "-o", "a.vqi", *options.split())
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert sorted(os.listdir()) == before


def test_eval_counts_string_ids_like_numbers(folder, ok):
    np.save("names.npy", np.array([f"doc {i}" for i in range(60)]))
    reports = []
    for extra in ((), ("--ids", "names.npy")):
        ok("build", "base.npy", "-o", "a.vqi", "--bits", 1, "--force", *extra)
        reports.append(one_object(ok("eval", "a.vqi", "base.npy", "--queries", "queries.npy", "--json")))
    for key in ("recall_at_k", "recall_1_at_k", "recall_1_at_1"):
        assert reports[0][key] == reports[1][key]
    assert 0 < reports[0]["recall_at_k"] < 1
