"""Stores with a graph: readers find the links of memory, commits write what changed, and damage is noticed."""

import shutil
import struct
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from stores import content

import vqindex
from vqindex import FileFormatError, InvalidInputError, StoreError, VQIndex
from vqindex.codes.graph import BATCH, NO_ROW, entry_rows
from vqindex.linking import TAIL_ROWS
from vqindex.store import verify_store
from vqindex.store.manifest import GraphEntry, LinksEntry, read_manifest
from vqindex_cli.main import cli

DIM = 12


def vectors(rows, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((20, DIM))
    return (centers[rng.integers(0, 20, rows)] + 0.4 * rng.standard_normal((rows, DIM))).astype(np.float32)


QUERIES = vectors(20, 9)


def links_of(index):
    return getattr(index, "_index", index)._contents.graph.rows()


def assert_same(one, other, **how):
    for found, expected in zip(one.search(QUERIES, 10, **how), other.search(QUERIES, 10, **how), strict=True):
        assert np.array_equal(found, expected)


def assert_reachable(links):
    seen, waiting = np.zeros(len(links), np.bool_), entry_rows(len(links)).tolist()
    seen[waiting] = True
    while waiting:
        targets = links[waiting]
        waiting = np.unique(targets[targets != NO_ROW])
        waiting = waiting[~seen[waiting]].tolist()
        seen[waiting] = True
    assert seen.all()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of several files of links, and an index in memory with the same vectors."""
    folder, memory = tmp_path_factory.mktemp("made") / "store", VQIndex(DIM, metric="l2", graph=12)
    with vqindex.open(folder, "a", dim=DIM, metric="l2", graph=12) as store:
        for i, rows in enumerate((64 * BATCH, 100, TAIL_ROWS)):
            store.add(vectors(rows, i))
            store.commit()
            memory.add(vectors(rows, i))
    assert len(read_manifest(folder).links) > 1
    return folder, memory


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("mmap", [False, True])
def test_a_reader_walks_as_an_index_in_memory_does(made, mmap):
    folder, memory = made
    reader = vqindex.open(folder, mmap=mmap, verify=True)
    assert np.array_equal(links_of(reader), links_of(memory))
    assert_same(reader, memory, effort=20)
    assert_same(reader, memory, exact=True)
    assert reader.search(QUERIES, effort=20, explain=True).explanation.scored.max() < len(memory)
    assert reader.stats()["linked"] == memory.stats()["linked"]


def test_a_small_commit_writes_few_links(made):
    first, *later = read_manifest(made[0]).links
    assert (first.first, first.changed) == (0, 0)
    for links in later:
        assert links.first == first.linked
        assert 0 < links.changed < links.first
        assert links.size < first.size / 2


def test_links_are_written_as_one_file_once_the_later_ones_are_large(folder):
    with vqindex.open(folder, "a") as store:
        counts = []
        for i in range(12):
            store.add(vectors(TAIL_ROWS, 50 + i))
            store.commit()
            counts.append(len(read_manifest(folder).links))
        expected = links_of(store)
    assert {1, 2} <= set(counts)
    assert np.array_equal(links_of(vqindex.open(folder, verify=True)), expected)
    links = {path.name for path in folder.glob("*.links")}
    assert links == {each.name for each in read_manifest(folder).links}


def test_nothing_is_written_when_nothing_changed(folder):
    with vqindex.open(folder, "a") as store:
        before = store.stats()["commit"]
        assert store.commit() == before
        store.meta["note"] = 1
        store.commit()
        after = read_manifest(folder)
        assert after.commit == before + 1
        assert after.links == read_manifest(folder).links
    assert len(list(folder.glob("*.links"))) == len(after.links)


@pytest.mark.parametrize("mmap", [False, True])
def test_replaced_vectors_keep_links_and_files_in_step(folder, mmap):
    rng = np.random.default_rng(0)
    with vqindex.open(folder, "a", mmap=mmap) as store:
        for i in range(25):
            ids = rng.choice(len(store), 200 if i % 3 else 1500, replace=False)
            store.upsert(ids, vectors(ids.size, 100 + i))
            if i % 5 == 4:
                store.remove(rng.choice(store.ids, 900, replace=False))
            store.commit()
            reader = vqindex.open(folder, verify=True)
            assert content(reader, QUERIES, exact=True) == content(store, QUERIES, exact=True)
            links = links_of(reader)
            assert_reachable(links)
            assert len(reader) - reader.stats()["linked"] < TAIL_ROWS
            agreed = reader.search(QUERIES, 10, effort=80).ids == reader.search(QUERIES, 10, exact=True).ids
            assert agreed.mean() > 0.9
        assert store.compact() >= 0
        verify_store(folder)
        assert np.array_equal(links_of(vqindex.open(folder)), links_of(store))


def test_all_vectors_may_be_removed(folder):
    with vqindex.open(folder, "a") as store:
        store.remove(store.ids)
        store.commit()
        assert len(vqindex.open(folder, verify=True)) == 0
        store.add(vectors(2 * TAIL_ROWS), np.arange(10**6, 10**6 + 2 * TAIL_ROWS))
    reader = vqindex.open(folder, verify=True)
    assert (reader.search(vectors(20), 1, effort=40).ids >= 10**6).all()


def test_a_graph_is_built_dropped_and_built_anew(tmp_path, made):
    folder = tmp_path / "store"
    with vqindex.open(folder, "a", dim=DIM, metric="l2") as store:
        for i, rows in enumerate((64 * BATCH, 100, TAIL_ROWS)):
            store.add(vectors(rows, i))
            store.commit(merge=False)
        store.build_graph(12)
    reader = vqindex.open(folder, verify=True)
    assert np.array_equal(links_of(reader)[: 64 * BATCH], links_of(made[1])[: 64 * BATCH])
    assert_same(reader, made[1], exact=True)
    with vqindex.open(folder, "a") as store:
        store.build_graph(8)
    assert vqindex.open(folder, verify=True).stats()["links"] == 8
    with vqindex.open(folder, "a") as store:
        store.drop_graph()
    reader = vqindex.open(folder, verify=True)
    assert reader.stats()["links"] is None
    assert not list(folder.glob("*.links"))
    assert_same(reader, made[1], exact=True)


def test_a_curve_is_kept_by_a_commit_and_measured_by_readers(folder):
    reader = vqindex.open(folder)
    with pytest.raises(InvalidInputError, match="expected tune"):
        reader.search(QUERIES, recall=0.9)
    curve = reader.tune(QUERIES)
    reader.search(QUERIES, recall=0.9)
    assert read_manifest(folder).graph.curve is None
    with vqindex.open(folder, "a") as store:
        assert store.tune(QUERIES) == curve
    assert vqindex.open(folder).curve == curve
    with pytest.raises(StoreError, match="open for reading"):
        reader.build_graph()
    with pytest.raises(StoreError, match="open for reading"):
        reader.drop_graph()


def test_a_commit_keeps_that_walks_start_from_many_entries(folder):
    with vqindex.open(folder, "a") as store:
        contents = store._index._contents
        store._index._contents = contents._replace(graph=contents.graph._replace(many_entries=True))
        store.commit()
    assert links_of(vqindex.open(folder)).size
    assert vqindex.open(folder)._index._contents.graph.many_entries


def test_another_graph_than_the_stored_one_is_refused(folder, tmp_path):
    for links in (8, 32):
        with pytest.raises(InvalidInputError, match=f"graph is {links}; the index in .* has 12"):
            vqindex.open(folder, graph=links)
    assert vqindex.open(folder, graph=12).stats()["links"] == 12
    with pytest.raises(InvalidInputError, match="graph is 3; expected an integer from 8 to 128"):
        vqindex.open(tmp_path / "new", "a", dim=DIM, graph=3)
    assert not (tmp_path / "new").exists()
    vqindex.open(tmp_path / "flat", "a", dim=DIM).close()
    with pytest.raises(InvalidInputError, match="graph is 32; the index in"):
        vqindex.open(tmp_path / "flat", "a", graph=32)


def test_every_flipped_bit_of_the_links_is_noticed(folder):
    for entry in read_manifest(folder).links:
        path = folder / entry.name
        whole = path.read_bytes()
        for at in range(0, len(whole), len(whole) // 60 | 1):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            path.write_bytes(damaged)
            with pytest.raises(FileFormatError, match=entry.name):
                verify_store(folder)
            with pytest.raises(FileFormatError, match=entry.name):
                vqindex.open(folder, mmap=False)
        path.write_bytes(whole)
    verify_store(folder)


def test_links_that_are_cut_off_missing_or_of_another_commit_are_named(folder):
    first, second = read_manifest(folder).links[:2]
    path, other = folder / first.name, folder / second.name
    whole = path.read_bytes()
    for wrong in (b"", whole[:4096], whole[:-1], whole + b"x", other.read_bytes()):
        path.write_bytes(wrong)
        for call in (verify_store, vqindex.open):
            with pytest.raises(FileFormatError, match=first.name):
                call(folder)
    path.unlink()
    for call in (verify_store, vqindex.open):
        with pytest.raises(FileFormatError, match=first.name):
            call(folder)
    path.symlink_to(other)
    with pytest.raises((FileFormatError, OSError), match=first.name):
        vqindex.open(folder)


def reseal(folder, old, data):
    """Put other bytes in place of a file of links, and its checksum into the manifest."""
    (folder / old.name).write_bytes(data)
    path = folder / "manifest"
    body = path.read_bytes().split(b"\n", 1)[1]
    body = body.replace(b'"crc32":%d' % old.crc32, b'"crc32":%d' % zlib.crc32(data))
    path.write_bytes(b"vqindex-store 1 %08x %d\n" % (zlib.crc32(body), len(body)) + body)


@pytest.mark.parametrize("row", [2**24 - 2, 7])
def test_links_that_no_index_has_are_refused_and_read_no_memory(folder, row):
    """Row 7 has a link to a row that does not exist, or to itself, and all checksums are right."""
    entry = read_manifest(folder).links[0]
    data = bytearray((folder / entry.name).read_bytes())
    data[4096 + 7 * 36 : 4096 + 7 * 36 + 3] = struct.pack("<I", row)[:3]
    reseal(folder, entry, bytes(data))
    with pytest.raises(FileFormatError, match="row 7 has a link"):
        verify_store(folder)
    with pytest.raises(FileFormatError, match="row 7 has a link"):
        vqindex.open(folder, mmap=False)
    vqindex.open(folder).search(QUERIES, effort=4000)


def test_a_changed_row_out_of_range_is_refused(folder):
    entry = read_manifest(folder).links[1]
    data = bytearray((folder / entry.name).read_bytes())
    at = 4096 + (entry.linked - entry.first) * 36
    data[at + 4 * entry.changed - 4 : at + 4 * entry.changed] = struct.pack("<I", 2**32 - 1)
    reseal(folder, entry, bytes(data))
    for call in (verify_store, vqindex.open):
        with pytest.raises(FileFormatError, match="changes row 4294967295"):
            call(folder)


@pytest.mark.parametrize(
    "files",
    [
        ((0, 600, 0), (700, 800, 0)),  # a gap
        ((0, 600, 0), (600, 500, 0)),  # ends before it begins
        ((0, 600, 3),),  # changes rows that no file has
        ((10, 600, 0),),  # does not begin at the first row
        ((0, 2**40, 0),),  # more rows than there are
        ((0, 600, 0), (600, 700, 601)),  # changes more rows than come before
    ],
)
def test_a_manifest_of_impossible_links_is_refused(made, tmp_path, files):
    from dataclasses import replace

    manifest = read_manifest(made[0])
    entries = tuple(LinksEntry(900 + i, *each, 0, 0) for i, each in enumerate(files))
    wrong = replace(manifest, graph=GraphEntry(manifest.graph.rule, None, entries), next_file=1000)
    (tmp_path / "manifest").write_bytes(wrong.to_bytes())
    with pytest.raises(FileFormatError, match="can't be read"):
        read_manifest(tmp_path)


def test_copies_merges_and_saves_have_what_the_store_has(folder, made, tmp_path):
    with vqindex.open(folder, "a") as store:
        store.remove(np.arange(0, 3000, 2))
        store.save(tmp_path / "a.vqi")
        loaded = VQIndex.load(tmp_path / "a.vqi")
        assert_reachable(links_of(loaded))
        assert_same(loaded, store, exact=True)
        more = VQIndex(DIM, metric="l2", graph=12)
        more.add(vectors(3000, 70))
        store.merge(more)
        assert store.stats()["linked"] > made[1].stats()["linked"]
    assert len(vqindex.open(folder, verify=True)) == len(made[1]) - 1500 + 3000


def test_the_command_line_makes_stores_with_a_graph(tmp_path):
    np.save(tmp_path / "base.npy", vectors(3 * BATCH))
    np.save(tmp_path / "queries.npy", QUERIES)

    def run(*arguments):
        result = CliRunner().invoke(cli, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    store = tmp_path / "s"
    run("build", tmp_path / "base.npy", "-o", store, "--store", "--graph", 12)
    assert vqindex.open(store).curve is not None
    assert "linked" in run("info", store)
    run("verify", store)
    run("search", store, tmp_path / "queries.npy", "--recall", 0.9)
    run("graph", store, "--drop")
    assert vqindex.open(store).stats()["links"] is None
    assert "agreement" in run("graph", store, "--links", 16)
    assert vqindex.open(store, verify=True).stats()["links"] == 16
