"""Damaged files that are mapped and not verified: what is noticed later is a FileFormatError, no other class."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from vqindex import FileFormatError, UnknownIdError, VQIndex

FUZZ = Path(__file__).parent / "support" / "fuzz_mapped.py"
DIM = 8
X = np.random.default_rng(0).standard_normal((40, DIM)).astype(np.float32)


@pytest.mark.parametrize(("kind", "calls"), [("integers", 1000), ("strings", 1000), ("records", 500)])
def test_whatever_is_called_on_a_damaged_map_returns_or_says_that_the_file_is_damaged(tmp_path, kind, calls):
    """Every block, damaged in many ways, in files and stores; in a process of its own, which a fault could crash."""
    command = [sys.executable, FUZZ, tmp_path, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-2000:])
    assert [line for line in lines if line.startswith("WRONG")] == []
    wrong, refused, returned = map(int, lines[-1].split()[1:])
    assert wrong == 0
    assert returned > calls
    assert refused > 100


def mapped(tmp_path, own_ids, **changes):
    """Save an index, change blocks of the file, and map it."""
    index = VQIndex(DIM)
    index.add(X, ids=own_ids)
    path = tmp_path / "a.vqi"
    index.save(path)
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        for name, change in changes.items():
            offset, values = file[name].id.get_offset(), file[name][()]
            change(values)
            data[offset : offset + values.nbytes] = values.tobytes()
    path.unlink()
    path.write_bytes(data)
    return VQIndex.load(path, mmap=True)


def put(row, value):
    def change(values):
        values[row] = value

    return change


def test_negative_ids_are_damage_wherever_they_show(tmp_path):
    index = mapped(tmp_path, np.arange(40) * 2, ids=put(7, -3))
    for call in (
        lambda: index.ids,
        lambda: index.search(X[7], 40),
        lambda: index.estimate(X[:2], [0]),
        lambda: index.remove([4]),
        lambda: 4 in index,
        lambda: index.upsert([4], X[:1]),
        lambda: VQIndex(DIM).merge(index),
    ):
        with pytest.raises(FileFormatError, match="negative"):
            call()


def test_names_that_are_out_of_order_or_not_those_of_the_ids_are_damage(tmp_path):
    names = [f"name-{i:02d}" for i in range(40)]
    for change in (put(6, 10), put(6, -1), put(6, 2**62), put(39, 10**6)):
        index = mapped(tmp_path, names, name_ends=change)
        with pytest.raises(FileFormatError, match="out of order"):
            index.ids  # noqa: B018
    index = mapped(tmp_path, names, names=put(slice(0, 7), ord("x")))  # the name of row 0
    assert index.ids[0] == "xxxxxxx"
    with pytest.raises(FileFormatError, match="has the number of 'name-00'"):
        index.estimate(X[0], ["name-00"])
    for unknown in ("xxxxxxx", "name-77"):  # looked up, not found, and only then checked
        with pytest.raises(FileFormatError, match="ids are not the numbers"):
            mapped(tmp_path, names, names=put(slice(0, 7), ord("x"))).reconstruct(unknown)
    with pytest.raises(UnknownIdError, match="'name-77'"):
        mapped(tmp_path, names).reconstruct("name-77")
