"""Encoding one shard: a segment file of the store, written once or any number of times with the same bytes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .. import file_format
from ..directory.local import LocalDirectory
from ..errors import FileFormatError, InvalidInputError, OffsetWarning
from ..file_format.contents import FileContents
from ..index import VQIndex
from ..store.manifest import SegmentEntry
from ..store.segments import name_of, write_segment
from .plan import BuildPlan
from .source import Rows, checked_ids, open_ids, open_rows

__all__ = ["encode_shard", "finished_shard"]


def encode_shard(
    plan: BuildPlan, shard: int, *, device: str = "auto", reading: Callable[[], object] | None = None
) -> SegmentEntry:
    """Encode a shard and write its file, unless it is finished.

    Any process may call it, also at the same time as others and again after a crash. The file gets its name when all of
    it is on disk, and its bytes do not depend on who writes it.

    Parameters
    ----------
    plan : BuildPlan
        The plan.
    shard : int
        Number of the shard, from 0 on.
    device : str, default "auto"
        As for `VQIndex`.
    reading : callable, optional
        Called before each read of vectors; what it raises ends the encoding, and leaves nothing.

    Returns
    -------
    SegmentEntry
        What the manifest will say of the file.

    Raises
    ------
    InvalidInputError
        If there is no such shard, the data changed since the plan was made, the plan is of another version of vqindex,
        or a vector or id can't be stored.
    """
    start, stop = plan.range_of(shard)
    plan.check_same_version()
    plan.check_same_data()
    finished = finished_shard(plan, shard)
    if finished is not None:
        return finished
    with open_rows(plan.data, plan.dataset) as source:
        if source.shape != (plan.rows, plan.index_spec.dim):
            expected = (plan.rows, plan.index_spec.dim)
            raise InvalidInputError(f"{plan.data} has shape {source.shape}; the plan expects {expected}")
        index = _empty_index(plan, device)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OffsetWarning)  # `plan_build` has warned, once for all shards
                index.add(Rows(source, start, stop, reading), _ids(plan, start, stop))
        except InvalidInputError as error:
            raise InvalidInputError(f"{plan.data}, counted from row {start}: {error}") from None
    plan.check_same_data()
    return _write(plan, shard, index)


def _empty_index(plan: BuildPlan, device: str) -> VQIndex:
    center = plan.centering.vector
    return VQIndex(**plan.spec, keep_vectors=plan.keep_vectors, center=center, device=device)  # type: ignore[arg-type]


def _ids(plan: BuildPlan, start: int, stop: int) -> Any:
    if plan.ids is None:
        return np.arange(start, stop)
    return checked_ids(open_ids(plan.ids, plan.ids_column, plan.rows)[start:stop])


def _write(plan: BuildPlan, shard: int, index: VQIndex) -> SegmentEntry:
    """Write the file of a shard under another name, and give it its own when it is on disk."""
    directory, target = LocalDirectory(Path(plan.output)), name_of(shard + 1)
    temporary, file = directory.create_temporary(target)
    try:
        try:
            rows = np.arange(len(index))
            entry = write_segment(
                directory, file, temporary, shard + 1, index._codec, index._centering, index._contents, rows
            )
            if os.name != "posix":
                file.close()  # Windows renames no open file
            directory.publish(temporary, target, directory.version(target))
        finally:
            file.close()  # only now, since a sweep could take a closed file for a leftover
    except BaseException:
        with suppress(OSError):
            directory.remove(temporary)
        raise
    directory.sync()
    return entry


def finished_shard(plan: BuildPlan, shard: int, *, verify: bool = False) -> SegmentEntry | None:
    """Return what the manifest will say of a shard's file; None if it is missing, damaged, or of another plan.

    Parameters
    ----------
    plan : BuildPlan
        The plan.
    shard : int
        Number of the shard.
    verify : bool, default False
        Check every byte. Seal, header, sizes, spec, center and number of rows are always checked.
    """
    start, stop = plan.range_of(shard)
    path = Path(plan.output) / name_of(shard + 1)
    try:
        found = file_format.read(path, mmap=True, verify=verify, follow_links=False)
    except (FileNotFoundError, FileFormatError):
        return None
    return _entry(plan, shard, found, start, stop)


def _entry(plan: BuildPlan, shard: int, found: FileContents, start: int, stop: int) -> SegmentEntry | None:
    segment, centering = found.segment, plan.centering
    kind = None if segment.originals is None else segment.originals.kind
    expected = (centering.spec, centering.text, stop - start, plan.keep_vectors)
    if (found.centering.spec, found.centering.text, segment.rows, kind) != expected:
        return None
    if found.identity is None or found.crc32 is None:
        return None
    first_id = None
    if segment.ids is None:
        first_id = start if plan.ids is None else int(open_ids(plan.ids, plan.ids_column, plan.rows)[start])
    elif plan.ids is None:
        return None
    return SegmentEntry(shard + 1, segment.rows, found.identity.size, found.crc32, first_id)
