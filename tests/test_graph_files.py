"""Indexes with a graph in files, maps, pickles and copies, and on the command line."""

import copy
import json
import pickle

import numpy as np
import pytest
from click.testing import CliRunner

import vqindex
from vqindex.codes.graph import BATCH
from vqindex.file_format.graph_header import has_many_entries
from vqindex_cli.main import cli

DIM = 24
ROWS = BATCH + 90


def vectors(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).standard_normal((20, DIM))
    return (centers[rng.integers(0, 20, rows)] + 0.4 * rng.standard_normal((rows, DIM))).astype(np.float32)


def with_graph(**more):
    index = vqindex.VQIndex(DIM, **{"metric": "cosine"} | more)
    index.add(vectors())
    index.build_graph(8)
    index.tune(vectors(30, seed=3), k=5)
    return index


@pytest.fixture(scope="module")
def index():
    return with_graph(keep_vectors="f16")


def same(first, second):
    queries = vectors(20, seed=1)
    for arguments in ({"effort": 20}, {"exact": True}, {"effort": 30, "rerank": True}):
        one, two = first.search(queries, 5, **arguments), second.search(queries, 5, **arguments)
        assert np.array_equal(one.ids, two.ids)
        assert np.array_equal(one.scores, two.scores)
    assert first.stats()["linked"] == second.stats()["linked"] == BATCH
    assert first.curve == second.curve is not None


@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_gives_the_same_answers(index, tmp_path, mmap):
    index.save(tmp_path / "a.vqi")
    same(index, vqindex.VQIndex.load(tmp_path / "a.vqi", mmap=mmap))


@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_says_that_walks_start_from_many_entries(tmp_path, mmap):
    index = with_graph(keep_vectors="f16")
    index.save(tmp_path / "few.vqi")
    index._contents = index._contents._replace(graph=index._contents.graph._replace(many_entries=True))
    index.save(tmp_path / "many.vqi")
    assert not vqindex.VQIndex.load(tmp_path / "few.vqi", mmap=mmap)._contents.graph.many_entries
    loaded = vqindex.VQIndex.load(tmp_path / "many.vqi", mmap=mmap)
    assert loaded._contents.graph.many_entries
    same(index, loaded)


def test_an_entry_that_does_not_say_yes_or_no_to_many_entries_is_refused():
    with pytest.raises(vqindex.FileFormatError, match="many_entries of its graph is 1; expected true or false"):
        has_many_entries("a.vqi", {"many_entries": 1})


def test_the_same_index_gives_the_same_bytes(index, tmp_path):
    index.save(tmp_path / "a.vqi")
    vqindex.VQIndex.load(tmp_path / "a.vqi").save(tmp_path / "b.vqi")
    assert (tmp_path / "a.vqi").read_bytes() == (tmp_path / "b.vqi").read_bytes()


def test_pickles_and_copies_give_the_same_answers(index):
    for twin in (pickle.loads(pickle.dumps(index)), copy.copy(index), copy.deepcopy(index)):
        same(index, twin)


def test_links_of_a_loaded_index_grow_as_those_of_the_first(tmp_path):
    index = with_graph()
    index.save(tmp_path / "a.vqi")
    later = vectors(BATCH, seed=5)
    loaded = vqindex.VQIndex.load(tmp_path / "a.vqi", mmap=True)
    for each in (index, loaded):
        each.add(later)
        each.build_graph(8)
    assert np.array_equal(index._contents.graph.links, loaded._contents.graph.links)


def test_a_mapped_index_whose_new_rows_go_walks_and_links(tmp_path):
    """Blocks of rows may then have any number of rows."""
    index = with_graph()
    index.save(tmp_path / "a.vqi")
    loaded = vqindex.VQIndex.load(tmp_path / "a.vqi", mmap=True)
    loaded.add(vectors(200, seed=6))
    loaded.remove(np.arange(ROWS, ROWS + 180))
    queries = vectors(20, seed=1)
    assert np.array_equal(
        loaded.search(queries, 5, effort=2000).ids, loaded.search(queries, 5, confidence=1, exact=True).ids
    )
    loaded.add(vectors(1200, seed=7))
    assert loaded.stats()["linked"] == 3 * BATCH
    loaded.remove([3])
    loaded.compact()
    assert loaded.search(queries, 5, effort=40).ids.shape == (20, 5)


def test_a_save_leaves_out_removed_rows(tmp_path):
    index = with_graph()
    index.remove(np.arange(0, ROWS, 4))
    index.save(tmp_path / "a.vqi")
    loaded = vqindex.VQIndex.load(tmp_path / "a.vqi")
    assert loaded.stats()["linked"] == BATCH * 3 // 4
    queries = vectors(20, seed=1)
    found, expected = loaded.search(queries, 5, effort=40), index.search(queries, 5, exact=True)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(found.ids, expected.ids, strict=True)]) > 0.95


def test_an_index_that_waits_for_rows_keeps_its_graph(tmp_path):
    index = vqindex.VQIndex(DIM, graph=16)
    index.add(vectors(100))
    index.save(tmp_path / "a.vqi")
    assert vqindex.VQIndex.load(tmp_path / "a.vqi").stats()["links"] == 16


def test_dropping_the_graph_writes_the_older_version(index, tmp_path):
    twin = copy.copy(index)
    twin.drop_graph()
    twin.save(tmp_path / "a.vqi")
    flat = vqindex.VQIndex(DIM, metric="cosine", keep_vectors="f16")
    flat.add(vectors())
    flat.save(tmp_path / "b.vqi")
    assert (tmp_path / "a.vqi").read_bytes() == (tmp_path / "b.vqi").read_bytes()


def test_a_mapped_file_with_wrong_links_is_refused_or_walked_safely(index, tmp_path):
    path = tmp_path / "a.vqi"
    index.save(path)
    data = bytearray(path.read_bytes())
    links = index._contents.graph.links.tobytes()
    at = data.find(links)
    assert at > 0
    data[at : at + 3000] = b"\xfe" * 3000
    path.write_bytes(data)
    with pytest.raises(vqindex.FileFormatError, match="links"):
        vqindex.VQIndex.load(path)
    mapped = vqindex.VQIndex.load(path, mmap=True)
    assert mapped.search(vectors(5, seed=1), 5, effort=20).ids.shape == (5, 5)
    with pytest.raises(vqindex.FileFormatError, match="damaged file"):
        mapped.compact() if mapped.remove([3]) else None


# ---- the command line


def run(*arguments):
    result = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "base.npy", vectors())
    np.save(tmp_path / "queries.npy", vectors(20, seed=1))
    return tmp_path


def test_build_with_a_graph_equals_build_then_graph(files):
    base = files / "base.npy"
    shown = json.loads(run("build", base, "-o", files / "a.vqi", "--metric", "cosine", "--graph", 8, "--json"))
    assert shown["link_bytes"] == 24
    run("build", base, "-o", files / "b.vqi", "--metric", "cosine")
    summary = json.loads(run("graph", files / "b.vqi", "--links", 8, "--json"))
    assert summary["linked"] == BATCH
    assert summary["curve"]["efforts"][0] == 10
    one, two = (vqindex.VQIndex.load(files / name)._contents.graph for name in ("a.vqi", "b.vqi"))
    assert np.array_equal(one.links, two.links)
    assert one.curve == two.curve


def test_search_and_eval_take_an_effort_and_a_recall(files):
    base, queries = files / "base.npy", files / "queries.npy"
    run("build", base, "-o", files / "a.vqi", "--metric", "cosine", "--graph", 8)
    flat = run("search", files / "a.vqi", queries, "--scan", "--json")
    assert run("search", files / "a.vqi", queries, "--effort", 300, "--json") == flat
    run("search", files / "a.vqi", queries, "--recall", 0.9)
    report = json.loads(run("eval", files / "a.vqi", base, "--queries", queries, "--effort", 50, "--json"))
    assert report["effort"] == 50
    assert 50 < report["scored"] < ROWS
    scanned = json.loads(run("eval", files / "a.vqi", base, "--queries", queries, "--scan", "--json"))
    assert scanned["effort"] is scanned["scored"] is None


def test_graph_drops_the_links(files):
    run("build", files / "base.npy", "-o", files / "a.vqi", "--graph", 8)
    assert json.loads(run("info", files / "a.vqi", "--json"))["slots"] == 8
    run("graph", files / "a.vqi", "--drop")
    assert "slots" not in json.loads(run("info", files / "a.vqi", "--json"))


def test_graph_prints_the_curve(files):
    run("build", files / "base.npy", "-o", files / "a.vqi")
    shown = run("graph", files / "a.vqi", "--links", 8, "--queries", files / "queries.npy", "-k", 3)
    assert "agreement" in shown
    assert "scored" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "base.npy", "-o", "a.vqi", "--graph", "3"), "8<=x<=128"),
        (("search", "flat.vqi", "queries.npy", "--effort", "5"), "has no graph"),
        (("search", "flat.vqi", "queries.npy", "--recall", "1"), "0<x<1"),
    ],
)
def test_wrong_usage_is_named(files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    run("build", "base.npy", "-o", "flat.vqi")
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code != 0
    assert message in (result.output + str(result.exception))
