"""The commands treat the folder of a store like a file, and a stopped build continues."""

import json
import os
import signal
import subprocess
import sys

import cli_tools
import numpy as np
import pytest
from cli_tools import one_object, truth, vectors

import vqindex
from vqindex.store import verify_store
from vqindex.store.manifest import read_manifest

run, ok, folder = (pytest.fixture(f) for f in (cli_tools.run, cli_tools.ok, cli_tools.folder))


# The command line, which ends itself at its twentieth commit, before, within or after it: a signal that raises nothing
# at first must not be lost there. The handler is set because a shell makes background jobs ignore Ctrl-C.
STOPPED = """
import os, signal, weakref
from vqindex.store.durable import DurableIndex
from vqindex_cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
commit, commits = DurableIndex.commit, 0
class Thing: pass
def end(*_):
    signal.raise_signal(int(os.environ["END"]))
def counted(self, **kwargs):
    global commits
    commits += 1
    if commits != 20:
        return commit(self, **kwargs)
    if os.environ["WHERE"] == "callback":  # Python drops what is raised in the callback of a weak reference
        thing = Thing()
        reference = weakref.ref(thing, end)
        del thing
    if os.environ["WHERE"] == "before":
        end()
    done = commit(self, **kwargs)
    if os.environ["WHERE"] == "after":
        end()
    return done
DurableIndex.commit = counted
main()
"""


@pytest.fixture
def both(ok, folder):
    """Build a file and a store of the same vectors."""
    ok("build", "base.npy", "-o", "a.vqi", "--metric", "l2")
    ok("build", "base.npy", "-o", "s", "--metric", "l2", "--store", "--commit-every", 7)
    return folder


def same_answers(ok, *options):
    lines = [ok("search", index, "queries.npy", "-k", 70, "--json", *options) for index in ("a.vqi", "s")]
    assert lines[0] == lines[1]
    return lines[0]


def test_a_store_answers_as_a_file_does(ok, both):
    same_answers(ok)
    same_answers(ok, "--mmap")
    assert len(vqindex.open("s")) == 60
    facts = [one_object(ok("info", index, "--json")) for index in ("a.vqi", "s")]
    assert facts[1]["commit"] == 10
    for key in ("ntotal", "dim", "bits", "metric", "codec", "seed", "bytes_per_vector", "id_bytes", "keep_vectors"):
        assert facts[0][key] == facts[1][key]
    checked = one_object(ok("verify", "s", "--json"))
    assert checked["ok"]
    assert set(checked["blocks"]) == set(os.listdir("s")) - {"lock"}
    reports = [
        one_object(ok("eval", index, "base.npy", "--queries", "queries.npy", "--exact", "--json"))
        for index in ("a.vqi", "s")
    ]
    assert reports[0]["recall_at_k"] == reports[1]["recall_at_k"]


def test_a_store_changes_as_a_file_does(ok, run, both):
    np.save("more.npy", vectors(20, seed=5))
    np.save("more_ids.npy", np.arange(55, 75))
    np.save("gone.npy", np.array([0, 3, 59, 1000]))
    for index in ("a.vqi", "s"):
        assert one_object(ok("add", index, "more.npy", "--json"))["ntotal"] == 80
        found = one_object(ok("add", index, "more.npy", "--ids", "more_ids.npy", "--upsert", "--json"))
        assert (found["replaced"], found["ntotal"]) == (20, 80)
        assert one_object(ok("delete", index, "--ids", "gone.npy", "--json"))["removed"] == 3
    same_answers(ok)
    before = one_object(ok("info", "s", "--json"))
    assert before["removed"] > 0
    shrunk = one_object(ok("compact", "s", "--json"))
    assert shrunk["bytes_after"] < shrunk["bytes_before"]
    assert shrunk["reclaimed"] == before["removed"]
    one_object(ok("compact", "a.vqi", "--json"))
    same_answers(ok)
    verify_store(both / "s")
    code, _, err = run("add", "s", "more.npy", "--ids", "gone.npy")
    assert (code, "4 ids were given for 20 vectors" in err) == (1, True)
    same_answers(ok)


def test_verify_names_the_damaged_file(run, both):
    name = next(name for name in sorted(os.listdir("s")) if name.endswith(".vqi"))
    data = bytearray((both / "s" / name).read_bytes())
    data[-1] ^= 1
    (both / "s" / name).write_bytes(data)
    code, _, err = run("verify", "s")
    assert code == 1
    assert name in err


def test_a_locked_store_names_the_process_that_holds_it(run, both):
    with vqindex.open("s", "a"):
        code, _, err = run("add", "s", "queries.npy")
    assert code == 1
    assert f"open for writing by process {os.getpid()}" in err


def test_a_store_keeps_vectors_for_reranking(ok, folder):
    for index, more in (("a.vqi", ()), ("s", ("--store",))):
        ok("build", "base.npy", "-o", index, "--metric", "ip", "--keep-vectors", "f32", "--bits", 1, *more)
    lines = [json.loads(line) for line in same_answers(ok, "--rerank").splitlines()]
    # The shortlist of 4 x 70 holds all 60 rows, so reranking gives exact search.
    np.testing.assert_array_equal([line["ids"] for line in lines], truth(vectors(60), vectors(7, seed=1), "ip"))


def test_build_refuses_a_store_of_other_data_or_parameters(ok, run, both):
    def refused(*args):
        code, out, err = run("build", *args)
        assert (code, out) == (1, "")
        return err

    assert "complete; choose another name or give --force" in refused("base.npy", "-o", "s", "--metric", "l2")
    assert "bits is 2; the index in s has 4" in refused("base.npy", "-o", "s", "--metric", "l2", "--bits", 2)
    np.save("other.npy", vectors(60, seed=9))
    assert "was not begun from other.npy as it is" in refused("other.npy", "-o", "s", "--metric", "l2")
    (both / "plain").mkdir()
    (both / "plain" / "notes.txt").touch()
    assert "is not an index and holds 'notes.txt'" in refused("base.npy", "-o", "plain")
    assert run("build", "base.npy", "-o", "b.vqi", "--commit-every", 5)[0] == 2
    ok("build", "other.npy", "-o", "s", "--metric", "ip", "--bits", 2, "--force")
    assert vqindex.open("s").spec.bits == 2
    np.save("ids.npy", np.arange(60) * 3)
    ok("build", "base.npy", "-o", "plain2", "--store", "--ids", "ids.npy")
    assert vqindex.open("plain2").ids.tolist() == list(range(0, 180, 3))


def test_build_errors_name_the_row_where_their_commit_starts(run, folder):
    x = vectors(60)
    x[33, 2] = np.nan
    np.save("bad.npy", x)
    code, _, err = run("build", "bad.npy", "-o", "s", "--store", "--commit-every", 25)
    assert code == 1
    assert "bad.npy, counted from row 25: vectors[8, 2] is nan" in err
    assert len(vqindex.open("s")) == 25


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("where", ["before", "after", "callback"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_build_continues_to_the_index_of_one_run(ok, run, folder, end, where):
    x = vectors(300, seed=3)
    np.save("large.npy", x)
    command = ["build", "large.npy", "-o", "s", "--store", "--commit-every", "5", "--metric", "ip"]

    def done():
        return sum(s.live for s in read_manifest(folder / "s").segments)

    environment = {**os.environ, "END": str(int(end)), "WHERE": where}
    expected = 0
    for batches in (19, 20):  # the first of the first twenty commits creates the store
        process = subprocess.run(
            [sys.executable, "-c", STOPPED, *command], capture_output=True, text=True, env=environment
        )
        # A kill loses the commit that it meets; Ctrl-C waits for its end.
        expected += 5 * (batches - (end == signal.SIGKILL and where != "after"))
        assert process.returncode == (130 if end == signal.SIGINT else -9), process.stderr
        assert done() == expected
        if end == signal.SIGINT:
            line = f"stopped: s holds {done()} of 300 vectors; the same command goes on after them"
            assert process.stderr.splitlines()[-1] == line
    code, out, err = run(*command, "--json")
    assert code == 0, err
    assert json.loads(out)["ntotal"] == 300
    assert "going on after" in err
    whole = vqindex.VQIndex(10)
    whole.add(x)
    store = vqindex.open("s")
    assert store.ids.tolist() == list(range(300))
    for a, b in zip(whole.search(x[:5], 20), store.search(x[:5], 20), strict=True):
        np.testing.assert_array_equal(a, b)
    verify_store(folder / "s")


def test_string_ids_serve_files_and_stores_alike(ok, run, folder):
    """Build, add, search and delete by string ids, in a file and in a store."""
    names = np.array([f"row {i}" for i in range(60)])
    np.save("names.npy", names)
    np.save("more.npy", vectors(20, seed=5))
    np.save("more_names.npy", np.array([f"row {i}" for i in range(50, 70)]))
    np.save("gone.npy", names[:7])
    np.save("numbers.npy", np.arange(7))
    ok("build", "base.npy", "-o", "a.vqi", "--metric", "l2", "--ids", "names.npy")
    ok("build", "base.npy", "-o", "s", "--metric", "l2", "--ids", "names.npy", "--store", "--commit-every", 7)
    for index in ("a.vqi", "s"):
        assert one_object(ok("add", index, "more.npy", "--ids", "more_names.npy", "--upsert", "--json"))["ntotal"] == 70
        assert one_object(ok("delete", index, "--ids", "gone.npy", "--json"))["removed"] == 7
        code, _, err = run("delete", index, "--ids", "numbers.npy")
        assert (code, "ids are integers; those of the index are strings" in err) == (1, True)
        code, _, err = run("add", index, "more.npy", "--ids", "gone.npy")
        assert (code, "7 ids were given for 20 vectors" in err) == (1, True)
        assert "row 55:" in ok("search", index, "more.npy", "-k", 1)
        assert run("search", index, "more.npy", "-k", 64, "-o", "found.npz")[0] == 0
        with np.load("found.npz") as found:
            assert found["ids"][:, 0].tolist() == [f"row {i}" for i in range(50, 70)]
            assert (found["ids"][:, 63] == "").all()
    lines = [json.loads(line) for line in same_answers(ok).splitlines()]
    assert all(len(line["ids"]) == len(line["scores"]) == 63 for line in lines)


def test_workers_build_the_same_index(ok, run, folder):
    ok("build", "base.npy", "-o", "one.vqi", "--metric", "l2", "--keep-vectors", "f16")
    printed = one_object(
        ok(
            "build",
            "base.npy",
            "-o",
            "s",
            "--metric",
            "l2",
            "--keep-vectors",
            "f16",
            "--store",
            "--workers",
            2,
            "--json",
        )
    )
    assert printed["workers"] == 2
    assert not (folder / "s" / "building.json").exists()
    single, sharded = vqindex.VQIndex.load("one.vqi"), vqindex.open("s")
    for got, want in zip(sharded.search(vectors(9), 7), single.search(vectors(9), 7), strict=True):
        np.testing.assert_array_equal(got, want)
    code, _, err = run("build", "base.npy", "-o", "s", "--metric", "l2", "--store", "--workers", 2)
    assert code == 1
    assert "s exists; choose another name or give --force" in err
    ok("build", "base.npy", "-o", "s", "--metric", "l2", "--store", "--workers", 1, "--force")


def test_workers_go_on_with_a_build_that_was_stopped(run, folder):
    from vqindex.sharding import encode_shard, plan_build

    plan = plan_build("base.npy", "s", metric="l2", shard_rows=64)
    encode_shard(plan, 0)
    code, _, err = run("search", "s", "base.npy")
    assert code == 1
    assert "unfinished build (building.json)" in err
    code, _, err = run("build", "base.npy", "-o", "s", "--store", "--workers", 1)
    assert code == 0, err
    assert f"going on after 1 of {plan.shards} shards" in err
    assert vqindex.open("s").ntotal == plan.rows
    assert vqindex.open("s").spec.metric == "l2"


def test_workers_need_a_store(run, folder):
    for options in ((), ("--store", "--commit-every", 5)):
        code, _, err = run("build", "base.npy", "-o", "b", "--workers", 2, *options)
        assert code == 2
        assert "--workers needs --store" in err
