"""Files that are not what `save` wrote: each is refused with the file's name, none gives a wrong answer."""

import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import assert_refused, edit_header, replace_block
from edits import edited
from graphs import file_with_graph, made_up_graph

from vqindex import FileFormatError, VQIndex, file_format
from vqindex.codes.codec import GaussianSketch
from vqindex.codes.rotation import Haar
from vqindex.file_format import hardened, layout

DIM = 8


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small file with every block."""
    path = tmp_path_factory.mktemp("damage") / "small.vqi"
    index = VQIndex(DIM, 4, "l2")
    index.add(np.random.default_rng(0).standard_normal((17, DIM)), ids=np.arange(17) * 5)
    index.save(path)
    return path


@pytest.fixture
def path(original, tmp_path):
    return shutil.copy(original, tmp_path / "copy.vqi")


def block(path, name):
    with h5py.File(path) as file:
        return file[name][()]


# ---- not a whole file


def test_file_truncated_anywhere_is_refused(original, tmp_path):
    whole = original.read_bytes()
    path = tmp_path / "cut.vqi"
    lengths = np.unique(np.linspace(0, len(whole) - 1, 40, dtype=int))
    for length in lengths.tolist():
        path.write_bytes(whole[:length])
        assert_refused(path)


def test_truncation_of_a_large_file_is_noticed(tmp_path):
    path = tmp_path / "a.vqi"
    index = VQIndex(64)
    index.add(np.random.default_rng(0).standard_normal((2000, 64)))
    index.save(path)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 4096):
        path.write_bytes(whole[:length])
        assert_refused(path)


def test_files_of_other_kinds_are_refused(tmp_path, path):
    other = tmp_path / "other.vqi"
    other.write_text("id,vector\n1,2\n" * 100)
    assert_refused(other, "not an HDF5 file")
    other.write_bytes(b"")
    assert_refused(other)
    with h5py.File(other, "w") as file:
        file["train"] = np.zeros((3, 4))
    assert_refused(other, "format is None", "written by vqindex")
    np.save(tmp_path / "other.npy", np.zeros(3))
    assert_refused(tmp_path / "other.npy", "not an HDF5 file")


def test_a_missing_file_and_a_folder_keep_the_systems_errors(tmp_path):
    for open_it in (VQIndex.load, file_format.verify, file_format.read_header):
        with pytest.raises(FileNotFoundError, match=r"none\.vqi"):
            open_it(tmp_path / "none.vqi")
        with pytest.raises(IsADirectoryError):
            open_it(tmp_path)


@pytest.mark.parametrize("value", ["vqindex", "other", b"vqindex2", 5, 2**62, [1, 2], np.float64(1), b""])
def test_other_format_names_are_refused(path, value):
    with edited(path) as file:
        file.attrs["format"] = value
    assert_refused(path, "format is", "written by vqindex")


def test_missing_attributes_are_refused(path, original):
    with edited(path) as file:
        del file.attrs["format"]
    assert_refused(path, "format is None")
    shutil.copy(original, path)
    with edited(path) as file:
        del file.attrs["format_version"]
    assert_refused(path, "format version is None", "reads: 1, 2, 3, 4")
    shutil.copy(original, path)
    with edited(path) as file:
        del file["header"].attrs["crc32"]
    assert_refused(path)


@pytest.mark.parametrize("version", [0, 5, 2**31, "1", b"one", 1.0, [1]])
def test_unknown_format_version_is_refused(path, version):
    with edited(path) as file:
        del file.attrs["format_version"]
        file.attrs["format_version"] = version
    assert_refused(path, "format version is", "reads: 1, 2, 3, 4")


# ---- flipped bits

FLIP = """
import sys, warnings
import numpy as np
from vqindex import FileFormatError, VQIndex
warnings.simplefilter("error")
original, copy, first, step = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
queries = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
whole = open(original, "rb").read()
right = VQIndex.load(original).search(queries, 17, return_stderr=True)
refused = 0
for at in range(first, len(whole), step):
    damaged = bytearray(whole)
    damaged[at] ^= 1 << at % 8
    with open(copy, "wb") as file:
        file.write(damaged)
    print("at", at, flush=True)
    try:
        index = VQIndex.load(copy)
    except FileFormatError as error:
        assert copy in str(error), f"byte {at}: {error}"
        refused += 1
        continue
    found = index.search(queries, 17, return_stderr=True)
    for a, b in zip(right, found):
        assert np.array_equal(a, b), f"byte {at}: another answer"
print("refused", refused, flush=True)
"""


def test_no_flipped_bit_changes_an_answer(original, tmp_path):
    # Every third byte, for time; 3 is prime to 8, so every bit of a byte has its turn, and to every block's width.
    # In a process of its own, for a damaged structure could crash the HDF5 library.
    size = original.stat().st_size
    command = [sys.executable, "-c", FLIP, str(original), str(tmp_path / "flip.vqi"), "0", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    last = done.stdout.splitlines()[-2:]
    assert done.returncode == 0, f"exit code {done.returncode} after {last}: {done.stderr[-2000:]}"
    # Free space and padding may be flipped; headers, tables, blocks and HDF5's structures may not.
    assert int(last[-1].split()[1]) > size / 3 / 3


VERIFY = """
import sys
import numpy as np
from vqindex import FileFormatError
from vqindex import file_format
original, copy = sys.argv[1:]
whole = open(original, "rb").read()
bits = np.random.default_rng(0).integers(0, 8, len(whole)).tolist()
room = open(copy, "w+b", buffering=0)
room.write(whole)
file_format.verify(copy)
for at, bit in enumerate(bits):
    print("at", at, flush=True)
    room.seek(at)
    room.write(bytes([whole[at] ^ 1 << bit]))
    try:
        file_format.verify(copy)
    except FileFormatError as error:
        assert copy in str(error), f"byte {at}: {error}"
    else:
        raise AssertionError(f"byte {at}: bit {bit} flipped and not noticed")
    room.seek(at)
    room.write(whole[at : at + 1])
file_format.verify(copy)
print("flipped", len(bits))
"""


@pytest.mark.parametrize("records", [False, True])
def test_a_flipped_bit_in_any_byte_is_noticed_by_verify(tmp_path, records):
    """Each byte of a small file that has every kind of block; in a process of its own, as above."""
    path = tmp_path / "all.vqi"
    index = VQIndex(DIM, 3, "l2", keep_vectors="int8")
    index.add(np.random.default_rng(0).standard_normal((5, DIM)), ids=np.arange(5) * 5)
    index.meta["note"] = "x"
    if records:
        file_format.write(path, index._codec, file_with_graph(index, made_up_graph(4, 3)))
    else:
        index.save(path)
    command = [sys.executable, "-c", VERIFY, str(path), str(tmp_path / "flip.vqi")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"exit code {done.returncode} after {last}: {done.stderr[-2000:]}"
    assert last == [f"flipped {path.stat().st_size}"]
    assert path.stat().st_size > 4096 + 2000


@pytest.mark.parametrize("change", ["cut", "longer", "no seal", "another file's seal", "nothing but a seal"])
def test_a_seal_that_does_not_fit_is_refused(path, tmp_path, change):
    whole = path.read_bytes()
    other = tmp_path / "other.vqi"
    VQIndex(DIM, 4).save(other)
    path.write_bytes({
        "cut": whole[:-1],
        "longer": whole + b"\0",
        "no seal": bytes(4096) + whole[4096:],
        "another file's seal": other.read_bytes()[:4096] + whole[4096:],
        "nothing but a seal": whole[:4096],
    }[change])  # fmt: skip
    assert_refused(path, "holds no seal" if change == "no seal" else "truncated or grown")


@pytest.mark.parametrize("name", ["thresholds", "levels", "signs", "codes", "factor", "norm", "ids", "header"])
def test_flipped_bits_name_the_block(original, path, name):
    with h5py.File(original) as file:
        offset, size = file[name].id.get_offset(), file[name].nbytes
    whole = original.read_bytes()
    mapped_check = name in ("thresholds", "levels", "header")  # small tables are checked even when mapped
    for at in np.unique(np.linspace(0, size - 1, 5, dtype=int)).tolist():
        damaged = bytearray(whole)
        damaged[offset + at] ^= 0x10
        path.write_bytes(damaged)
        assert_refused(path, f"'{name}' is damaged", mmap=(False, True) if mapped_check else (False,))
        with pytest.raises(FileFormatError, match=f"'{name}' is damaged"):
            VQIndex.load(path, mmap=True, verify=True)
        with pytest.raises(FileFormatError, match=f"'{name}' is damaged"):
            file_format.verify(path)
        if not mapped_check:
            VQIndex.load(path, mmap=True)  # as documented: not read, so not checked


def test_damage_is_named_by_byte_range(tmp_path, monkeypatch):
    # A small checksum span stands for 4 MiB; the writer, the reader and the checksummer share it.
    monkeypatch.setattr(layout, "CHECK_BYTES", 1000)
    monkeypatch.setattr(hardened, "CHECK_BYTES", 1000)
    path = tmp_path / "a.vqi"
    index = VQIndex(18, sketch="orthogonal")
    index.add(np.random.default_rng(0).standard_normal((300, 18)))  # 2700 bytes of codes
    index.save(path)
    assert len(file_format.read_header(path)["blocks"]["codes"]["crc32"]) == 3
    with h5py.File(path) as file:
        offset = file["codes"].id.get_offset()
    whole = path.read_bytes()
    for at, span in ((0, "0 to 999"), (999, "0 to 999"), (1000, "1000 to 1999"), (2699, "2000 to 2699")):
        damaged = bytearray(whole)
        damaged[offset + at] ^= 1
        path.write_bytes(damaged)
        assert_refused(path, f"block 'codes' is damaged in bytes {span} ", mmap=(False,))


@pytest.mark.parametrize("cut", [1, 7, 1000, 3000])
def test_checksums_do_not_depend_on_how_the_stream_is_cut(monkeypatch, cut):
    monkeypatch.setattr(layout, "CHECK_BYTES", 1000)
    data = np.random.default_rng(0).integers(0, 256, 3000, np.uint8)
    checks = layout.Checksummer()
    for start in range(0, 3000, cut):
        checks.update(data[start : start + cut])
    assert checks.sums() == [zlib.crc32(data[i : i + 1000].tobytes()) for i in (0, 1000, 2000)]


# ---- consistent files that this version must not read


def test_other_definitions_are_refused(original, path):
    cases = {
        "turboquant-next": lambda h: h["spec"].update(codec="turboquant-next"),
        "hamming": lambda h: h["spec"].update(metric="hamming"),
        "bits is 9": lambda h: h["spec"].update(bits=9),
        "dim is 0": lambda h: h["spec"].update(dim=0),
        "rerank": lambda h: h["spec"].update(rerank=True),
        "expected all of": lambda h: h["spec"].pop("seed"),
        "fingerprint is 00ff": lambda h: h.update(fingerprint="00ff"),
        "codebook": lambda h: h.update(step=h["step"] * 1.0000001),
        "rotation fingerprint": lambda h: h["spec"].update(seed=1),
    }
    for word, change in cases.items():
        shutil.copy(original, path)
        edit_header(path, change)
        assert_refused(path, word)


@pytest.mark.parametrize("name", ["thresholds", "levels"])
def test_another_codebook_is_refused(path, name):
    array = block(path, name)
    array[3] += 1
    replace_block(path, name, array)

    def change(header):
        header["blocks"][name]["crc32"] = [zlib.crc32(array.tobytes())]

    edit_header(path, change)
    assert_refused(path, "its codebook is not the one")


@pytest.mark.parametrize(("version", "said"), [(1, "1"), (2, "2"), (4, "4"), ("3", "'3'"), (None, "missing")])
def test_trellis_tables_of_another_version_are_refused(tmp_path, version, said):
    path = tmp_path / "t.vqi"
    index = VQIndex(DIM, 2, codec="trellis")
    index.add(np.eye(DIM))
    index.save(path)

    def change(header):
        if header.pop("tables") and version is not None:
            header["tables"] = version

    edit_header(path, change)
    assert_refused(path, f"{path}: trellis tables version {said}; this vqindex reads: 3")


def test_headers_of_another_shape_are_refused(original, path):
    def emptied(header):
        header.clear()

    def edits(*keys, value):
        def change(header):
            for key in keys[:-1]:
                header = header[key]
            header[keys[-1]] = value

        return change

    for change in (
        emptied,
        edits("ntotal", value=16),
        edits("ntotal", value=-1),
        edits("ntotal", value="many"),
        edits("ntotal", value=1e300),
        edits("ntotal", value=None),
        edits("spec", value=[1, 2]),
        edits("blocks", value=[]),
        edits("blocks", "codes", value=None),
        edits("blocks", "levels", "shape", value=[]),
        edits("blocks", "codes", "shape", value=[17, 5]),
        edits("blocks", "signs", "shape", value=[17, 1]),
        edits("blocks", "signs", "shape", value=[2, 1, 64]),
        edits("blocks", "signs", "crc32", value=[]),
        edits("blocks", "codes", "dtype", value="|O"),
        edits("blocks", "codes", "crc32", value=[]),
        edits("blocks", "codes", "crc32", value=[1, 2, 3]),
        edits("blocks", "more", value={"dtype": "|u1", "shape": [1], "crc32": [0]}),
        lambda header: header["blocks"].pop("ids"),
        lambda header: header["blocks"].pop("norm"),
        lambda header: header["blocks"].pop("levels"),
        lambda header: header["blocks"].pop("signs"),
        lambda header: header.pop("meta"),
    ):
        shutil.copy(original, path)
        edit_header(path, change)
        # A wrong list of checksums is noticed where they are used.
        with pytest.raises(FileFormatError, match=r"copy\.vqi"):
            VQIndex.load(path)
        with pytest.raises(FileFormatError, match=r"copy\.vqi"):
            file_format.verify(path)


def test_a_header_that_is_no_json_object_is_refused(path):
    for raw in (b"[]", b"{", b"\xff\xfe", b"null", b"[" * 100_000):
        with edited(path) as file:
            del file["header"]
            data = np.frombuffer(raw, np.uint8)
            file.create_dataset("header", data=data).attrs.create("crc32", zlib.crc32(raw), dtype="<u4")
        assert_refused(path)


@pytest.mark.parametrize("name", ["thresholds", "levels", "signs", "codes", "factor", "norm", "ids", "header"])
def test_blocks_that_are_not_as_written_are_refused(original, path, name):
    array = block(path, name)
    crc = None
    if name == "header":
        with h5py.File(path) as file:
            crc = file["header"].attrs["crc32"]

    def refused(word, array, **kwargs):
        shutil.copy(original, path)
        replace_block(path, name, array, **kwargs)
        if crc is not None:
            with edited(path) as file:
                file["header"].attrs["crc32"] = crc
        assert_refused(path, f"'{name}'", word)

    refused("chunked", array, chunks=array.shape)
    refused("chunked", array, chunks=array.shape, compression="gzip")
    refused("dtype", array.astype(np.float64))
    if name != "header":
        refused("shape", array[:-1])
        refused("shape", array[None])
        refused("dtype", array.astype(array.dtype.newbyteorder(">") if array.itemsize > 1 else np.uint16))

    shutil.copy(original, path)
    with edited(path) as file:
        del file[name]
    assert_refused(path, f"'{name}' is missing")
    with edited(path) as file:
        file.create_group(name)
    assert_refused(path, f"'{name}' is a link or a group")


@pytest.mark.parametrize("name", ["signs", "codes"])
def test_links_and_storage_that_point_elsewhere_are_refused(original, path, tmp_path, name):
    array = block(path, name)
    (tmp_path / "block.bin").write_bytes(array.tobytes())

    def refused(make, word):
        shutil.copy(original, path)
        with edited(path) as file:
            del file[name]
            make(file)
        assert_refused(path, f"'{name}'", word)

    def soft(file):
        file[name] = h5py.SoftLink("/factor")

    def external_link(file):
        file[name] = h5py.ExternalLink(str(original), name)

    def external_storage(file):
        file.create_dataset(name, array.shape, "u1", external=[(str(tmp_path / "block.bin"), 0, array.nbytes)])

    def compact(file):
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(array.shape)
        dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_UINT8, space, create)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)

    def virtual(file):
        target = h5py.VirtualLayout(array.shape, "u1")
        target[...] = h5py.VirtualSource(str(original), name, array.shape)
        file.create_virtual_dataset(name, target)

    def unwritten(file):
        file.create_dataset(name, array.shape, "u1")

    refused(soft, "link")
    refused(external_link, "link")
    refused(external_storage, "external")
    refused(compact, "compact")
    refused(virtual, "virtual")
    shutil.copy(original, path)
    with edited(path) as file:
        del file[name]
        unwritten(file)
    assert_refused(path, f"'{name}'", mmap=(False,))
    with pytest.raises(FileFormatError, match=f"'{name}' was never written"):
        VQIndex.load(path, mmap=True)


@pytest.mark.parametrize(
    ("is_one", "says", "words"),
    [
        (3, 1, "but its first page"),
        (3, 2, "but its first page"),
        (2, 3, "but its first page"),
        (1, 3, "but its first page"),
        (2, 1, "the header names blocks"),
        (1, 2, "the header names blocks"),
        (3, 4, "the header names blocks"),
        (4, 3, "the header names blocks"),
        (4, 2, "but its first page"),
    ],
)
def test_versions_are_not_mistaken_for_each_other(original, path, is_one, says, words):
    """A file of one version that says it is of another."""
    if is_one != 3:
        shutil.copy(Path(__file__).parent / "golden" / f"format{is_one}.vqi", path)
    with edited(path) as file:
        assert file.attrs["format_version"] == is_one
        file.attrs.modify("format_version", np.uint32(says))
    assert_refused(path, words)


def test_sign_bits_where_none_belong_are_refused(path):
    index = VQIndex(DIM, 1, codec="trellis")
    index.add(np.random.default_rng(0).standard_normal((17, DIM)))
    index.save(path)
    with edited(path) as file:
        file["signs"] = np.zeros((1, 1, 64), np.uint8)
    assert_refused(path, "'signs'", "does not name")


def test_objects_that_the_header_does_not_name_are_refused(path):
    with edited(path) as file:
        file["extra"] = np.zeros(3)
    assert_refused(path, "'extra'", "does not name")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({3: 25}, "id 25 is there twice"),
        ({16: 0}, "id 0 is there twice"),
        ({2: -7}, "id -7 is negative"),
        ({"next_id": 80}, "next_id is 80, but id 80 is there already"),
    ],
)
def test_ids_that_no_index_could_have_are_refused(path, change, words):
    """Right in all checksums: refused where all is read, else with the first look for an id."""
    next_id = change.pop("next_id", None)
    array = block(path, "ids")
    for row, value in change.items():
        array[row] = value
    replace_block(path, "ids", array)

    def new_header(header):
        header["blocks"]["ids"]["crc32"] = [zlib.crc32(array.tobytes())]
        if next_id is not None:
            header["next_id"] = next_id

    edit_header(path, new_header)
    assert_refused(path, words, mmap=(False,))
    mapped = VQIndex.load(path, mmap=True)
    if "twice" in words:
        with pytest.raises(FileFormatError, match="an id is there twice"):
            mapped.remove([1])


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(("rotation", "sketch"), [("haar", "shared"), ("haar", "orthogonal"), ("hadamard", "gaussian")])
def test_claiming_a_dense_matrix_costs_nothing(tmp_path, monkeypatch, rotation, sketch, mmap):
    """A small file may say that it needs matrices of 16384 x 16384; opening it must not make them."""
    path = tmp_path / "dense.vqi"
    with monkeypatch.context() as patched:
        for kind in (Haar, GaussianSketch):
            for way in ("forward", "inverse"):
                patched.setattr(kind, way, lambda self, columns: columns)
        index = VQIndex(16384, 1 if sketch == "shared" else 2, sketch=sketch, rotation=rotation)
        index.add(np.ones((3, 16384), np.float32))
        index.save(path)
    assert path.stat().st_size < 2**20

    def too_much(self):
        raise MemoryError("a matrix was made")

    monkeypatch.setattr(Haar, "matrix", property(too_much))
    monkeypatch.setattr(GaussianSketch, "matrix", property(too_much))
    file_format.verify(path)
    loaded = VQIndex.load(path, mmap=mmap)
    loaded.remove([1])
    loaded.save(tmp_path / "again.vqi")
    assert VQIndex.load(tmp_path / "again.vqi").ids.tolist() == [0, 2]
    with pytest.raises(MemoryError, match="a matrix was made"):
        loaded.search(np.ones(16384), 1)


def test_no_file_is_ever_unpickled(path):
    # h5py unpickles nothing on its own; object types must not get as far as being read.
    replace_block(path, "ids", np.array(["x"] * 17, dtype=object), dtype=h5py.string_dtype())
    assert_refused(path, "'ids'", "dtype")
