"""``vqindex add`` and ``delete``, and reranking on the command line."""

import cli_tools
import numpy as np
import pytest
from cli_tools import DIM, one_object, truth, vectors, write_annbench

import vqindex

run, ok, folder = map(pytest.fixture, (cli_tools.run, cli_tools.ok, cli_tools.folder))


def test_add_gives_the_index_of_all_rows(folder, ok):
    ok("build", "base.npy", "-o", "a.vqi", "--metric", "l2")
    np.save("more.npy", vectors(9, seed=4))
    seconds = one_object(ok("info", "a.vqi", "--json"))["build_seconds"]
    summary = one_object(ok("add", "a.vqi", "more.npy", "--json"))
    assert {k: summary[k] for k in ("index", "added", "replaced", "ntotal")} == {
        "index": "a.vqi", "added": 9, "replaced": 0, "ntotal": 69,
    }  # fmt: skip
    want = vqindex.VQIndex(DIM, 4, "l2")
    want.add(np.concatenate([vectors(60), vectors(9, seed=4)]))
    got = vqindex.VQIndex.load("a.vqi")
    np.testing.assert_array_equal(got.ids, want.ids)
    np.testing.assert_array_equal(got.reconstruct(got.ids), want.reconstruct(want.ids))
    assert got.meta["build_seconds"] >= seconds
    assert "changed a.vqi" in ok("add", "a.vqi", "more.npy")


def test_upsert_replaces_known_ids_and_add_refuses_them(folder, ok, run):
    np.save("ids.npy", np.arange(60) * 2)
    ok("build", "base.npy", "-o", "a.vqi", "--ids", "ids.npy")
    np.save("more.npy", vectors(3, seed=4))
    np.save("more-ids.npy", np.array([0, 1, 118]))
    code, out, err = run("add", "a.vqi", "more.npy", "--ids", "more-ids.npy")
    assert (code, out) == (1, "")
    assert "id 0 is already in the index" in err
    summary = one_object(ok("add", "a.vqi", "more.npy", "--ids", "more-ids.npy", "--upsert", "--json"))
    assert (summary["added"], summary["replaced"], summary["ntotal"]) == (1, 2, 61)
    assert vqindex.VQIndex.load("a.vqi").ids.tolist() == [*range(2, 118, 2), 0, 1, 118]
    code, out, err = run("add", "a.vqi", "more.npy", "--upsert")
    assert (code, out) == (2, "")
    assert "--upsert needs --ids" in err


def test_delete_removes_ids_and_writes_nothing_without_any(folder, ok, run):
    ok("build", "base.npy", "-o", "a.vqi")
    np.save("ids.npy", np.array([3, 59, 1000, 3]))
    assert one_object(ok("delete", "a.vqi", "--ids", "ids.npy", "--json")) == {
        "index": "a.vqi", "removed": 2, "ntotal": 58,
    }  # fmt: skip
    assert vqindex.VQIndex.load("a.vqi").ids.tolist() == [i for i in range(59) if i != 3]
    before = (folder / "a.vqi").stat()
    assert one_object(ok("delete", "a.vqi", "--ids", "ids.npy", "--json"))["removed"] == 0
    after = (folder / "a.vqi").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "the file is not written"
    ok("add", "a.vqi", "base.npy")
    assert vqindex.VQIndex.load("a.vqi").ids[-60:].tolist() == list(range(60, 120)), "no id is used twice"
    assert run("delete", "a.vqi")[0] == 2


def test_delete_changes_an_index_without_notes(folder, ok):
    index = vqindex.VQIndex(DIM)
    index.add(vectors(60))
    index.save("a.vqi")
    np.save("ids.npy", np.array([3]))
    ok("delete", "a.vqi", "--ids", "ids.npy")
    assert vqindex.VQIndex.load("a.vqi").ids.tolist() == [i for i in range(60) if i != 3]


@pytest.mark.parametrize("command", [("add", "a.vqi", "bad.npy"), ("delete", "a.vqi", "--ids", "bad.npy")])
def test_a_failed_change_leaves_the_file_as_it_was(folder, ok, run, command):
    ok("build", "base.npy", "-o", "a.vqi")
    before = (folder / "a.vqi").read_bytes()
    bad = vectors(5)
    bad[2, 1] = np.nan
    np.save("bad.npy", bad)
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert "bad.npy" in err
    assert (folder / "a.vqi").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["a.vqi", "bad.npy", "base.npy", "queries.npy"]
    (folder / "a.vqi").unlink()
    code, _, err = run(*command)
    assert code == 1
    assert "a.vqi" in err


@pytest.mark.parametrize("kind", ["f32", "f16", "int8"])
def test_rerank_of_all_rows_finds_the_true_neighbors(folder, ok, kind):
    built = one_object(
        ok("build", "base.npy", "-o", "a.vqi", "--metric", "ip", "--bits", 1, "--keep-vectors", kind, "--json")
    )
    assert built["vector_bytes"] == {"f32": 40, "f16": 20, "int8": 14}[kind]
    assert one_object(ok("info", "a.vqi", "--json"))["keep_vectors"] == kind
    assert "vectors" in one_object(ok("verify", "a.vqi", "--json"))["blocks"]
    true_ids = truth(vectors(60), vectors(7, seed=1), "ip")[:, :3]
    for extra in (("--rerank",), ("--rerank", "--mmap"), ("--rerank-from", "base.npy")):
        lines = ok("search", "a.vqi", "queries.npy", "-k", 3, *extra, "--oversample", 20, "--json").splitlines()
        found = [one_object(line + "\n")["ids"] for line in lines]
        # The rounding to int8 may swap neighbors, but lose only a few.
        assert (
            np.mean(np.array(found) == true_ids) == 1 if kind != "int8" else np.mean(np.array(found) == true_ids) > 0.8
        )
    report = one_object(ok("eval", "a.vqi", "base.npy", "--queries", "queries.npy", "-k", 3, "--rerank", "--json"))
    assert (report["rerank"], report["oversample"]) == ("kept vectors", 4)
    plain = one_object(ok("eval", "a.vqi", "base.npy", "--queries", "queries.npy", "-k", 3, "--json"))
    assert (plain["rerank"], plain["oversample"]) == (None, None)
    assert report["recall_at_k"] > plain["recall_at_k"]


def test_rerank_from_an_annbench_file_takes_its_train_rows(folder, ok):
    write_annbench("d.hdf5", "l2", "new")
    ok("build", "d.hdf5", "-o", "a.vqi", "--bits", 1)
    report = one_object(ok("eval", "a.vqi", "d.hdf5", "--rerank-from", "d.hdf5", "--oversample", 6, "--json"))
    assert (report["rerank"], report["oversample"], report["recall_at_k"]) == ("d.hdf5", 6, 1)


def test_wrong_usage_of_rerank_is_refused(folder, ok, run):
    ok("build", "base.npy", "-o", "a.vqi")
    for extra, code, words in (
        (("--oversample", 3), 2, "--oversample needs --rerank"),
        (("--rerank", "--rerank-from", "base.npy"), 2, "give one of the two"),
        (("--rerank",), 1, "keeps no vectors"),
        (("--rerank", "--oversample", 0.5), 2, "oversample"),
        (("--rerank-from", "none.npy"), 1, "none.npy"),
    ):
        for command in (("search", "a.vqi", "queries.npy"), ("eval", "a.vqi", "base.npy", "--queries", "queries.npy")):
            got, out, err = run(*command, *extra)
            assert (got, out) == (code, "")
            assert words in err
