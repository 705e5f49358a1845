"""Change files as damage or another writer could, and check that they are refused."""

import json
import zlib

import numpy as np
import pytest
from edits import edited

from vqindex import FileFormatError, VQIndex, file_format


def assert_refused(path, *words, mmap=(False, True)):
    """Every way of opening the file raises FileFormatError with the file's name and the given words."""
    for how in mmap:
        with pytest.raises(FileFormatError) as caught:
            VQIndex.load(path, mmap=how)
        for word in (str(path), *words):
            assert word in str(caught.value), str(caught.value)
    with pytest.raises(FileFormatError):
        file_format.verify(path)


def edit_header(path, change):
    """Change the header as a newer writer might have: with a right checksum."""
    with edited(path) as file:
        header = json.loads(file["header"][()].tobytes())
        change(header)
        raw = np.frombuffer(json.dumps(header, sort_keys=True, separators=(",", ":")).encode(), np.uint8)
        del file["header"]
        file.create_dataset("header", data=raw).attrs.create("crc32", zlib.crc32(raw.tobytes()), dtype="<u4")


def replace_block(path, name, array, **kwargs):
    with edited(path) as file:
        del file[name]
        file.create_dataset(name, data=array, **kwargs)
