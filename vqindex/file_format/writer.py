"""Writing a ``.vqi`` file: to a temporary file beside the target, which is synced and then renamed over it."""

from __future__ import annotations

import errno
import os
import stat
import threading
import zlib
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..codes.bitplanes import BLOCK_ROWS
from ..codes.codec import Codec
from ..codes.records import RecordLayout, split_stored
from ..codes.trellis import TABLE_VERSION
from ..directory.local import LocalDirectory
from ..directory.protocol import OutputFile
from ..directory.system import kind_of, naming
from ..errors import FileFormatError, InvalidInputError, StoreError
from ..rows.originals import KINDS
from ..version import __version__
from .contents import FileContents, Identity
from .graph_header import header_of
from .layout import FORMAT_NAME, FORMAT_VERSION, HEADER, PAGE, RECORDS_VERSION, Checksummer, canonical_json
from .reader import read_identity
from .seal import Seal, write_seal

__all__ = ["write", "write_file"]


Check = Callable[[], None]


def _put(
    file: h5py.File, name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[Any], check: Check
) -> dict[str, Any]:
    """Write one contiguous block from consecutive parts, and call `check` after each; return its header entry."""
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


def _fill(file: h5py.File, codec: Codec, contents: FileContents, check: Check) -> int:
    """Write all blocks and the header; return the header's CRC-32."""
    entries: dict[str, Any] = {}

    def put(name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[Any]) -> None:
        entries[name] = _put(file, name, dtype, shape, parts, check)

    _put_tables(codec, contents, put)
    blocks = [segment.stored for segment in contents.segments]
    has_records = all(block.records is not None for block in blocks)
    if contents.graph is not None and not has_records:
        raise ValueError("an index with a graph has rows that are no records")
    if has_records:
        _put_records(codec, contents, put)
    else:
        _put_rows(codec, contents, put)
    _put_ids(contents, put)
    _put_originals(contents, put)
    graph = contents.graph
    header = canonical_json(
        {
            "spec": contents.centering.spec.as_dict(),
            "ntotal": contents.rows,
            "step": codec.codebook.step,
            "fingerprint": codec.fingerprint,
            "writer": f"vqindex {__version__}",
            "blocks": entries,
            "meta": contents.meta,
            **({"tables": TABLE_VERSION} if codec.spec.codec == "trellis" else {}),
            **(
                {} if graph is None else {"graph": header_of(graph.rule, graph.linked, graph.curve, graph.many_entries)}
            ),
            **({"next_id": contents.next_id} if "ids" in entries and contents.next_id is not None else {}),
        }
    )
    dataset = file.create_dataset(HEADER, data=header)
    crc = zlib.crc32(header.tobytes())
    dataset.attrs.create("crc32", crc, dtype="<u4")
    file.attrs.create("format", np.bytes_(FORMAT_NAME))
    file.attrs.create("format_version", RECORDS_VERSION if has_records else FORMAT_VERSION, dtype="<u4")
    return crc


Put = Callable[[str, str, tuple[int, ...], Iterable[Any]], None]


def _put_tables(codec: Codec, contents: FileContents, put: Put) -> None:
    book = codec.codebook
    put("thresholds", "<f4", book.thresholds.shape, [book.thresholds])
    put("levels", book.levels.dtype.newbyteorder("<").str, book.levels.shape, [book.levels])
    center = contents.centering.block
    if center is not None:
        put("center", "<f4", center.shape, [center])


def _put_signs(codec: Codec, contents: FileContents, put: Put) -> None:
    spec, blocks = codec.spec, [segment.stored for segment in contents.segments]
    if spec.has_sign_bits:
        if any(block.rows % BLOCK_ROWS for block in blocks[:-1]):
            raise ValueError(f"segments have {[block.rows for block in blocks]} rows; expected multiples of 64")
        shape = (-(-contents.rows // BLOCK_ROWS), spec.sign_bytes, BLOCK_ROWS)
        put("signs", "|u1", shape, (part for block in blocks for part in block.sign_parts()))


def _put_records(codec: Codec, contents: FileContents, put: Put) -> None:
    n, graph = contents.rows, contents.graph
    _put_signs(codec, contents, put)
    size = RecordLayout.of(codec.spec).size
    put("records", "|u1", (n, size), (segment.stored.records for segment in contents.segments))
    if graph is not None:
        put("links", "|u1", graph.links.shape, [graph.links])


def _put_rows(codec: Codec, contents: FileContents, put: Put) -> None:
    spec, n, blocks = codec.spec, contents.rows, [segment.stored for segment in contents.segments]
    _put_signs(codec, contents, put)
    put("codes", "|u1", (n, spec.row_bytes), (split_stored(spec, block).codes for block in blocks))
    put("factor", "<f4", (n,), (block.rescale for block in blocks))
    if spec.stores_norm:
        put("norm", "<f4", (n,), (block.norm for block in blocks))


def _put_ids(contents: FileContents, put: Put) -> None:
    n, segments = contents.rows, contents.segments
    if segments[0].ids is not None:
        put("ids", "<i8", (n,), (segment.ids for segment in segments))
    named = [segment.string_ids for segment in segments if segment.string_ids is not None]
    if named:
        starts = np.cumsum([0, *(len(names.text) for names in named)])
        put("names", "|u1", (int(starts[-1]),), (names.text for names in named))
        put("name_ends", "<i8", (n,), (names.ends + start for names, start in zip(named, starts, strict=False)))


def _put_originals(contents: FileContents, put: Put) -> None:
    n, originals = contents.rows, [segment.originals for segment in contents.segments if segment.originals is not None]
    if originals:
        dim, kind = originals[0].dim, originals[0].kind
        parts = [part for each in originals for part in each.parts]
        put("vectors", KINDS[kind], (n, dim), (part.values for part in parts))
        if kind == "int8":
            put("vector_scale", "<f4", (n,), (part.scale for part in parts))


class _Hdf5Output:
    """A new file as HDF5 writes it. No error may pass through the HDF5 library, so `check` raises it afterwards.

    HDF5 can't always close a file whose writes fail, and then the process crashes when it exits. So after an error the
    calls have no effect, but they still return what they would return for a file that takes everything.
    """

    def __init__(self, file: OutputFile) -> None:
        self._file = file
        self._at = self._size = 0
        self._error: BaseException | None = None  # of a call
        self._interrupt: BaseException | None = None

    def _try(self, call: Callable[..., int], *args: Any) -> None:
        if self._error is None:
            try:
                call(*args)
            except BaseException as error:
                self._error = error

    def _move(self, count: int) -> int:
        self._at += count
        self._size = max(self._size, self._at)
        return count

    def abort(self, interrupt: BaseException) -> None:
        """Have the next `check` raise an interrupt; the calls until then go on."""
        self._interrupt = self._interrupt or interrupt

    def check(self) -> None:
        """Raise the first error, or an interrupt."""
        error = self._error or self._interrupt
        if error is not None:
            raise error

    def write(self, data: Any) -> int:
        self._try(self._file.write, data)
        return self._move(memoryview(data).nbytes)

    def read(self, size: int) -> bytes:
        raise NotImplementedError("h5py asks whether there is such a method, and calls readinto")

    def readinto(self, room: Any) -> int:
        self._try(self._file.readinto, room)
        return self._move(memoryview(room).nbytes)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        self._try(self._file.seek, self._at)
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int) -> int:
        self._try(self._file.truncate, size)
        self._size = size
        return size

    def flush(self) -> None:
        pass


def _without_interrupts(work: Callable[[], int], output: _Hdf5Output) -> int:
    """Return what `work` returns, which writes to `output`; run it where no signal handler can run.

    Python runs signal handlers in the main thread only, between any two instructions. A KeyboardInterrupt inside of a
    callback of HDF5, but outside of its `try`, would leave the library with a file that it can't close, and crash the
    process when it exits. So another thread works, and the main thread is interrupted while it waits.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[int] = []
    errors: list[BaseException] = []
    finished = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=run, name="vqindex-write")
    try:
        thread.start()
        _wait(finished, output)
    except RuntimeError:  # this system or moment has no threads
        return work()
    except BaseException as error:  # an interrupt outside of `_wait`; if the thread has started, it must end first
        output.abort(error)
        if thread.ident is None and not finished.wait(1):
            raise
        _wait(finished, output)
    if errors:
        raise errors.pop()
    return results[0]


def _wait(finished: threading.Event, output: _Hdf5Output) -> None:
    """Return when `finished` is set, however many interrupts come; the first aborts the work, and `check` raises it."""
    try:
        while not finished.is_set():
            finished.wait()
    except BaseException as error:
        try:
            output.abort(error)
        finally:  # also if another interrupt comes in between
            _wait(finished, output)


def write_file(file: OutputFile, codec: Codec, contents: FileContents) -> int:
    """Write an index into an empty file and sync it; arguments as for `write`. Return the CRC-32 of the header."""
    return _write_sealed(file, codec, contents)[0]


def _write_sealed(file: OutputFile, codec: Codec, contents: FileContents) -> tuple[int, Seal]:
    """Write an index into an empty file and sync it; return the CRC-32 of the header and the seal."""
    output = _Hdf5Output(file)

    def write_hdf5() -> int:
        # This pair of versions has checksums on HDF5's own structures too.
        with h5py.File(
            output,
            "w",
            libver=("v110", "v110"),
            alignment_threshold=PAGE,
            alignment_interval=PAGE,
            userblock_size=PAGE,
        ) as hdf5:
            return _fill(hdf5, codec, contents, output.check)

    try:
        crc = _without_interrupts(write_hdf5, output)
    except BaseException:
        output.check()  # the first error, rather than what HDF5 made of it
        raise
    output.check()
    seal = write_seal(file)
    file.sync()
    return crc, seal


def _target(path: Path) -> tuple[Path, int | None]:
    """Return the regular file that a save makes or replaces, and the mode of the old one.

    A save through a symbolic link replaces the file that the link leads to; the link stays.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            missing = path.parent if target is path else target.parent  # of a link: where it leads
            raise FileNotFoundError(errno.ENOENT, "there is no such folder to save to", str(missing)) from None
        return target, None
    if not stat.S_ISREG(mode):
        raise InvalidInputError(f"{path} is {kind_of(mode)}; expected a file or a new name")
    return target, stat.S_IMODE(mode)


def _check_replaced(path: Path, target: Path, expected: Collection[Identity]) -> None:
    """Raise StoreError if a save would replace another file than the expected ones; () expects nothing."""
    if not expected:
        return
    try:
        found: Identity | None = read_identity(target)
    except FileNotFoundError:
        return
    except FileFormatError:
        found = None
    if found not in expected:
        raise StoreError(
            f"{path} was changed by another writer since this index was loaded from it or saved to it; nothing was "
            "written; load it again, save to another path, or pass overwrite=True"
        )


def write(
    path: str | os.PathLike[str],
    codec: Codec,
    contents: FileContents,
    *,
    replaces: Collection[Identity] = (),
    directory: LocalDirectory | None = None,
    publishing: Callable[[Identity], object] = lambda identity: None,
) -> Identity:
    """Write an index file atomically and durably.

    Parameters
    ----------
    path : str or path
        Target. It is replaced only when the new file is complete and on disk; the new file gets its mode. A symbolic
        link stays, and the file that it leads to is replaced.
    codec : Codec
        Tables of the index.
    contents : FileContents
        What to write.
    replaces : collection of Identity, optional
        One of these files must be at `path`, if there is one; by default any file is replaced.
    directory : LocalDirectory, optional
        The folder of `path`, for tests.
    publishing : callable, optional
        Called with the identity of the new file just before it gets its name. After an error or an interrupt, the file
        at `path` may be the old or the new one.

    Returns
    -------
    Identity
        That of the new file.

    Raises
    ------
    OSError
        If the file can't be written; the error names `path`.
    StoreError
        If another file than those of `replaces` is there.
    """
    path = Path(path)
    target, mode = _target(path)
    with naming(path):
        directory = LocalDirectory(target.parent) if directory is None else directory
        _check_replaced(path, target, replaces)  # here too, before much is written in vain
        temporary, file = directory.create_temporary(target.name)
        try:
            try:
                if mode is not None and os.name == "posix":  # on Windows a read-only file could not be renamed
                    os.chmod(directory.fetch(temporary), mode)
                identity = Identity(*_write_sealed(file, codec, contents)[1])
                if os.name != "posix":
                    file.close()  # Windows renames no open file
                with directory.exclusive():
                    _check_replaced(path, target, replaces)
                    publishing(identity)
                    directory.publish(temporary, target.name, directory.version(target.name))
            finally:
                file.close()  # only now, since a sweep could take a closed file for a leftover
        except BaseException:
            with suppress(OSError):
                directory.remove(temporary)
            raise
        directory.sync()  # the rename itself
        return identity
