"""Reports of files that could not be saved where the user wanted them, or were saved elsewhere."""

import os
import stat
from pathlib import Path

import pytest
from reports import index_of, nearest, rows

import vqindex
from vqindex import InvalidInputError, VQIndex

X = rows()
posix = pytest.mark.skipif(os.name != "posix", reason="names and modes of POSIX")


# faiss #3073 and faiss-wheels #103: paths with characters outside ASCII could not be written or read.
# usearch #745 and zvec #666: the same.
@pytest.mark.parametrize(
    "name", ["\u30d9\u30af\u30bf\u30fc", "\uc815\uc9c4 data", "\u00fc\u00df \u00e9", "a'b\"c%41$HOME", "*"]
)
def test_names_with_any_characters_work(tmp_path, name):
    if os.name != "posix" and set(name) & set('*"'):
        pytest.skip("not a name on this system")
    folder = tmp_path / name
    folder.mkdir()
    index_of(X).save(folder / f"{name}.vqi")
    for mmap in (False, True):
        assert nearest(VQIndex.load(str(folder / f"{name}.vqi"), mmap=mmap), X) == list(range(60))
    with vqindex.open(folder / "store", "a", dim=16) as store:
        store.add(X)
    assert len(vqindex.open(folder / "store")) == 60
    assert sorted(os.listdir(folder)) == sorted([f"{name}.vqi", "store"])


# turbovec #299: a name of 243 characters and more could be made by hand but not saved, and killed saves left files.
@posix
@pytest.mark.parametrize("length", [200, 242, 243, 251, 255])
def test_the_longest_names_can_be_saved(tmp_path, length):
    name = "n" * (length - 4) + ".vqi"
    index_of(X).save(tmp_path / name)
    index_of(X[:9]).save(tmp_path / name)
    assert len(VQIndex.load(tmp_path / name)) == 9
    assert os.listdir(tmp_path) == [name]


# turbovec #293: the name of a temporary file could be guessed, and a link placed there had its target overwritten.
@posix
def test_no_save_writes_through_a_link_beside_it(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in ("a.vqi.tmp", ".a.vqi.tmp", f"a.vqi.tmp.{os.getpid()}.0", f".a.vqi.{os.getpid()}.tmp"):
        (folder / name).symlink_to(precious)
    index_of(X).save(folder / "a.vqi")
    assert precious.read_text() == "precious"
    assert not (folder / "a.vqi").is_symlink()
    assert nearest(VQIndex.load(folder / "a.vqi"), X) == list(range(60))


# zarr-python #325 and Annif #829: files moved into place could be read by their owner alone, whatever the umask.
@posix
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_new_files_have_the_mode_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        index_of(X).save(tmp_path / "a.vqi")
        with vqindex.open(tmp_path / "s", "a", dim=16) as store:
            store.add(X)
    finally:
        os.umask(before)
    files = [tmp_path / "a.vqi", *(path for path in (tmp_path / "s").iterdir() if path.name != "lock")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}


# lowdb #238 and openai-agents-python #5012: after a change of the working directory, data went to another file.
def test_a_relative_path_is_of_the_folder_at_the_call(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    index_of(X).save("a.vqi")
    mapped = VQIndex.load("a.vqi", mmap=True)
    with vqindex.open("s", "a", dim=16) as store:
        monkeypatch.chdir(tmp_path / "two")
        store.add(X)
        store.commit()
        assert nearest(mapped, X) == list(range(60))
    assert os.listdir(tmp_path / "two") == []
    assert len(vqindex.open(tmp_path / "one" / "s")) == 60


# h5py #1101: an error at opening named no file.
def test_what_is_no_file_is_named_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (VQIndex.load, vqindex.open):
        with pytest.raises(FileNotFoundError, match="missing"):
            call("missing")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        index_of(X).save("missing/a.vqi")
    with pytest.raises(FileNotFoundError, match="'~'"):
        index_of(X).save("~/a.vqi")  # no shell is there to expand it, and no folder of that name is made
    for wrong in ("", None, 3, "a\0b"):
        with pytest.raises(InvalidInputError, match=r"path is .*; expected the path"):
            index_of(X).save(wrong)
    assert os.listdir(tmp_path) == []


# usearch #174 and datasets #1663: a path as an object was a TypeError of the binding.
def test_paths_are_text_bytes_or_objects(tmp_path):
    for path in (str(tmp_path / "a.vqi"), os.fsencode(tmp_path / "a.vqi"), Path(tmp_path / "a.vqi")):
        index_of(X).save(path)
        assert len(VQIndex.load(path)) == 60
