"""The end of a build in shards: one publish makes an index of all files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import file_format
from ..directory.leftovers import sweep
from ..directory.local import LocalDirectory
from ..errors import InvalidInputError, StoreError
from ..rows.segment import Segment
from ..store.manifest import (
    BUILD_PLAN,
    MANIFEST,
    Manifest,
    SegmentEntry,
    load_manifest,
    prepare_manifest,
    publish_manifest,
)
from ..store.segments import name_of
from .encode import finished_shard
from .plan import BuildPlan

__all__ = ["commit_build", "missing_shards"]

I64 = NDArray[np.int64]
_IDS_AT_ONCE = 2**24  # ids that are compared at a time: 128 MiB
_TEMPORARY = re.compile(r"\.([0-9]{10}\.vqi)\..*\.tmp")


def missing_shards(plan: BuildPlan) -> list[int]:
    """Return the shards whose files are not finished.

    Parameters
    ----------
    plan : BuildPlan
        The plan.

    Returns
    -------
    list of int
        Their numbers, ascending.

    Raises
    ------
    OSError
        If a file can't be read.
    """
    return [shard for shard in range(plan.shards) if finished_shard(plan, shard) is None]


def commit_build(
    plan: BuildPlan,
    shards: Iterable[SegmentEntry] | None = None,
    *,
    verify: bool = False,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Make an index of the files of all shards: publish the manifest that names them.

    Before the call, `vqindex.open` finds no index in the folder; afterwards it finds all of it. Repeating the call
    changes nothing.

    Parameters
    ----------
    plan : BuildPlan
        The plan.
    shards : iterable of SegmentEntry, optional
        What `encode_shard` returned for each shard, in any order. By default the files tell.
    verify : bool, default False
        Read every file whole, and check every byte.
    meta : dict, optional
        More notes for the store.

    Raises
    ------
    InvalidInputError
        If a shard is missing, occurs twice, or is not the one whose file is there, or if an id occurs twice.
    StoreError
        If the folder holds another index, or another writer has it.
    """
    plan.check_same_version()
    directory = LocalDirectory(Path(plan.output))
    lock = directory.lock()
    try:
        entries = _entries(plan, shards, verify)
        manifest = Manifest(
            plan.index_spec,
            plan.keep_vectors,
            commit=1,
            next_file=plan.shards + 1,
            next_id=plan.rows if plan.ids is None else None,
            segments=tuple(entries),
            meta={**plan.meta, **(meta or {})},
            center=plan.center,
        )
        if directory.version(MANIFEST) is not None:
            if load_manifest(directory).segments != manifest.segments:
                raise StoreError(f"{plan.output} holds another index; expected none before its build is committed")
        else:
            if plan.ids is not None:
                _check_distinct(directory, entries)
            prepare_manifest(directory, manifest)
            directory.sync()  # the names of the files, before a manifest names them
            publish_manifest(directory, None)
        _tidy(directory)
    finally:
        lock.release()


def _entries(plan: BuildPlan, shards: Iterable[SegmentEntry] | None, verify: bool) -> list[SegmentEntry]:
    """Return the entries of all shards, in order, after a comparison with their files."""
    given: dict[int, SegmentEntry] | None = None
    if shards is not None:
        given = {}
        for entry in shards:
            if entry.file in given:
                raise InvalidInputError(f"shard {entry.file - 1} is there twice; expected each of {plan.shards} once")
            given[entry.file] = entry
        if given.keys() - set(range(1, plan.shards + 1)):
            raise InvalidInputError(f"shard {max(given) - 1} is there; expected 0 to {plan.shards - 1}")
    found = []
    for shard in range(plan.shards):
        filed = finished_shard(plan, shard, verify=verify)
        if filed is None or (given is not None and shard + 1 not in given):
            missing = [n for n in range(plan.shards) if finished_shard(plan, n) is None] or [shard]
            raise InvalidInputError(
                f"{len(missing)} of {plan.shards} shards are missing or damaged, the first is shard {missing[0]}; "
                "expected all of them (`encode_shard` makes those that are missing)"
            )
        if given is not None and given[shard + 1] != filed:
            raise InvalidInputError(f"shard {shard} is {given[shard + 1]}; its file is {filed}")
        found.append(filed)
    return found


def _segment(directory: LocalDirectory, entry: SegmentEntry) -> Segment:
    """Return the rows of a file, mapped."""
    return file_format.read(directory.fetch(entry.name), mmap=True, verify=False, follow_links=False).segment


def _id_numbers(directory: LocalDirectory, entry: SegmentEntry) -> I64:
    """Return the ids of a segment: integers, or the numbers of strings."""
    if entry.first_id is not None:
        return np.arange(entry.first_id, entry.first_id + entry.rows)
    ids = _segment(directory, entry).ids
    if ids is None:
        raise InvalidInputError(f"{directory.describe(entry.name)} has no ids")
    return ids


def _check_distinct(directory: LocalDirectory, entries: list[SegmentEntry]) -> None:
    """Raise InvalidInputError if an id occurs in two shards, in bounded memory: one class of remainders at a time."""
    classes = -(-sum(entry.rows for entry in entries) // _IDS_AT_ONCE)
    for remainder in range(classes):
        parts = [_class_of(_id_numbers(directory, entry), remainder, classes) for entry in entries]
        ids = np.sort(np.concatenate(parts))
        twice = ids[1:][ids[1:] == ids[:-1]]
        if twice.size:
            named = [name_of(entry.file) for entry in entries if (_id_numbers(directory, entry) == twice[0]).any()]
            raise InvalidInputError(
                f"id {_shown(directory, entries, int(twice[0]))} occurs in {' and '.join(named)}; expected distinct ids"
            )


def _class_of(ids: I64, remainder: int, classes: int) -> I64:
    return ids if classes == 1 else ids[ids % classes == remainder]


def _shown(directory: LocalDirectory, entries: list[SegmentEntry], number: int) -> str:
    """Return an id as the user wrote it."""
    for entry in entries:
        segment = _segment(directory, entry)
        if segment.string_ids is None or segment.ids is None:
            continue
        rows = np.flatnonzero(segment.ids == number)
        if rows.size:
            return repr(segment.string_ids.of(rows[:1])[0])
    return str(number)


def _tidy(directory: LocalDirectory) -> None:
    """Remove the plan, and temporary files of workers that were killed."""
    if directory.version(BUILD_PLAN) is not None:
        directory.remove(BUILD_PLAN)
    for target in {found[1] for name in directory.names() if (found := _TEMPORARY.fullmatch(name))}:
        sweep(directory.path, target)
    sweep(directory.path, BUILD_PLAN)
    directory.sync()
