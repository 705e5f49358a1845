"""Writing: to a temporary file beside the target, synced to disk, then renamed over it."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..codec import Codec
from ..originals import KINDS, Originals
from ..planes import BLOCK_ROWS, Block
from ..trellis import TABLE_VERSION
from ..version import __version__
from .layout import FORMAT_NAME, FORMAT_VERSION, HEADER, PAGE, Checksummer, canonical_json

__all__ = ["write"]


def _put(file: h5py.File, name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[Any]) -> dict[str, Any]:
    """Write one contiguous block from consecutive parts; return its entry in the header."""
    dataset = file.create_dataset(name, shape=shape, dtype=dtype)
    checks = Checksummer()
    start = 0
    for part in parts:
        block = np.ascontiguousarray(part, dtype)
        checks.update(block)
        if block.shape[0]:
            dataset.write_direct(block, dest_sel=np.s_[start : start + block.shape[0]])
        start += block.shape[0]
    return {"dtype": np.dtype(dtype).str, "shape": list(shape), "crc32": checks.sums()}


def _fill(
    file: h5py.File,
    codec: Codec,
    blocks: Sequence[Block],
    ids: NDArray[np.int64] | None,
    meta: dict[str, Any],
    next_id: int | None,
    originals: Originals | None,
) -> None:
    spec = codec.spec
    n = sum(block.rows for block in blocks)
    book = codec.codebook
    entries = {
        "thresholds": _put(file, "thresholds", "<f4", book.thresholds.shape, [book.thresholds]),
        "levels": _put(file, "levels", book.levels.dtype.newbyteorder("<").str, book.levels.shape, [book.levels]),
    }
    if spec.has_sign_plane:
        assert all(block.rows % BLOCK_ROWS == 0 for block in blocks[:-1]), "the sign plane would have gaps"
        shape = (-(-n // BLOCK_ROWS), spec.sign_bytes, BLOCK_ROWS)
        entries["signs"] = _put(file, "signs", "|u1", shape, (block.signs for block in blocks))
    entries["codes"] = _put(file, "codes", "|u1", (n, spec.row_bytes), (block.codes for block in blocks))
    entries["factor"] = _put(file, "factor", "<f4", (n,), (block.factor for block in blocks))
    if spec.stores_norm:
        entries["norm"] = _put(file, "norm", "<f4", (n,), (block.norm for block in blocks))
    if ids is not None:
        entries["ids"] = _put(file, "ids", "<i8", (n,), [ids])
    if originals is not None:
        dtype, parts = KINDS[originals.kind], originals.parts
        entries["vectors"] = _put(file, "vectors", dtype, (n, spec.dim), (part.values for part in parts))
        if originals.kind == "int8":
            entries["vector_scale"] = _put(file, "vector_scale", "<f4", (n,), (part.scale for part in parts))
    extra = {"tables": TABLE_VERSION} if spec.codec == "trellis" else {}
    if ids is not None and next_id is not None:
        extra["next_id"] = next_id
    header = canonical_json(
        {
            "spec": spec.as_dict(),
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
    dataset.attrs.create("crc32", zlib.crc32(header.tobytes()), dtype="<u4")
    file.attrs.create("format", np.bytes_(FORMAT_NAME))
    file.attrs.create("format_version", FORMAT_VERSION, dtype="<u4")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(
    path: str | os.PathLike[str],
    codec: Codec,
    blocks: Sequence[Block],
    ids: NDArray[np.int64] | None,
    meta: dict[str, Any],
    *,
    next_id: int | None = None,
    originals: Originals | None = None,
) -> None:
    """Write an index file atomically and durably.

    Parameters
    ----------
    path : str or path
        Target; replaced only when the new file is complete and on disk.
    codec : Codec
        Tables of the index.
    blocks : sequence of Block
        The rows; all blocks but the last have a multiple of 64.
    ids : ndarray of int64, shape (n,), optional
        Explicit ids.
    meta : dict
        JSON-able notes.
    next_id : int, optional
        The next automatic id, if explicit ids were given automatically.
    originals : Originals, optional
        The vectors themselves, of the same rows.
    """
    target = Path(path)
    # Cut, so that a long name does not become one that is too long.
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:32]}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # This pair of versions has checksums on HDF5's own structures too.
        with h5py.File(
            temporary, "w", libver=("v110", "v110"), alignment_threshold=PAGE, alignment_interval=PAGE
        ) as file:
            _fill(file, codec, blocks, ids, meta, next_id, originals)
        _sync(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp is stricter than what users expect of a file they made
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _sync(target.parent)  # the rename itself
