"""Folders that the integrations wrote before: opened as they are, converted by the first change, whole at any moment.

`tests/golden/docs1` and `docs1-kept` were written by version 0.1's ``vqindex.integrations.docstore``; the second one
kept the vectors themselves.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tracing import moments_of, traced

from vqindex import FileFormatError, InvalidInputError, documents

# An interrupt between opening a file and storing it leaves the closing to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*unclosed file:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)
GOLDEN = Path(__file__).parent / "golden"
VECTORS = np.random.default_rng(7).standard_normal((12, 8)).astype(np.float32)
IDS = [f"id{i}" for i in range(12) if i not in (7, 11)]


@pytest.fixture(params=["docs1", "docs1-kept"])
def folder(request, tmp_path):
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / request.param))


def check(store):
    found = {each.id: each for each in store.list(vectors=True)}
    assert list(found) == IDS
    for i, each in ((int(name[2:]), each) for name, each in found.items()):
        if i == 2:
            assert (each.text, each.metadata, each.more) == ("text changed", {"y": -2}, {})
        else:
            assert each.text == (None if i == 5 else f"text number {i}")
            assert each.metadata == {"y": i, "grüße": ["é", None, 2**70]}
            assert each.more == {"n": i}
        vector = VECTORS[0 if i == 2 else i]
        if i == 3:
            assert each.vector is None
        elif store.index.keep_vectors:
            assert each.vector.tolist() == vector.tolist()
        else:
            assert each.vector @ vector > 0.8 * np.linalg.norm(vector) * np.linalg.norm(each.vector)  # of 3 bits
    assert [hit.id for hit in store.search(VECTORS[8], 1)] == ["id8"]
    assert [hit.id for hit in store.search(text="changed")] == ["id2"]
    assert store.count({"grüße": {"$contains": "é"}}) == 9
    assert (store.metric, store.dim, store.index.spec.bits) == ("l2", 8, 3)


def names_in(folder):
    return sorted(os.listdir(folder))


def test_an_old_folder_opens_as_it_is(folder):
    before = {name: (folder / name).read_bytes() for name in names_in(folder)}
    for mode in ("r", "a"):
        with documents.open(folder, mode) as store:
            check(store)
            store.verify()
        assert {name: (folder / name).read_bytes() for name in names_in(folder)} == before


def test_the_first_change_converts_an_old_folder(folder):
    reader = documents.open(folder, "r")
    with documents.open(folder, writer="one") as store:
        store.update_metadata({"none": {}})
        check(store)
    with pytest.raises(InvalidInputError, match="was written by 'one'"):
        documents.open(folder, writer="two")
    assert names_in(folder) == ["0000000000.vqi", "docs.sqlite", "lock"]
    for mode in ("r", "a"):
        with documents.open(folder, mode, bits=3, metric="l2") as store:
            check(store)
            store.verify()
    check(reader)
    reader.refresh()
    check(reader)
    with documents.open(folder) as store:
        store.upsert(["new"], VECTORS[7:8], ids=["id7"])
        assert [hit.id for hit in store.search(VECTORS[7], 1)] == ["id7"]
        assert store.list()[-1].id == "id7"
    assert reader.refresh() > 1
    assert "id7" in reader
    reader.close()


def test_two_that_have_an_old_folder_open_convert_it_once(folder):
    first, second = documents.open(folder), documents.open(folder)
    first.add(["first"], ids=["first"])
    second.add(["second"], ids=["second"])
    assert "second" in first
    assert "first" in second
    second.verify()


def test_parameters_that_differ_from_those_of_an_old_folder_are_refused(folder):
    with pytest.raises(InvalidInputError, match="bits is 4"):
        documents.open(folder, bits=4)


def test_an_old_folder_without_its_index_is_refused(folder):
    next(folder.glob("index-*.vqi")).unlink()
    with pytest.raises(FileFormatError, match="which is missing"):
        documents.open(folder, "r")


def test_an_interrupt_at_any_line_of_a_conversion_leaves_the_old_store_or_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    folder = tmp_path / "store"

    def convert():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(GOLDEN / "docs1-kept", folder)
        store = documents.open(folder, autocommit=False)
        opened.append(store)
        store.update_metadata({"none": {}})

    opened = []
    moments = moments_of(convert, only_first=True)
    opened.pop()._session.close()
    for moment in moments[:: int(os.environ.get("VQINDEX_TEST_EVERY", 40))]:
        remaining = moment

        def on_line(location):
            nonlocal remaining
            if remaining == 0:
                raise KeyboardInterrupt
            remaining -= 1

        with pytest.raises(KeyboardInterrupt):
            traced(convert, on_line)
        with documents.open(folder, "r") as reader:
            check(reader)
        for store in opened:
            check(store)
            store.update_metadata({"none": {}})
            store.commit()
            store.close()
        opened.clear()
        with documents.open(folder, timeout=0) as store:
            check(store)
            store.verify()
