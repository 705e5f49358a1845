"""Check that the tests notice small mistakes: each mutation changes one place of the library, and a test must fail.

    python tests/mutations.py [--jobs N] [--only WORD] [--find]

Each mutation changes a copy of the package in a temporary folder, and the tests named with it run there. A mutation
that no test notices is an error unless it has an explanation. So is one whose text does not occur exactly once in the
library and the commands. The text alone finds the file, so that modules may move.
"""

import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MUTATED = ("vqindex", "cli")
COPIED = ("tests", "gpu", "cli", "datasets", "bench", "benchmarks", "pyproject.toml")
TIMEOUT = 180  # seconds; a mutation that makes a test run forever counts as noticed

# Every interpreter of a mutation, also those that tests start, begins with this: it imports the copy rather than an
# editable installation of the library.
SITE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"]
"""
CHILD = """
import sys
root = sys.argv.pop(1)
import vqindex, vqindex_cli
assert vqindex.__file__.startswith(root), vqindex.__file__
assert vqindex_cli.__file__.startswith(root), vqindex_cli.__file__
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Mutation:
    """A change of one place.

    Attributes
    ----------
    where : str
        The module, for the reader.
    old, new : str
        The text, which occurs exactly once in the library and the commands, and its replacement.
    tests : str
        Arguments of pytest, relative to tests/, of the tests that must fail.
    why : str
        Why no test can notice, if none can.
    """

    where: str
    old: str
    new: str
    tests: str
    why: str = ""


REFUSED = "test_refused_changes.py"
SAVED = f"{REFUSED} -k 'trace or sealed'"
TAKEN = f"{REFUSED} -k ids_were_taken_in"
TRIMMED = "test_changes.py -k leave_memory"
MIDDLE = "test_threads.py -k middle_of_an_add"
CHANGES = "test_changes.py test_index.py test_refused_changes.py"
STORE = "test_store.py test_store_machine.py test_store_faults.py"
OPENING = "test_file_format_opening.py"
SAVING = "test_file_format_saving.py"

MUTATIONS = [
    # ---- contents: a change works aside, and nobody sees its rows before it is taken
    Mutation(
        "contents",
        "rows, originals, count = self.rows.fork(), None",
        "rows, originals, count = self.rows, None",
        "test_threads.py test_refused_changes.py -k 'middle_of_an_add or made_again'",
    ),
    Mutation("contents", "self.originals.fork(), 0\n", "self.originals, 0\n", f"{REFUSED} -k 'late_chunk and f32'"),
    Mutation(
        "contents", "                originals.append(new.originals)\n", "                pass\n", "test_rerank.py"
    ),
    Mutation("contents", "            count += new.codes.rows\n", "            count = new.codes.rows\n", CHANGES),
    Mutation(
        "contents",
        "id_map if replaces is None else id_map.without(replaces)",
        "id_map",
        "test_changes.py",
    ),
    Mutation(
        "contents",
        "at = rows[start : start + step]\n",
        "at = rows[:step]\n",
        f"{REFUSED} -k merge",
    ),
    Mutation(
        "contents",
        "        if self.ids.live is None and self.rows.has_whole_blocks:\n",
        "        if self.ids.live is None:\n",
        "test_store.py -k end_between_blocks",
    ),
    Mutation(
        "contents",
        "        if not count:\n            return self\n        id_map",
        "        id_map",
        "test_changes.py -k counts_its_changes",
    ),
    Mutation("contents", "        rows.reserve(expected_rows)\n", "", "test_changes.py -k at_once"),
    # ---- contents: removed rows leave memory
    Mutation(
        "contents trimmed",
        "        if removed < _FEW_ROWS or 2 * removed <= later:\n",
        "        if 2 * removed <= later:\n",
        TRIMMED,
    ),
    Mutation(
        "contents trimmed",
        "        if removed < _FEW_ROWS or 2 * removed <= later:\n",
        "        if removed < _FEW_ROWS or removed <= later:\n",
        TRIMMED,
    ),
    Mutation(
        "contents trimmed",
        "        if removed < _FEW_ROWS or 2 * removed <= later:\n",
        "        if removed < _FEW_ROWS:\n",
        TRIMMED,
    ),
    Mutation(
        "contents trimmed",
        "        removed, later = self.ids.removed_from(first), self.ids.rows_ever - first\n",
        "        first = 0\n        removed, later = self.ids.removed_from(first), self.ids.rows_ever - first\n",
        TRIMMED,
    ),
    Mutation(
        "contents trimmed",
        "            originals.join(kept)\n",
        "            pass\n",
        TRIMMED,
    ),
    Mutation(
        "contents trimmed",
        "self.ids.compacted(first), originals)",
        "self.ids.compacted(), originals)",
        TRIMMED,
    ),
    # ---- encoder
    Mutation(
        "encoder",
        '            _check_norms(codes.norm, "vectors", first_row)\n',
        '            _check_norms(codes.norm, "vectors", 0)\n',
        "test_index.py",
    ),
    Mutation("encoder", "    if not largest < MAX_NORM:", "    if False:", REFUSED),
    Mutation("arrays", "            yield number * rows, chunk\n", "            yield 0, chunk\n", "test_index.py"),
    # ---- rows
    Mutation(
        "row store",
        "            if self._used == self._tail.block.rows or self._used != self._tail.claimed:\n",
        "            if self._used == self._tail.block.rows:\n",
        "test_changes.py -k versions",
    ),
    Mutation(
        "row store",
        "            self._tail.claimed = self._used + stop - start\n",
        "            self._tail.claimed = max(self._tail.claimed, 1)\n",
        "test_changes.py -k copied_few",
    ),
    Mutation(
        "row store",
        "        return self._view(list(self._sealed), self._tail, self._used)\n",
        "        return self._view(self._sealed, self._tail, self._used)\n",
        SAVED,
    ),
    Mutation(
        "row store",
        "            self._sealed.append(block)\n            block, self._used",
        "            block, self._used",
        "test_memory.py test_changes.py test_index.py",
    ),
    Mutation("bitplanes", "        last = self.signs[full:].copy()\n", "        last = self.signs[full:]\n", MIDDLE),
    Mutation("bitplanes", "        last[:, :, used:] = 0\n", "", SAVED),
    Mutation(
        "row store",
        "                target[: len(source)] = source\n",
        "                pass\n",
        "test_index.py -k memory_grows",
    ),
    Mutation(
        "row store",
        "            offset += source.rows\n        return block\n",
        "        return block\n",
        "test_changes.py test_store.py",
    ),
    Mutation(
        "row store",
        "self._copy(source, rows[start:stop] - offset, block",
        "self._copy(source, rows[start:stop], block",
        "test_changes.py test_store.py",
    ),
    # ---- records
    Mutation(
        "row store",
        "            same = (block.records is not None) == records\n",
        "            same = True\n",
        "test_records.py -k converted",
    ),
    Mutation(
        "row store",
        "            for first in range(0, at.size, step):\n",
        "            for first in range(0, min(at.size, step), step):\n",
        "test_records.py -k converted",
    ),
    Mutation(
        "row store",
        "row_bytes = spec.sign_bytes + RecordLayout.of(spec).size if records else spec.bytes_per_vector\n",
        "row_bytes = spec.bytes_per_vector\n",
        "test_records.py -k no_more_bytes",
    ),
    Mutation(
        "bitplanes",
        "                into.records[at, : spec.sign_bytes] = sign_rows\n",
        "                pass\n",
        "test_records.py -k put_into",
    ),
    Mutation(
        "records",
        "        size = next((size for size in _SIZES if end <= size), end)\n",
        "        size = next((size for size in _SIZES if end < size), end)\n",
        "test_records.py -k sums_by_hand",
    ),
    Mutation(
        "cpu",
        "np.where(found.rows < 0, -1, found.rows + part.first_row)",
        "found.rows + part.first_row",
        "test_scan_records.py -k both_layouts",
    ),
    Mutation(
        "cpu",
        "Selection(request.selection.words[at : at + len(some)])",
        "Selection(request.selection.words[: len(some)])",
        "test_scan_records.py -k both_layouts",
    ),
    Mutation(
        "graph",
        '{said}")\n        first += len(part)\n',
        '{said}")\n',
        "test_file_format_records.py -k by_row",
    ),
    Mutation("graph", "is_used & (links >= linked)", "is_used & (links > linked)", "test_file_format_records.py"),
    Mutation(
        "versions",
        'blocks.map("records", verify, at_cache_line=True)',
        'blocks.map("records", verify)',
        "test_file_format_records.py -k unaligned",
    ),
    Mutation(
        "writer",
        "(split_stored(spec, block).codes for block in blocks)",
        "(block.codes for block in blocks)",
        "test_file_format_records.py -k some_are_records",
    ),
    Mutation(
        "layout",
        '    _check_json(value.get("graph"), "graph")\n',
        "",
        "test_file_format_records.py -k no_json",
    ),
    Mutation(
        "reader",
        "        check_links(blocks.path, parts, linked, slots)\n",
        "        pass\n",
        "test_file_format_records.py -k right_checksums",
    ),
    # ---- arrays that versions share
    Mutation(
        "growing",
        "        if self._claimed != count or size > len(self.array):\n",
        "        if size > len(self.array):\n",
        "test_changes.py -k versions",
    ),
    Mutation("growing", "        target._claimed = size\n", "", "test_changes.py -k 'versions or copied_few'"),
    Mutation(
        "growing",
        "np.empty(max(size, count * 3 // 2), self.array.dtype)",
        "np.empty(size, self.array.dtype)",
        "test_changes.py -k copied_few",
    ),
    # ---- ids
    Mutation("ids", "                following = None\n", "                pass\n", "test_changes.py test_index.py"),
    Mutation("ids", "            following += count\n", "            pass\n", "test_changes.py test_index.py"),
    Mutation("ids", "removed=self._removed + removed)", "removed=removed)", "test_changes.py test_index.py"),
    Mutation(
        "ids", "if self._live is None else self._live.copy()\n", "if self._live is None else self._live\n", CHANGES
    ),
    Mutation(
        "ids",
        "np.full(max(words, self._live.size * 3 // 2), ~np.uint64(0), np.uint64)",
        "np.full(max(words, self._live.size * 3 // 2), np.uint64(0), np.uint64)",
        "test_changes.py test_index.py",
    ),
    Mutation(
        "ids",
        "        known = np.flatnonzero(self.find(ids) >= 0)\n",
        "        known = np.flatnonzero(self.find(ids) > 0)\n",
        f"{REFUSED} -k 'first and again'",
    ),
    Mutation(
        "ids",
        "        if (rows < 0).any():\n            if self._string_ids is not None:\n",
        "        if False:\n            if self._string_ids is not None:\n",
        "test_index.py test_search.py",
    ),
    Mutation(
        "ids",
        "        return 0 if self._next is None and not len(self) else self._next\n",
        "        return self._next\n",
        "test_changes.py test_index.py",
    ),
    Mutation(
        "ids",
        "        compact = IdMap(rows.size, self.numbers(rows), self.next_id, strings)\n",
        "        compact = IdMap(rows.size, self.numbers(rows), None, strings)\n",
        "test_changes.py",
    ),
    Mutation(
        "ids",
        "compact.without(np.flatnonzero(~bits_of(self._live, first))) if first else compact",
        "compact",
        TRIMMED,
    ),
    Mutation(
        "ids",
        "slice_rows(self._live, first, self._count) & full(self._count - first))",
        "slice_rows(self._live, first, self._count))",
        TRIMMED,
    ),
    Mutation("ids", "new.size and new.min() < 0:", "False:", "test_mapped_damage.py -k negative"),
    Mutation(
        "ids",
        "        if self._table.rows >= self._count >= len(self) > self._table.distinct:\n",
        "        if False:\n",
        "test_file_format_damage.py -k could_have",
    ),
    Mutation(
        "ids",
        "                self._string_ids.check_unverified(self.explicit)\n",
        "                pass\n",
        "test_mapped_damage.py -k names",
    ),
    # ---- ids that are strings
    Mutation(
        "string ids",
        "            if row >= 0 and self._string(row) != string:\n",
        "            if False:\n",
        "test_string_ids.py",
    ),
    Mutation(
        "string ids",
        "extended(self._count, other.ends + self._size)",
        "extended(self._count, other.ends)",
        "test_string_ids.py test_refused_changes.py",
    ),
    Mutation(
        "string ids",
        "self._count + other._unverified if other._unverified else self._unverified",
        "self._unverified",
        "test_mapped_damage.py",
    ),
    Mutation(
        "string ids",
        "        if not isinstance(string, str):\n",
        "        if False:\n",
        "test_string_ids.py test_refused_changes.py",
    ),
    # ---- originals
    Mutation("originals", "        fork.parts = list(self.parts)\n", "        fork.parts = self.parts\n", REFUSED),
    Mutation(
        "originals",
        "            offset += len(part.values)\n        return out\n",
        "        return out\n",
        "test_rerank.py",
    ),
    Mutation(
        "originals",
        "            offset += len(part.values)\n        return selected\n",
        "        return selected\n",
        "test_rerank.py",
    ),
    Mutation(
        "originals",
        "        if bad.any():\n            row, column = np.argwhere(bad)[0]\n",
        "        if False:\n            row, column = np.argwhere(bad)[0]\n",
        "test_refused_changes.py test_rerank.py",
    ),
    Mutation("originals", "(peak / 127)", "(peak / 126)", "test_rerank.py"),
    # ---- the state of an index: taken by one assignment, read once
    Mutation("index", "        if self._state is not before:\n", "        if False:\n", "test_changes.py -k middle_of"),
    Mutation(
        "index",
        "after._replace(changes=before.changes + 1)",
        "after._replace(changes=before.changes)",
        "test_changes.py -k counts_its_changes",
    ),
    Mutation(
        "index",
        "        if after.contents.ids is not before.contents.ids:\n",
        "        if True:\n",
        "test_changes.py -k counts_its_changes",
    ),
    Mutation(
        "index",
        "        self._take(before, before._replace(encoder=encoder, contents=contents))\n\n    def upsert",
        "        self._state = before._replace(encoder=encoder)\n"
        "        self._take(self._state, self._state._replace(contents=contents))\n\n    def upsert",
        "test_interrupts.py -k first_add",
    ),
    Mutation(
        "index",
        "        searcher = self._state.searcher\n        return searcher.search(",
        "        searcher = Searcher(self._encoder, self._contents)\n        return searcher.search(",
        "test_threads.py -k before_any_line",
    ),
    Mutation(
        "index",
        "        encoder, contents, *_ = self._state\n        contents = contents.compacted()\n",
        "        encoder, contents = self._encoder, self._contents\n        contents = contents.compacted()\n",
        "test_threads.py -k before_any_line",
    ),
    Mutation(
        "index",
        "        encoder, contents, *_ = self._state\n        index = type(self)",
        "        encoder, contents = self._encoder, self._contents\n        index = type(self)",
        "test_threads.py -k before_any_line",
    ),
    Mutation(
        "index",
        ").trimmed(before.filed_rows)\n",
        ")\n",
        TRIMMED,
    ),
    Mutation(
        "index",
        "contents=contents.trimmed(before.filed_rows)))",
        "contents=contents))",
        TRIMMED,
    ),
    Mutation(
        "index",
        "contents=before.contents.compacted(), filed_rows=0)",
        "contents=before.contents.compacted())",
        TRIMMED,
    ),
    Mutation(
        "index",
        "filed_rows=segment.rows if is_mapped else 0)",
        "filed_rows=0)",
        TRIMMED,
    ),
    Mutation(
        "changes",
        "        changes.lock = threading.RLock()\n\n\nif",
        "        pass\n\n\nif",
        "test_processes.py -k another_threads_change",
    ),
    Mutation(
        "index",
        "            index._files[real] = (file.identity,)\n",
        "            pass\n",
        f"{SAVING} -k says_so",
    ),
    Mutation("index", "        self._files[real] = (saved,)\n", "", f"{SAVING} -k remembers"),
    Mutation(
        "index",
        "        real = os.path.realpath(path)\n        known",
        "        real = str(path)\n        known",
        f"{SAVING} -k every_path",
    ),
    # ---- center
    Mutation(
        "center",
        "        if not self.pending or not source.rows:\n",
        "        if not self.pending:\n",
        "test_center.py",
    ),
    Mutation("center", "flush(total / source.rows)", "flush(total / (source.rows + 1))", "test_center.py"),
    Mutation(
        "center",
        "point.astype(np.float64)\n    with",
        "np.zeros(rows.shape[1])\n    with",
        "test_center.py",
    ),
    Mutation("center", "residuals if self.vector is None else residuals + self.vector", "residuals", "test_center.py"),
    Mutation(
        "center",
        "            worse = self.scores(_float_of_rank(middle)) <= thresholds\n",
        "            worse = self.scores(_float_of_rank(middle)) < thresholds\n",
        "test_center.py test_range.py",
    ),
    Mutation("center", "return np.float32(0.5) * errors if", "return errors if", "test_center.py"),
    # ---- filters and sets of rows
    Mutation(
        "filters",
        "            return self._live() & ~self._rows_of(filter.ids)\n",
        "            return ~self._rows_of(filter.ids)\n",
        "test_filters.py",
    ),
    Mutation(
        "filters",
        "        self._all: U64 | None = ids.live\n",
        "        self._all: U64 | None = None\n",
        "test_changes.py test_filters.py",
    ),
    Mutation(
        "filters",
        "self._live() if one is None else self._words(one)",
        "full(self._ids.rows_ever) if one is None else self._words(one)",
        "test_filters.py",
    ),
    Mutation("filters", "        elif len(each) != queries:\n", "        elif False:\n", "test_filters.py"),
    Mutation(
        "filters", "            if array.shape != (len(self._ids),):\n", "            if False:\n", "test_filters.py"
    ),
    Mutation(
        "bitmap",
        "        words[-1] = np.uint64(2 ** (n % WORD) - 1)\n",
        "        pass\n",
        "test_filters.py test_selection.py",
    ),
    Mutation("bitmap", "    out[..., : upper.shape[-1]] |= upper\n", "", "test_store.py -k filters_allow"),
    # ---- search
    Mutation(
        "searcher",
        "scores, rows = rerank(metric, on_host(matrix), found.rows, vectors_of, plan.k, plan.threads)\n",
        "scores, rows = found.scores[:, : plan.k], found.rows[:, : plan.k]\n",
        "test_rerank.py",
    ),
    Mutation("searcher", "lru_cache(maxsize=_PLANS, typed=True)", "lru_cache(maxsize=_PLANS)", "test_few_queries.py"),
    Mutation("searcher", "graph, ids.live)\n", "graph, None)\n", "test_few_queries.py -k removed"),
    Mutation("rerank", "        ascending[~is_present] = np.inf\n", "", "test_rerank.py test_search.py"),
    Mutation(
        "rerank",
        "        order = np.lexsort((tie_break, ascending))[:, :k]\n",
        "        order = np.lexsort((-tie_break, ascending))[:, :k]\n",
        "test_rerank.py",
    ),
    # ---- store
    Mutation("store", "            if not published or", "            if True or", STORE),
    Mutation(
        "store",
        "            self.directory.sync()  # the names",
        "            pass  # the names",
        STORE,
    ),
    Mutation(
        "store",
        "    version = directory.publish(NEXT, MANIFEST, expected)\n    directory.sync()\n",
        "    version = directory.publish(NEXT, MANIFEST, expected)\n",
        STORE,
    ),
    Mutation("store", "        self.next += 1\n", "        pass\n", "test_store.py -k only_what_changed"),
    Mutation("store", "deepcopy(dict(state.meta)),", "state.meta,", "test_store.py"),
    Mutation("store", "        if live_rows == entry.live:\n            return [segment]\n", "", "test_store.py"),
    Mutation(
        "store", "removed.append(segment.removed + first)\n", "removed.append(segment.removed)\n", "test_store.py"
    ),
    Mutation(
        "store",
        "        return in_range if self.rows is None else in_range[self.rows - self.first]\n",
        "        return in_range\n",
        "test_store.py -k never_reached",
    ),
    Mutation(
        "store",
        "crc = write_removed(file, ~bits)",
        "crc = write_removed(file, bits)",
        "test_store.py",
    ),
    Mutation(
        "store",
        "directory.create(NEXT)\n    try:\n        file.write(data)\n        file.sync()\n",
        "directory.create(NEXT)\n    try:\n        file.write(data)\n",
        STORE,
    ),
    Mutation(
        "store",
        "    file.write(data)\n    file.sync()\n    return zlib.crc32(data)\n",
        "    file.write(data)\n    return zlib.crc32(data)\n",
        STORE,
    ),
    Mutation("store", "if 2 * live[i] < rows[i]", "if False", "test_store.py"),
    Mutation(
        "store",
        "    if len(data) != size or zlib.crc32(data) != removed.crc32:",
        "    if False:",
        "test_store.py -k another_removed",
    ),
    Mutation(
        "store",
        "            if newer == manifest:\n",
        "            if True:\n",
        "test_store.py test_store_faults.py test_processes.py",
    ),
    Mutation("store", "        if not self._lock.held:\n", "        if False:\n", "test_store.py -k leaves_the_lock"),
    # ---- store: rows and files stay together, whatever happens during a commit
    Mutation(
        "durable",
        "            index._state = index._state._replace(filed_rows=index._state.contents.ids.rows_ever)\n",
        "",
        "test_store.py -k during_a_commit",
    ),
    Mutation(
        "durable",
        "                if self._index._contents is committed.contents:",
        "                if True:",
        "test_store.py -k during_a_commit",
    ),
    Mutation(
        "durable",
        "            is_new, index._state = commits is not index._state.files, index._state._replace(files=commits)\n"
        "        if is_new:\n            commits.sweep()\n",
        "            if commits is not index._state.files:\n                commits.sweep()\n"
        "            index._state = index._state._replace(files=commits)\n",
        "test_interrupts.py -k loses_nothing",
    ),
    Mutation(
        "durable",
        "        return ids.rows_ever - len(ids) - in_files > max(FEW_ROWS, len(ids))\n",
        "        return False\n",
        "test_store.py -k leave_memory",
    ),
    Mutation(
        "durable",
        "        return ids.rows_ever - len(ids) - in_files > max(FEW_ROWS, len(ids))\n",
        "        return ids.rows_ever - len(ids) > max(FEW_ROWS, len(ids))\n",
        "test_store.py -k leave_memory",
    ),
    Mutation(
        "durable",
        "            if self._commits is not state.files or removed:  #",
        "            if self._commits is not state.files:  #",
        "test_store.py test_store_machine.py",
    ),
    Mutation(
        "durable",
        "_replace(contents=contents, filed_rows=count, files=commits)",
        "_replace(contents=contents, files=commits)",
        "test_store.py test_store_machine.py",
    ),
    Mutation(
        "durable",
        "            if kind is None and self._lock is not None and not",
        "            if self._lock is not None and not",
        "test_store.py -k not_committed",
    ),
    Mutation(
        "commit",
        "        created.append(name)  # only now: a name that is taken belongs to another commit\n",
        "",
        "test_store_faults.py -k 'error_at_any_call or full_disk_at'",
    ),
    Mutation(
        "commit",
        "        file = self.directory.create(name)\n        created.append(name)",
        "        created.append(name)\n        file = self.directory.create(name)",
        "test_directory.py",
    ),
    Mutation("snapshot", "rows.seal(segment.stored, whole=True)", "rows.seal(segment.stored)", "test_store.py"),
    Mutation(
        "commit",
        "            if not published or isinstance(error, StoreError):\n",
        "            if not published:\n",
        "test_directory.py",
    ),
    Mutation(
        "snapshot",
        "    if file.identity is not None and file.identity.size != entry.size:\n",
        "    if False:\n",
        "test_store.py -k that_grew",
    ),
    Mutation(
        "merge", "and total >= FANOUT ** (level + 1):", "and total >= FANOUT ** level:", "test_store.py -k merges"
    ),
    Mutation(
        "opening",
        "            lock.release()\n        raise\n",
        "            pass\n        raise\n",
        "test_store.py -k frees_the_lock",
    ),
    Mutation(
        "durable",
        "        with self._committing.lock:\n            self._check_writable()\n"
        "            state = self._keep_rows()\n            self._take_commit(state.files.commit(",
        "        if True:\n            self._check_writable()\n"
        "            state = self._keep_rows()\n            self._take_commit(state.files.commit(",
        "test_store.py -k two_threads",
    ),
    Mutation(
        "durable",
        "        with self._committing.lock, self._index._changes.lock:  #",
        "        if True:  #",
        "test_store.py -k two_threads",
    ),
    # ---- folders, locks and temporary files
    Mutation("lock", "            _held.add(self)\n", "            pass\n", "test_store.py -k lives_on"),
    Mutation(
        "lock",
        '            file = io.FileIO(path, "r+", opener=opener)\n',
        '            file = io.FileIO(opener(str(path), os.O_RDWR), "r+", closefd=False)\n',
        "test_interrupts.py -k lock",
    ),
    Mutation("lock", "            if error.errno in _HELD:\n", "            if True:\n", f"{SAVING} -k without_locks"),
    Mutation(
        "leftovers", "        if _is_left(descriptor) and ", "        if ", f"{SAVING} -k 'killed or swept or held'"
    ),
    Mutation(
        "leftovers",
        "        return os.fstat(descriptor).st_nlink > 0\n",
        "        return True\n",
        f"{SAVING} -k sweep_between",
    ),
    Mutation(
        "leftovers",
        "not (is_ours or time.time() - status.st_mtime > _FOREIGN_AGE)",
        "False",
        f"{SAVING} -k not_swept",
    ),
    Mutation(
        "leftovers",
        "_is_left(descriptor) and os.path.samestat(os.fstat(descriptor), os.lstat(path)):",
        "_is_left(descriptor):",
        f"{SAVING} -k swept_name",
    ),
    Mutation("local", "        sweep(self.path, target)\n", "", f"{SAVING} -k next_save_removes"),
    Mutation(
        "local",
        "        self._check_folder()\n        return LocalFile(",
        "        return LocalFile(",
        "test_moved_folders.py -k is_gone",
    ),
    Mutation(
        "local",
        "        self._check_folder()\n        with naming(self.describe(target)):\n",
        "        with naming(self.describe(target)):\n",
        "test_moved_folders.py -k in_the_middle",
    ),
    Mutation(
        "system",
        "        raise system_error(error, where) from None\n\n\ndef",
        "        raise\n\n\ndef",
        f"{SAVING} -k name_the",
    ),
    Mutation("system", "    text = _TEXTS.get(error.errno) or ", "    text = ", f"{OPENING} -k too_many"),
    # ---- reading a file: one opening, and errors of the system stay what they are
    Mutation("source", ' "EMFILE",', "", f"{OPENING} -k too_many"),
    Mutation("source", "                raise Replaced\n", "                pass\n", f"{OPENING} -k wherever"),
    Mutation(
        "source",
        "        if now != (self.size, self._written) or",
        "        if",
        f"{OPENING} -k byte_changed",
    ),
    Mutation(
        "source",
        " or self.read(0, PAGE) != self._first_page:",
        ":",
        f"{OPENING} -k byte_changed",
    ),
    Mutation(
        "reader", "is_verified=verify) if strings", "is_verified=True) if strings", "test_mapped_damage.py -k names"
    ),
    # ---- saving a file
    Mutation(
        "writer",
        "        _check_replaced(path, target, replaces)  # here too, before much is written in vain\n",
        "",
        f"{SAVING} -k before_anything",
    ),
    Mutation(
        "writer",
        "                    _check_replaced(path, target, replaces)\n                    publishing",
        "                    publishing",
        f"{SAVING} -k before_it_is_published",
    ),
    Mutation("writer", "                    publishing(identity)\n", "", f"{SAVING} -k at_the_rename"),
    Mutation("index", "(*known, identity)", "(identity,)", f"{SAVING} -k at_the_rename"),
    Mutation(
        "writer",
        "                with directory.exclusive():\n",
        "                if True:\n",
        f"{SAVING} -k two_savers",
    ),
    Mutation(
        "writer",
        '                if os.name != "posix":\n                    file.close()',
        "                if True:\n                    file.close()",
        f"{SAVING} -k held_until",
    ),
    Mutation(
        "index", "deepcopy(self._meta), dict(self._files)", "deepcopy(self._meta), self._files", f"{SAVING} -k copies"
    ),
    Mutation(
        "index",
        "        replaces = () if overwrite else known\n",
        "        replaces = known\n",
        f"{SAVING} -k 'says_so'",
    ),
    Mutation(
        "writer",
        "    if threading.current_thread() is not threading.main_thread():\n",
        "    if True:\n",
        "test_file_format.py -k interrupt_while_hdf5",
    ),
    Mutation(
        "writer",
        "            with suppress(OSError):\n                directory.remove(temporary)\n            raise\n",
        "            raise\n",
        "test_file_format.py -k failing",
    ),
    Mutation(
        "writer",
        '                if mode is not None and os.name == "posix":',
        "                if False:",
        "test_moved_folders.py -k keeps_link_and_mode",
    ),
    Mutation(
        "writer",
        "        directory.sync()  # the rename itself\n",
        "",
        "test_file_format.py -k synced",
    ),
    # ---- commands
    Mutation("cli samples", "    if distance is not None:\n", "    if False:\n", "test_cli_data.py -k distance"),
    Mutation(
        "cli samples", "    if np.abs(norms - 1).max() <= 1e-3:\n", "    if False:\n", "test_cli_data.py -k chooses"
    ),
    Mutation("cli samples", "    meta.pop(DIGEST, None)\n", "    pass\n", "test_cli_data.py -k drop"),
    Mutation(
        "cli samples",
        "    return len(compared) >= _LEAST and float(compared.mean()) < 0.7\n",
        "    return True\n",
        "test_cli_data.py -k codes_of_others",
    ),
    Mutation(
        "cli samples",
        "    if len(given) < _LEAST or error.mean() <= min(3 * loss + 0.001, 0.4 * loss + 0.6, 1.0):\n",
        "    if len(given) < _LEAST:\n",
        "test_cli_data.py -k codes_of_others",
    ),
    Mutation(
        "cli eval",
        "    if holds_others(index, index.ids[sample.rows], sample.vectors):\n        raise",
        "    if False:\n        raise",
        "test_cli_data.py -k refuses_other_data",
    ),
    Mutation(
        "cli eval",
        "    if differs_from_origin(index, sample):\n",
        "    if False:\n",
        "test_cli_data.py -k nearly",
    ),
    Mutation(
        "cli opening",
        "        if (index.changes, index.meta) != before:\n",
        "        if True:\n",
        "test_cli_change.py -k writes_nothing",
    ),
    Mutation(
        "cli opening",
        "        if (index.changes, index.meta) != before:\n",
        "        if index.meta != before[1]:\n",
        "test_cli_change.py -k without_notes",
    ),
]


def find(mutation):
    """Return the one file that holds a mutation's text; LookupError if there is none or several."""
    paths = [path for name in MUTATED for path in sorted((ROOT / name).rglob("*.py"))]
    counts = {path: path.read_text().count(mutation.old) for path in paths}
    if sum(counts.values()) != 1:
        places = [f"{path.relative_to(ROOT)} ({count})" for path, count in counts.items() if count]
        raise LookupError(f"found {sum(counts.values())} times: {', '.join(places) or 'nowhere'}")
    return next(path for path, count in counts.items() if count)


def copy_to(folder):
    """Copy the library, its tests and the installed compiled module."""
    ignored = shutil.ignore_patterns("__pycache__", "native")
    shutil.copytree(ROOT / "vqindex", folder / "vqindex", ignore=ignored)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    if not list((folder / "vqindex").glob("_native*.so")):
        native = importlib.util.find_spec("vqindex._native")
        assert native is not None
        assert native.origin is not None
        shutil.copy(native.origin, folder / "vqindex")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)


def run_tests(folder, tests, timeout=TIMEOUT):
    """Return pytest's exit status and output."""
    paths = [f"tests/{word}" if word.endswith(".py") else word for word in shlex.split(tests)]
    command = [sys.executable, "-B", "-c", CHILD, str(folder), "-x", "-q", "-p", "no:cacheprovider", "-m", "not gpu"]
    places = [folder / name for name in ("site", "", "gpu", "cli", "datasets", "bench")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    try:
        done = subprocess.run(
            [*command, *paths], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return 1, "FAILED by taking too long"
    return done.returncode, done.stdout + done.stderr


def outcome(mutation):
    """Apply one mutation and return its outcome and a detail."""
    started = time.monotonic()
    try:
        found = find(mutation)
    except LookupError as error:
        return "NOT FOUND", str(error)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_to(folder)
        target = folder / found.relative_to(ROOT)
        target.write_text(target.read_text().replace(mutation.old, mutation.new))
        status, output = run_tests(folder, mutation.tests)
    seconds = f"{time.monotonic() - started:.0f} s"
    if status == 1:
        failed = [line.split(" - ")[0] for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "killed", f"{seconds}, {failed[0] if failed else ''}"
    if status == 0:
        return ("explained", mutation.why) if mutation.why else ("SURVIVED", seconds)
    return "BROKEN", f"pytest ended with {status}: {output[-2000:]}"


def pass_unmutated(selections, jobs):
    """Return whether selections of tests pass without a mutation; print the output of one that does not."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        folder = Path(name).resolve()
        copy_to(folder)
        results = pool.map(lambda tests: run_tests(folder, tests, 3 * TIMEOUT), selections)
        for tests, (status, output) in zip(selections, results, strict=True):
            if status:
                print(f"without a mutation {tests} ends with {status}:\n{output[-3000:]}")
                return False
    return True


def main():
    """Apply all mutations; return 1 if one survives without an explanation or can't be applied."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--only", default="", help="apply only mutations whose module, text or tests contain this word")
    parser.add_argument("--find", action="store_true", help="only report which texts are not found")
    arguments = parser.parse_args()
    selection = [m for m in MUTATIONS if arguments.only in f"{m.where} {m.old} {m.tests}"]
    if not arguments.find and not pass_unmutated(list(dict.fromkeys(m.tests for m in selection)), arguments.jobs):
        return 1
    bad = 0

    def attempt(mutation):
        if not arguments.find:
            return outcome(mutation)
        try:
            return "found", str(find(mutation).relative_to(ROOT))
        except LookupError as error:
            return "NOT FOUND", str(error)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        for mutation, (what, more) in zip(selection, pool.map(attempt, selection), strict=True):
            bad += what.isupper()
            print(
                f"{what:10}{mutation.where}: {mutation.old.strip()!r} -> {mutation.new.strip()!r}: {more}", flush=True
            )
    print(f"{len(selection)} mutations, {bad} of them wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
