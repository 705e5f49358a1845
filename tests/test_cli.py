"""The command line: build, search and eval. JSON is parsed strictly, and numbers are compared exactly."""

import json
import os
from pathlib import Path

import cli_tools
import h5py
import numpy as np
import pytest
from cli_tools import DIM, no_constant, one_object, truth, vectors, write_annbench, write_fvecs

import vqindex
from vqindex.backends.registry import resolve

run, ok, folder = map(pytest.fixture, (cli_tools.run, cli_tools.ok, cli_tools.folder))

EVAL_FIELDS = {
    *("n", "dim", "bits", "metric", "codec", "sketch", "device", "backend", "k", "threads", "confidence"),
    *("recall_at_k", "recall_1_at_k", "recall_1_at_1", "bytes_per_vector", "build_seconds", "encode_seconds"),
    *("qps_batch", "qps_single", "latency_ms_p50", "latency_ms_p99"),
}


def recalls(found, true, k):
    """Return the three recalls, counted one by one."""
    nq = len(found)
    overlap = sum(len(set(f[:k].tolist()) & set(t[:k].tolist())) for f, t in zip(found, true, strict=True)) / (nq * k)
    first = sum(int(t[0]) in f[:k].tolist() for f, t in zip(found, true, strict=True)) / nq
    top = sum(int(f[0] == t[0]) for f, t in zip(found, true, strict=True)) / nq
    return overlap, first, top


# ---- build


def test_build_gives_the_index_that_the_library_gives(folder, ok):
    summary = one_object(ok("build", "base.npy", "-o", "a.vqi", "--bits", 3, "--metric", "l2", "--seed", 5, "--json"))
    index = vqindex.VQIndex(DIM, 3, "l2", seed=5)
    index.add(vectors(60))
    loaded = vqindex.VQIndex.load("a.vqi")
    assert loaded.spec == index.spec
    for one, other in zip(loaded.search(vectors(7), 9), index.search(vectors(7), 9), strict=True):
        np.testing.assert_array_equal(one, other)
    expected = {"index": "a.vqi", "ntotal": 60, "dim": DIM, "bits": 3, "metric": "l2", "codec": "turboquant-prod"}
    assert summary.items() >= expected.items()
    assert summary["sketch"] == "shared"
    assert summary["bytes_per_vector"] == index.spec.bytes_per_vector
    assert summary["file_bytes"] == os.path.getsize("a.vqi")
    assert 0 < summary["encode_seconds"] <= summary["build_seconds"]
    assert summary["save_seconds"] > 0


def test_build_reads_other_formats_alike(folder, ok):
    x = vectors(60)
    write_fvecs("x.fvecs", x)
    np.savez("x.npz", vectors=x)
    with h5py.File("x.h5", "w") as file:
        file["other"], file["more"] = x[:5], x
    ok("build", "base.npy", "-o", "a.vqi")
    codes = vqindex.file_format.read("a.vqi").segment.stored.codes
    for args in (("x.fvecs",), ("x.npz",), ("x.h5", "--dataset", "more")):
        ok("build", *args, "-o", "b.vqi", "--force")
        np.testing.assert_array_equal(vqindex.file_format.read("b.vqi").segment.stored.codes, codes)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_build_takes_the_metric_of_the_file(folder, ok, metric):
    write_annbench("a.hdf5", metric, "new")
    assert one_object(ok("build", "a.hdf5", "-o", "a.vqi", "--json"))["metric"] == metric
    other = "ip" if metric == "l2" else "l2"
    assert one_object(ok("build", "a.hdf5", "-o", "b.vqi", "--metric", other, "--json"))["metric"] == other


def test_build_keeps_given_ids(folder, ok, run):
    ids = np.random.default_rng(0).permutation(1000)[:60]
    np.save("ids.npy", ids)
    ok("build", "base.npy", "-o", "a.vqi", "--metric", "ip", "--ids", "ids.npy")
    np.testing.assert_array_equal(vqindex.VQIndex.load("a.vqi").ids, ids)
    assert one_object(ok("info", "a.vqi", "--json"))["id_bytes"] == 8
    report = one_object(ok("eval", "a.vqi", "base.npy", "--queries", "queries.npy", "-k", 5, "--json"))
    found = vqindex.VQIndex.load("a.vqi").search(vectors(7, seed=1), 5).ids
    true = ids[truth(vectors(60), vectors(7, seed=1), "ip")]
    assert (report["recall_at_k"], report["recall_1_at_k"], report["recall_1_at_1"]) == recalls(found, true, 5)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.arange(59), "59 ids were given for 60 vectors"),
        (np.zeros(60, int), "given twice: 0"),
        (np.arange(60) - 1, "id -1 is negative"),
        (np.arange(60.0), "dtype float64"),
        (b"", "not a .npy file"),
        (b"1\n2\n", "not a .npy file"),
        (b"PK\x03\x04 broken", "not a .npy file"),
        ({"x": np.arange(60)}, "a .npz archive"),
        (np.array([None] * 60), "not a .npy file"),
    ],
)
def test_build_refuses_bad_ids_and_says_why(folder, run, ids, words):
    if isinstance(ids, bytes):
        Path("ids.npy").write_bytes(ids)
    elif isinstance(ids, dict):
        with open("ids.npy", "wb") as file:
            np.savez(file, **ids)
    else:
        np.save("ids.npy", ids)
    code, out, err = run("build", "base.npy", "-o", "a.vqi", "--ids", "ids.npy")
    assert (code, out) == (1, "")
    assert "ids.npy" in err
    assert words in err
    assert sorted(os.listdir()) == ["base.npy", "ids.npy", "queries.npy"]


def test_build_replaces_an_output_only_with_force(folder, ok, run):
    Path("a.vqi").write_text("mine")
    code, out, err = run("build", "base.npy", "-o", "a.vqi")
    assert (code, out) == (1, "")
    assert "a.vqi exists" in err
    assert "--force" in err
    assert Path("a.vqi").read_text() == "mine"
    ok("build", "base.npy", "-o", "a.vqi", "--force")
    assert len(vqindex.VQIndex.load("a.vqi")) == 60


@pytest.mark.parametrize("exists", [False, True])
def test_a_failing_build_leaves_no_file_behind(folder, run, monkeypatch, exists):
    if exists:
        Path("a.vqi").write_text("mine")
    before = sorted(os.listdir())

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    code, out, err = run("build", "base.npy", "-o", "a.vqi", "--force")
    assert (code, out) == (1, "")
    assert "No space left" in err
    assert sorted(os.listdir()) == before
    assert not exists or Path("a.vqi").read_text() == "mine"


@pytest.mark.parametrize("form", ["npy", "fvecs", "hdf5"])
def test_nan_is_named_by_the_row_of_the_file(folder, run, monkeypatch, form):
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 16 * DIM)  # 16 rows a chunk: row 53 is in the fourth
    x = vectors(60)
    x[53, 4] = np.nan
    if form == "npy":
        np.save("bad.npy", x)
    elif form == "fvecs":
        write_fvecs("bad.fvecs", x)
    else:
        with h5py.File("bad.hdf5", "w") as file:
            file["train"] = x
    code, out, err = run("build", f"bad.{form}", "-o", "a.vqi")
    assert (code, out) == (1, "")
    assert f"bad.{form}" in err
    assert "vectors[53, 4] is nan" in err
    assert not any(name.endswith((".vqi", ".tmp")) for name in os.listdir())


def test_infinity_in_a_later_chunk_of_true_size_is_named_by_its_row(folder, run):
    dim, rows = 4096, 5000  # 2^24 values a chunk: 4096 rows
    x = np.lib.format.open_memmap("big.npy", "w+", np.float16, (rows, dim))
    x[4321, 17] = np.inf
    x.flush()
    code, _, err = run("build", "big.npy", "-o", "a.vqi", "--bits", 1)
    assert code == 1
    assert "vectors[4321, 17] is inf" in err


def test_norm_too_large_is_named_by_the_row_of_the_file(folder, run, monkeypatch):
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 16 * DIM)
    x = vectors(60)
    x[53] = 1e19
    np.save("bad.npy", x)
    code, _, err = run("build", "bad.npy", "-o", "a.vqi", "--metric", "l2")
    assert code == 1
    assert "vectors[53] has norm" in err


# ---- search


def test_search_writes_the_same_results_as_json_and_npz(folder, ok, run):
    ok("build", "base.npy", "-o", "a.vqi")
    expected = vqindex.VQIndex.load("a.vqi").search(vectors(7, seed=1), 4)
    for extra in ((), ("--mmap",)):
        lines = ok("search", "a.vqi", "queries.npy", "-k", 4, "--json", *extra).splitlines()
        parsed = [json.loads(line, parse_constant=no_constant) for line in lines]
        assert [line["query"] for line in parsed] == list(range(7))
        np.testing.assert_array_equal([line["ids"] for line in parsed], expected.ids)
        # Nine digits determine a float32.
        np.testing.assert_array_equal(np.float32([line["scores"] for line in parsed]), expected.scores)
    code, out, err = run("search", "a.vqi", "queries.npy", "-k", 4, "-o", "found.npz")
    assert (code, out) == (0, "")
    assert "7 x 4" in err
    with np.load("found.npz") as found:
        np.testing.assert_array_equal(found["ids"], expected.ids)
        np.testing.assert_array_equal(found["scores"], expected.scores)
    assert sorted(os.listdir()) == ["a.vqi", "base.npy", "found.npz", "queries.npy"]


def test_search_prints_one_line_for_each_query_with_all_results(folder, ok):
    ok("build", "base.npy", "-o", "a.vqi")
    text = ok("search", "a.vqi", "queries.npy", "-k", 60)
    lines = text.splitlines()
    assert len(lines) == 8
    found = vqindex.VQIndex.load("a.vqi").search(vectors(7, seed=1), 60).ids
    for line, ids in zip(lines[1:], found, strict=True):
        assert [int(pair.split(":")[0]) for pair in line.split()[1:]] == ids.tolist()


def test_search_with_k_beyond_the_vectors_returns_all_of_them(folder, ok):
    ok("build", "base.npy", "-o", "a.vqi", "--metric", "l2")
    lines = ok("search", "a.vqi", "queries.npy", "-k", 100, "--json").splitlines()
    for line in lines:
        assert sorted(json.loads(line, parse_constant=no_constant)["ids"]) == list(range(60))


def test_search_of_an_annbench_file_takes_its_queries(folder, ok):
    write_annbench("a.hdf5", "cosine", "new")
    ok("build", "a.hdf5", "-o", "a.vqi")
    lines = ok("search", "a.vqi", "a.hdf5", "-k", 3, "--json").splitlines()
    expected = vqindex.VQIndex.load("a.vqi").search(vectors(7, seed=1), 3).ids
    np.testing.assert_array_equal([json.loads(line)["ids"] for line in lines], expected)


def test_a_failing_search_leaves_no_file_behind(folder, ok, run, monkeypatch):
    ok("build", "base.npy", "-o", "a.vqi")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    code, _, err = run("search", "a.vqi", "queries.npy", "-o", "found.npz")
    assert code == 1
    assert "No space left" in err
    assert sorted(os.listdir()) == ["a.vqi", "base.npy", "queries.npy"]


# ---- eval


def check_eval(report, metric, k, **expected):
    assert report.keys() >= EVAL_FIELDS
    index = vqindex.VQIndex.load("a.vqi")
    found = index.search(vectors(7, seed=1), k).ids
    true = truth(vectors(60), vectors(7, seed=1), metric)
    assert (report["recall_at_k"], report["recall_1_at_k"], report["recall_1_at_1"]) == recalls(found, true, k)
    fixed = {"n": 60, "dim": DIM, "bits": 2, "metric": metric, "codec": "turboquant-prod", "sketch": "shared", "k": k}
    assert report.items() >= {**fixed, "device": "auto", "backend": resolve(), **expected}.items()
    assert report["bytes_per_vector"] == index.spec.bytes_per_vector
    assert report["encode_seconds"] == index.meta["encode_seconds"]
    assert report["build_seconds"] == index.meta["build_seconds"]
    assert min(report[name] for name in ("qps_batch", "qps_single", "latency_ms_p50")) > 0
    assert report["latency_ms_p99"] >= report["latency_ms_p50"]


@pytest.fixture
def searches(monkeypatch):
    """Record the keyword arguments of every search, but whether it is to explain itself."""
    calls, search = [], vqindex.VQIndex.search

    def spy(self, queries, k, **kwargs):
        calls.append({name: value for name, value in kwargs.items() if name != "explain"})
        return search(self, queries, k, **kwargs)

    monkeypatch.setattr(vqindex.VQIndex, "search", spy)
    return calls


@pytest.mark.parametrize(
    ("extra", "threads", "confidence"),
    [
        ((), None, 0.995),
        (("--threads", 1), 1, 0.995),
        (("--confidence", 1), None, 1.0),
        (("--threads", 7, "--confidence", 0.6), 7, 0.6),
    ],
)
def test_threads_and_confidence_reach_the_search(folder, ok, searches, extra, threads, confidence):
    ok("build", "base.npy", "-o", "a.vqi", "--bits", 2)
    ok("search", "a.vqi", "queries.npy", "--json", *extra)
    assert searches == [{"threads": threads, "confidence": confidence}]
    report = one_object(ok("eval", "a.vqi", "base.npy", "--queries", "queries.npy", "--json", *extra))
    assert searches == [{"threads": threads, "confidence": confidence}] * len(searches)
    assert (report["threads"], report["confidence"]) == (threads, confidence)


@pytest.mark.parametrize("command", [("search", "a.vqi", "queries.npy"), ("eval", "a.vqi", "a.hdf5")])
@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        (("--threads", 0), 2, "Invalid value for '--threads': 0 is not in the range x>=1."),
        (("--threads", "many"), 2, "Invalid value for '--threads': 'many' is not a valid integer range."),
        (("--confidence", 0.5), 2, "Invalid value for '--confidence': 0.5 is not in the range 0.5<x<=1."),
        (("--confidence", 1.01), 2, "Invalid value for '--confidence': 1.01 is not in the range 0.5<x<=1."),
        (("--confidence", "sure"), 2, "Invalid value for '--confidence': 'sure' is not a valid float range."),
        (("--confidence", "nan"), 1, "error: confidence is nan; expected a number above 0.5 and at most 1"),
    ],
)
def test_wrong_threads_and_confidence_are_refused(folder, ok, run, command, extra, code, words):
    write_annbench("a.hdf5", "l2", "new")
    ok("build", "a.hdf5", "-o", "a.vqi")
    done, out, err = run(*command, *extra)
    assert (done, out) == (code, "")
    assert words in err


@pytest.mark.parametrize("command", ["search", "eval"])
def test_help_explains_threads_and_confidence(folder, ok, command):
    text = " ".join(ok(command, "--help").split())
    assert "--threads INTEGER RANGE Most threads to search with. Default: one for each processor. [x>=1]" in text
    assert "1 scores every vector. [default: 0.995; 0.5<x<=1]" in text


@pytest.mark.parametrize("layout", ["old", "new"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_eval_of_an_annbench_file_gives_true_recall(folder, ok, metric, layout):
    write_annbench("a.hdf5", metric, layout)
    ok("build", "a.hdf5", "-o", "a.vqi", "--bits", 2)
    for extra in ((), ("--exact",), ("--mmap",)):
        check_eval(one_object(ok("eval", "a.vqi", "a.hdf5", "-k", 7, "--json", *extra)), metric, 7)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_eval_of_plain_files_gives_true_recall(folder, ok, metric):
    ok("build", "base.npy", "-o", "a.vqi", "--bits", 2, "--metric", metric)
    write_fvecs("base.fvecs", vectors(60))
    write_fvecs("queries.fvecs", vectors(7, seed=1))
    for form in ("npy", "fvecs"):
        out = ok("eval", "a.vqi", f"base.{form}", "--queries", f"queries.{form}", "-k", 5, "--json")
        check_eval(one_object(out), metric, 5)


def test_eval_with_k_beyond_the_known_neighbors_asks_for_exact(folder, ok, run):
    write_annbench("a.hdf5", "l2", "new")
    ok("build", "a.hdf5", "-o", "a.vqi", "--bits", 2)
    code, _, err = run("eval", "a.vqi", "a.hdf5", "-k", 30, "--json")
    assert code == 1
    assert "20 neighbors" in err
    assert "--exact" in err
    check_eval(one_object(ok("eval", "a.vqi", "a.hdf5", "-k", 30, "--exact", "--json")), "l2", 30)


def test_eval_of_an_index_without_build_times_says_none(folder, ok):
    index = vqindex.VQIndex(DIM)
    index.add(vectors(60))
    index.save("a.vqi")  # without build times in its meta
    report = one_object(ok("eval", "a.vqi", "base.npy", "--queries", "queries.npy", "--json"))
    assert report["build_seconds"] is None
    assert report["encode_seconds"] is None
