"""Files whose rows are records, with and without links: round trips, checks of links, and damage."""

import json
import zlib

import h5py
import numpy as np
import pytest
from cases import METRICS, built, vectors
from damage import assert_refused, edit_header, replace_block
from graphs import file_with_graph, made_up_graph

import vqindex
from vqindex import FileFormatError, VQIndex, file_format
from vqindex.codes.bitplanes import join
from vqindex.codes.graph import NO_ROW
from vqindex.codes.records import RecordLayout, pack_records
from vqindex.rows import graph as graph_module
from vqindex.rows.graph import Curve, Graph, check_links, link_bytes

DIM = 17
CODES = (("turboquant-prod", 4), ("turboquant-mse", 8), ("trellis", 1), ("trellis", 2))


@pytest.fixture
def index():
    return built(vectors(300, DIM), "l2", ids=np.arange(300) * 3)


@pytest.fixture
def path(index, tmp_path):
    """A file of records and links."""
    return written(index, tmp_path / "graph.vqi", made_up_graph(256, 5))


def written(index, path, graph=None):
    file_format.write(path, index._codec, file_with_graph(index, graph))
    return path


def assert_same_answers(one, other):
    queries = vectors(5, DIM, seed=9)
    answers = (each.search(queries, 20, return_stderr=True) for each in (one, other))
    for got, want in zip(*answers, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(one.reconstruct(one.ids), other.reconstruct(other.ids))


# ---- links


@pytest.mark.parametrize("linked", [0, 1, 2, 512, 2**24 - 2, 2**24 - 1])
def test_packed_links_are_little_endian_numbers_of_three_or_four_bytes(linked, monkeypatch):
    size = 3 if linked < 2**24 - 1 else 4
    assert link_bytes(linked) == size
    links = np.array([[0, 1, NO_ROW], [linked - 1 if linked else 0, NO_ROW, NO_ROW]], np.uint32)
    monkeypatch.setattr(graph_module, "link_bytes", lambda rows: size)
    graph = Graph.pack(links)
    assert graph.links.shape == (2, 3 * size)
    assert graph.slots == 3
    for row in range(2):
        for place in range(3):
            packed = graph.links[row, place * size : (place + 1) * size].tobytes()
            link = int(links[row, place])
            assert packed == (b"\xff" * size if link == NO_ROW else link.to_bytes(size, "little"))
    np.testing.assert_array_equal(graph.unpack(), links)
    np.testing.assert_array_equal(graph.unpack(1, 2), links[1:])


def test_a_graph_counts_its_rows_and_bytes():
    graph = made_up_graph(100, 7)
    assert (graph.linked, graph.slots, graph.nbytes) == (100, 7, 100 * 21)
    assert (graph.unpack() != NO_ROW).sum(axis=1).tolist() == [row % 8 for row in range(100)]
    assert made_up_graph(0, 4).links.shape == (0, 12)


def test_links_that_no_index_writes_are_refused_by_row():
    links = made_up_graph(100, 4).unpack()
    check_links("it", [Graph.pack(links).links], 100, 4)
    for row, place, link, said in (
        (50, 0, 100, "row 50 has a link to row 100, expected one below 100"),
        (99, 3, 2**24 - 2, f"row 99 has a link to row {2**24 - 2}, expected one below 100"),
        (7, 1, 7, "row 7 has a link to row 7, which is itself"),
        (51, 3, 5, None),
        (50, 3, 5, "row 50 has a link to row 5, after a place without a link"),
    ):
        wrong = links.copy()
        wrong[row, : row % 5] = np.arange(row % 5)
        wrong[row, place] = link
        packed = Graph.pack(wrong).links
        for parts in ([packed], [packed[:10], packed[10:51], packed[51:]]):
            if said is None:
                wrong[row, :place] = range(place)
                check_links("it", [Graph.pack(wrong).links], 100, 4)
                continue
            with pytest.raises(FileFormatError, match=f"it: {said}"):
                check_links("it", parts, 100, 4)


# ---- round trips


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("codec", "bits"), CODES)
@pytest.mark.parametrize("n", [0, 1, 64, 300])
def test_saved_records_load_as_they_were(tmp_path, codec, bits, metric, n):
    index = built(vectors(n, DIM), metric, codec, bits=bits)
    graph = made_up_graph(n // 2, 3)
    written(index, tmp_path / "a.vqi", graph)
    size = RecordLayout.of(index.spec).size
    want = pack_records(index.spec, index._rows.gather(np.arange(n)))
    for how in ({}, {"mmap": True}, {"mmap": True, "verify": True}):
        file = file_format.read(tmp_path / "a.vqi", **{"verify": False, **how})
        stored = file.segment.stored
        assert stored.records.shape == (n, size)
        np.testing.assert_array_equal(stored.records, want)
        np.testing.assert_array_equal(join(index.spec, stored).codes, index._rows.gather(np.arange(n)).codes)
        assert file.graph is file.segment.graph
        assert file.graph.slots == 3
        assert file.graph.rule == graph.rule
        np.testing.assert_array_equal(file.graph.links, graph.links)
        assert stored.records.ctypes.data % 64 == 0 or not n
        assert_same_answers(VQIndex.load(tmp_path / "a.vqi", mmap=how.get("mmap", False)), index)
    file_format.verify(tmp_path / "a.vqi")


def test_files_of_records_have_version_4_and_others_version_3(index, path, tmp_path):
    header = file_format.read_header(path)
    assert header["format_version"] == 4
    rule = {"slots": 5, "kept": 3, "alpha": float(np.float32(1.2)), "effort": 100, "children": 2}
    assert header["graph"] == {"linked": 256, "batch": 512, **rule}
    assert list(header["blocks"]) == sorted(["thresholds", "levels", "signs", "records", "links", "ids"])
    without = file_format.read_header(written(index, tmp_path / "b.vqi"))
    assert without["format_version"] == 4
    assert "graph" not in without
    assert "links" not in without["blocks"]
    assert file_format.read(tmp_path / "b.vqi").graph is None
    index.save(tmp_path / "c.vqi")
    assert file_format.read_header(tmp_path / "c.vqi")["format_version"] == 3


def test_records_and_links_are_plain_contiguous_arrays_at_pages(path):
    file = file_format.read(path)
    with h5py.File(path) as hdf5:
        for name, array in (("records", file.segment.stored.records), ("links", file.graph.links)):
            assert hdf5[name].chunks is None
            np.testing.assert_array_equal(hdf5[name][()], array)
            offset = hdf5[name].id.get_offset()
            assert array.nbytes < 4096 or offset % 4096 == 0, f"{name} begins at {offset}"


def test_records_are_mapped_and_not_read(tmp_path):
    for n in (1, 3, 300, 2000):
        written(built(vectors(n, DIM), "l2"), tmp_path / "a.vqi", made_up_graph(n, 9))
        file = file_format.read(tmp_path / "a.vqi", mmap=True)
        stored = file.segment.stored
        for part in (stored.signs, stored.records, file.graph.links):
            assert isinstance(part, np.memmap) or part.nbytes < 4096
            assert not part.flags.writeable
        for part in (stored.codes, stored.rescale, stored.norm):
            assert np.shares_memory(part, stored.records)
            assert part.flags.aligned


def test_records_in_several_segments_are_one_block(tmp_path, monkeypatch):
    monkeypatch.setattr("vqindex.rows.row_store.SEGMENT_ROWS", 64)
    index = built(vectors(300, DIM), "ip")
    contents = file_with_graph(index, made_up_graph(300, 2))
    assert len(contents.segments) > 3
    file_format.write(tmp_path / "a.vqi", index._codec, contents)
    np.testing.assert_array_equal(
        file_format.read(tmp_path / "a.vqi").segment.stored.records,
        np.concatenate([segment.stored.records for segment in contents.segments]),
    )


def test_a_file_of_records_comes_back_from_bytes(index):
    contents = file_with_graph(index, made_up_graph(300, 2))
    file = file_format.read_bytes(file_format.to_bytes(index._codec, contents))
    np.testing.assert_array_equal(file.graph.links, contents.graph.links)
    np.testing.assert_array_equal(
        file.segment.stored.records, np.concatenate([segment.stored.records for segment in contents.segments])
    )


@pytest.mark.parametrize("mmap", [False, True])
def test_rows_added_to_records_are_saved_with_them(index, path, tmp_path, mmap):
    loaded, more = VQIndex.load(path, mmap=mmap), vectors(70, DIM, seed=5)
    for each in (loaded, index):
        each.add(more, ids=np.arange(70) + 5000)
        each.remove([3, 5001])
    assert_same_answers(loaded, index)
    loaded.save(tmp_path / "b.vqi")
    assert_same_answers(VQIndex.load(tmp_path / "b.vqi"), index)
    loaded.compact()
    assert_same_answers(loaded, index)


@pytest.mark.parametrize(("codec", "bits"), CODES)
def test_rows_of_which_some_are_records_are_written_as_version_3(tmp_path, codec, bits):
    index = built(vectors(200, DIM), "l2", codec, bits=bits)
    index.save(tmp_path / "a.vqi")
    (segment,) = index._contents.segments()
    first = index._rows.first(64).converted(records=True).segments()[0]
    second = segment._replace(stored=segment.stored.slice_rows(64, 200))
    contents = file_format.FileContents(index._encoder.centering, (first, second), {})
    file_format.write(tmp_path / "b.vqi", index._codec, contents)
    assert (tmp_path / "a.vqi").read_bytes() == (tmp_path / "b.vqi").read_bytes()


def test_a_graph_of_rows_that_are_no_records_is_not_written(index, tmp_path):
    contents = index._contents.compacted()
    file = file_format.FileContents(index._encoder.centering, contents.segments(), {}, graph=made_up_graph(300, 2))
    with pytest.raises(ValueError, match="rows that are no records"):
        file_format.write(tmp_path / "a.vqi", index._codec, file)
    assert list(tmp_path.iterdir()) == []


def test_the_curve_of_a_graph_comes_back(index, tmp_path):
    curve = Curve(10, 3, (10, 20), (30.5, 61.0), (0.5, 0.75), (0.125, 0.0))
    for each in (curve, curve._replace(exact_agreement=(0.5, 1.0), exact_error=(0.25, 0.0))):
        path = written(index, tmp_path / "a.vqi", made_up_graph(300, 2)._replace(curve=each))
        assert file_format.read(path).graph.curve == each


def test_a_segment_of_a_store_may_be_a_file_of_records(tmp_path):
    """A store writes none, but it reads them: the search, changes and commits give what they would without records."""
    x = vectors(200, DIM)
    for name in ("records", "plain"):
        with vqindex.open(tmp_path / name, "a", dim=DIM, metric="l2") as store:
            store.add(x)
            store.commit()
        segment = next((tmp_path / name).glob("*.vqi"))
        if name == "records":
            file = file_format.read(segment)
            rewritten = built(x, "l2")
            assert file.segment.ids is None
            written(rewritten, segment)
            found = file_format.read(segment)
            edit_manifest(tmp_path / name, size=segment.stat().st_size, crc32=found.crc32)
    answers = []
    for name in ("records", "plain"):
        with vqindex.open(tmp_path / name, "a") as store:
            assert (store._index._rows.stored()[0].records is None) == (name == "plain")
            store.remove([3, 60])
            store.add(vectors(30, DIM, seed=4))
            store.commit()
            store.compact()
        with vqindex.open(tmp_path / name) as store:
            answers.append([part.tobytes() for part in store.search(vectors(4, DIM, seed=7), 20)])
    assert answers[0] == answers[1]


def edit_manifest(folder, **changes):
    first, body = (folder / "manifest").read_bytes().split(b"\n", 1)
    manifest = json.loads(body)
    manifest["segments"][0].update(changes)
    raw = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    kind, version = first.split()[:2]
    (folder / "manifest").write_bytes(b"%s %s %08x %d\n" % (kind, version, zlib.crc32(raw), len(raw)) + raw)


# ---- damage


@pytest.mark.parametrize("name", ["signs", "records", "links"])
def test_flipped_bits_of_records_and_links_name_the_block(path, name):
    whole = path.read_bytes()
    with h5py.File(path) as file:
        offset, size = file[name].id.get_offset(), file[name].nbytes
    for at in np.unique(np.linspace(0, size - 1, 5, dtype=int)).tolist():
        damaged = bytearray(whole)
        damaged[offset + at] ^= 0x10
        path.write_bytes(damaged)
        assert_refused(path, f"'{name}' is damaged", mmap=(False,))
        with pytest.raises(FileFormatError, match=f"'{name}' is damaged"):
            VQIndex.load(path, mmap=True, verify=True)
        VQIndex.load(path, mmap=True).search(vectors(2, DIM), 5)  # as documented: not read, so not checked


@pytest.mark.parametrize("link", [256, 299, 2**24 - 2, 200])
def test_links_with_right_checksums_to_wrong_rows_are_refused(path, link):
    """Row 200 has no links: a link to itself, to rows that are not linked, to rows that do not exist."""
    links = file_format.read(path).graph.unpack()
    links[200, 0] = link
    packed = Graph.pack(links).links
    replace_block(path, "links", packed)
    edit_header(path, lambda header: header["blocks"]["links"].update(crc32=[zlib.crc32(packed.tobytes())]))
    said = "which is itself" if link == 200 else "expected one below 256"
    assert_refused(path, f"row 200 has a link to row {link}, {said}", mmap=(False,))
    with pytest.raises(FileFormatError, match=said):
        VQIndex.load(path, mmap=True, verify=True)
    VQIndex.load(path, mmap=True)


def wrong_curve(**changes):
    curve = Curve(10, 3, (10, 20), (30.5, 61.0), (0.5, 0.75), (0.125, 0.0))._asdict()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in curve.items()} | changes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.pop("graph"), "either links or a graph"),
        (lambda h: h.update(graph=5), "either links or a graph"),
        (lambda h: h.update(graph=[1]), "either links or a graph"),
        (lambda h: h["blocks"].pop("links"), "either links or a graph"),
        (lambda h: h["graph"].pop("slots"), "slots of its graph is None; expected an integer from 2 to 1024"),
        (lambda h: h["graph"].update(slots=0), "slots of its graph is 0"),
        (lambda h: h["graph"].update(slots=True), "slots of its graph is True"),
        (lambda h: h["graph"].update(slots=5.0), "slots of its graph is 5.0"),
        (lambda h: h["graph"].update(slots=2**40), "expected an integer from 2 to 1024"),
        (lambda h: h["graph"].update(slots=4), "'links' has shape (256, 15); expected (256, 12)"),
        (lambda h: h["graph"].update(linked=-1), "linked of its graph is -1; expected an integer from 0 to 300"),
        (lambda h: h["graph"].update(linked=301), "linked of its graph is 301"),
        (lambda h: h["graph"].update(linked="256"), "linked of its graph is '256'"),
        (lambda h: h["graph"].update(batch=511), "batch of its graph is 511; expected an integer from 512 to 512"),
        (lambda h: h["graph"].update(kept=6), "kept of its graph is 6; expected an integer from 1 to 5"),
        (lambda h: h["graph"].update(children=5), "children of its graph is 5; expected an integer from 1 to 4"),
        (lambda h: h["graph"].update(effort=0), "effort of its graph is 0"),
        (lambda h: h["graph"].update(alpha=1.2), "alpha of its graph is 1.2; expected a float32 number"),
        (lambda h: h["graph"].update(alpha=1), "alpha of its graph is 1; expected a float32 number"),
        (lambda h: h["graph"].update(curve=3), "the curve of its graph is 3; expected k, queries"),
        (lambda h: h["graph"].update(curve={"k": 1}), "expected k, queries"),
        (lambda h: h["graph"].update(curve=wrong_curve(k=0)), "k of its graph is 0"),
        (lambda h: h["graph"].update(curve=wrong_curve(efforts=[])), "lists of different lengths"),
        (lambda h: h["graph"].update(curve=wrong_curve(efforts=5)), "lists of different lengths"),
        (lambda h: h["graph"].update(curve=wrong_curve(scored=[1.0])), "lists of different lengths"),
        (lambda h: h["graph"].update(curve=wrong_curve(exact_error=[0.5, 0.5])), "lists of different lengths"),
        (lambda h: h["graph"].update(curve=wrong_curve(efforts=[20, 10])), "is no curve"),
        (lambda h: h["graph"].update(curve=wrong_curve(efforts=[1.5, 10])), "is no curve"),
        (lambda h: h["graph"].update(curve=wrong_curve(error=["a", 0.5])), "is no curve"),
        (lambda h: h["graph"].update(linked=255), "'links' has shape (256, 15); expected (255, 15)"),
        (lambda h: h.update(ntotal=299), "'records' has shape (300, 32); expected (299, 32)"),
        (lambda h: h["blocks"].pop("records"), "the header names blocks"),
        (lambda h: h["blocks"].update(codes=h["blocks"]["records"]), "the header names blocks"),
    ],
)
def test_headers_that_do_not_fit_the_records_or_links_are_refused(path, change, words):
    edit_header(path, change)
    assert_refused(path, words)


def test_blocks_of_other_types_or_shapes_are_refused(path):
    whole = path.read_bytes()
    records, links = file_format.read(path).segment.stored.records.copy(), file_format.read(path).graph.links.copy()
    for name, array in (
        ("records", records[:, :-4]),
        ("records", records.astype(np.int8)),
        ("records", records.view("<u4")),
        ("records", records[:299]),
        ("links", links[:, :-3]),
        ("links", links.astype(np.int8)),
        ("links", links[:255]),
    ):
        path.write_bytes(whole)
        replace_block(path, name, array)
        assert_refused(path, f"'{name}'")


def test_records_of_a_codec_that_has_none_are_refused(path):
    edit_header(path, lambda header: header["spec"].update(sketch="orthogonal"))
    assert_refused(path)


def test_unaligned_records_are_read_into_memory(tmp_path):
    """HDF5 aligns large blocks only, and another writer none; kernels read aligned floats."""
    unaligned = 0
    for n in range(1, 12):
        index = built(vectors(n, DIM), "l2")
        written(index, tmp_path / "a.vqi", made_up_graph(n, 2 + n % 3))
        with h5py.File(tmp_path / "a.vqi") as hdf5:
            unaligned += hdf5["records"].id.get_offset() % 64 > 0
        stored = file_format.read(tmp_path / "a.vqi", mmap=True).segment.stored
        assert stored.records.ctypes.data % 64 == 0
        assert not stored.records.flags.writeable
        assert stored.rescale.flags.aligned
        assert_same_answers(VQIndex.load(tmp_path / "a.vqi", mmap=True), index)
    assert unaligned
