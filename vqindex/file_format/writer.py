"""Writing: to a temporary file beside the target, synced to disk, then renamed over it."""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..center import Centering
from ..codes.bitplanes import BLOCK_ROWS, StoredRows
from ..codes.codec import Codec
from ..codes.trellis import TABLE_VERSION
from ..directory.local import LocalDirectory
from ..directory.protocol import Directory, OutputFile
from ..rows.originals import KINDS, Originals
from ..rows.string_ids import StringIds
from ..version import __version__
from .layout import FORMAT_NAME, FORMAT_VERSION, HEADER, PAGE, Checksummer, canonical_json
from .seal import write_seal

__all__ = ["write", "write_file"]


Check = Callable[[], None]


def _put(
    file: h5py.File, name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[Any], check: Check
) -> dict[str, Any]:
    """Write one contiguous block from consecutive parts, asking after each; return its entry in the header."""
    dataset = file.create_dataset(name, shape=shape, dtype=dtype)
    checks = Checksummer()
    start = 0
    for part in parts:
        block = np.ascontiguousarray(part, dtype)
        checks.update(block)
        if block.shape[0]:
            dataset.write_direct(block, dest_sel=np.s_[start : start + block.shape[0]])
        start += block.shape[0]
        check()
    return {"dtype": np.dtype(dtype).str, "shape": list(shape), "crc32": checks.sums()}


def _fill(
    file: h5py.File,
    codec: Codec,
    blocks: Sequence[StoredRows],
    ids: NDArray[np.int64] | None,
    meta: dict[str, Any],
    next_id: int | None,
    originals: Originals | None,
    centering: Centering | None,
    names: StringIds | None,
    check: Check,
) -> int:
    """Write all blocks and the header; return the header's CRC-32."""
    spec = codec.spec
    n = sum(block.rows for block in blocks)
    book = codec.codebook
    entries = {
        "thresholds": _put(file, "thresholds", "<f4", book.thresholds.shape, [book.thresholds], check),
        "levels": _put(
            file, "levels", book.levels.dtype.newbyteorder("<").str, book.levels.shape, [book.levels], check
        ),
    }
    center = None if centering is None else centering.block
    if center is not None:
        entries["center"] = _put(file, "center", "<f4", center.shape, [center], check)
    if spec.has_sign_bits:
        assert all(block.rows % BLOCK_ROWS == 0 for block in blocks[:-1]), "the sign plane would have gaps"
        shape = (-(-n // BLOCK_ROWS), spec.sign_bytes, BLOCK_ROWS)
        entries["signs"] = _put(file, "signs", "|u1", shape, (block.signs for block in blocks), check)
    entries["codes"] = _put(file, "codes", "|u1", (n, spec.row_bytes), (block.codes for block in blocks), check)
    entries["factor"] = _put(file, "factor", "<f4", (n,), (block.rescale for block in blocks), check)
    if spec.stores_norm:
        entries["norm"] = _put(file, "norm", "<f4", (n,), (block.norm for block in blocks), check)
    if ids is not None:
        entries["ids"] = _put(file, "ids", "<i8", (n,), [ids], check)
    if names is not None:
        entries["names"] = _put(file, "names", "|u1", names.text.shape, [names.text], check)
        entries["name_ends"] = _put(file, "name_ends", "<i8", (n,), [names.ends], check)
    if originals is not None:
        dtype, parts = KINDS[originals.kind], originals.parts
        entries["vectors"] = _put(file, "vectors", dtype, (n, spec.dim), (part.values for part in parts), check)
        if originals.kind == "int8":
            entries["vector_scale"] = _put(file, "vector_scale", "<f4", (n,), (part.scale for part in parts), check)
    extra = {"tables": TABLE_VERSION} if spec.codec == "trellis" else {}
    if ids is not None and next_id is not None:
        extra["next_id"] = next_id
    header = canonical_json(
        {
            "spec": (spec if centering is None else centering.spec).as_dict(),
            "ntotal": n,
            "step": book.step,
            "fingerprint": codec.fingerprint,
            "writer": f"vqindex {__version__}",
            "blocks": entries,
            "meta": meta,
            **extra,
        }
    )
    dataset = file.create_dataset(HEADER, data=header)
    crc = zlib.crc32(header.tobytes())
    dataset.attrs.create("crc32", crc, dtype="<u4")
    file.attrs.create("format", np.bytes_(FORMAT_NAME))
    file.attrs.create("format_version", FORMAT_VERSION, dtype="<u4")
    return crc


class _Hdf5Output:
    """A new file as HDF5 writes it. No error may pass through the HDF5 library: the first is kept for `check`."""

    def __init__(self, file: OutputFile) -> None:
        self._file = file
        self._error: BaseException | None = None

    def _try(self, call: Callable[..., int], *args: Any) -> int:
        if self._error is None:
            try:
                return call(*args)
            except BaseException as error:
                self._error = error
        return 0

    def check(self) -> None:
        """Raise the first error."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        return self._try(self._file.write, data)

    def read(self, size: int) -> bytes:
        raise NotImplementedError("h5py asks whether there is such a method, and calls readinto")

    def readinto(self, room: Any) -> int:
        return self._try(self._file.readinto, room)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._try(self._file.tell)

    def truncate(self, size: int) -> int:
        return self._try(self._file.truncate, size)

    def flush(self) -> None:
        pass


def write_file(
    file: OutputFile,
    codec: Codec,
    blocks: Sequence[StoredRows],
    ids: NDArray[np.int64] | None,
    meta: dict[str, Any],
    next_id: int | None = None,
    originals: Originals | None = None,
    centering: Centering | None = None,
    names: StringIds | None = None,
) -> int:
    """Write an index into an empty file and sync it; arguments as for `write`. Return the CRC-32 of the header."""
    output = _Hdf5Output(file)
    try:
        # This pair of versions has checksums on HDF5's own structures too.
        with h5py.File(
            output,
            "w",
            libver=("v110", "v110"),
            alignment_threshold=PAGE,
            alignment_interval=PAGE,
            userblock_size=PAGE,
        ) as hdf5:
            crc = _fill(hdf5, codec, blocks, ids, meta, next_id, originals, centering, names, output.check)
    except BaseException:
        output.check()  # what came first, rather than what HDF5 made of it
        raise
    output.check()
    write_seal(file)
    file.sync()
    return crc


def write(
    path: str | os.PathLike[str],
    codec: Codec,
    blocks: Sequence[StoredRows],
    ids: NDArray[np.int64] | None,
    meta: dict[str, Any],
    *,
    next_id: int | None = None,
    originals: Originals | None = None,
    centering: Centering | None = None,
    names: StringIds | None = None,
    directory: Directory | None = None,
) -> None:
    """Write an index file atomically and durably.

    Parameters
    ----------
    path : str or path
        Target; replaced only when the new file is complete and on disk.
    codec : Codec
        Tables of the index.
    blocks : sequence of StoredRows
        The rows; all blocks but the last have a multiple of 64.
    ids : ndarray of int64, shape (n,), optional
        Explicit ids.
    meta : dict
        JSON-able notes.
    next_id : int, optional
        The next automatic id, if explicit ids were given automatically.
    originals : Originals, optional
        The vectors themselves, of the same rows.
    centering : Centering, optional
        The center, and the spec that users see; without it there is no center.
    names : StringIds, optional
        Of the same rows, if ids are the numbers of names.
    directory : Directory, optional
        The folder of `path`, for tests.
    """
    target = Path(path)
    # Cut, so that a long name does not become one that is too long.
    temporary = f".{target.name[:32]}.{secrets.token_hex(4)}.tmp"
    directory = LocalDirectory(target.parent) if directory is None else directory
    try:
        file = directory.create(temporary)
        try:
            write_file(file, codec, blocks, ids, meta, next_id, originals, centering, names)
        finally:
            file.close()
        directory.publish(temporary, target.name, directory.version(target.name))
    except BaseException:
        with suppress(OSError):
            directory.remove(temporary)
        raise
    directory.sync()  # the rename itself
