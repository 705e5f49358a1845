"""Check that the tests notice small mistakes: each mutation changes one place of the library, and a test must fail.

    python tests/mutations.py [--jobs N] [--only WORD] [--find]

Each mutation changes a copy of the package in a temporary folder, and the tests named with it run there. A mutation
that no test notices is an error unless it has an explanation. So is one whose text does not occur exactly once in the
package. The text alone finds the file, so that modules may move.
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
COPIED = ("tests", "gpu", "cli", "datasets", "bench", "benchmarks", "pyproject.toml")
TIMEOUT = 180  # seconds; a mutation that makes a test run forever counts as noticed

# The code of each mutation's interpreter: it imports the copy rather than an editable installation of the library.
CHILD = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"]
root = sys.argv.pop(1)
sys.path[:0] = [root, *(f"{root}/{name}" for name in ("gpu", "cli", "datasets", "bench"))]
import vqindex
assert vqindex.__file__.startswith(root), vqindex.__file__
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
        The text, which occurs exactly once in the package, and its replacement.
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
CHANGES = "test_changes.py test_index.py test_refused_changes.py"
STORE = "test_store.py test_store_machine.py test_store_faults.py"

MUTATIONS = [
    # ---- contents: a failed change rolls back everything
    Mutation("contents", "                part.rollback(savepoint)\n", "                pass\n", REFUSED),
    Mutation(
        "contents",
        "                self.originals.append(originals)\n",
        "                pass\n",
        "test_rerank.py",
    ),
    Mutation("contents", "            count += codes.rows\n", "            count = codes.rows\n", CHANGES),
    Mutation(
        "contents",
        "        return Contents(self.rows.first(ids.rows_ever), ids, originals)\n",
        "        return Contents(self.rows, ids, originals)\n",
        "test_threads.py test_refused_changes.py",
    ),
    Mutation(
        "contents",
        "at = rows[start : start + step]\n",
        "at = rows[:step]\n",
        f"{REFUSED} -k merge",
    ),
    # ---- encoder
    Mutation(
        "encoder",
        '            _check_norms(codes.norm, "vectors", first_row)\n',
        '            _check_norms(codes.norm, "vectors", 0)\n',
        "test_index.py",
    ),
    Mutation(
        "encoder", "    if norm is not None and norm.size and not norm.max() < MAX_NORM:", "    if False:", REFUSED
    ),
    Mutation("arrays", "            yield number * rows, chunk\n", "            yield 0, chunk\n", "test_index.py"),
    # ---- rows
    Mutation("rows", "self._sealed, self._tail, self._used = savepoint\n", "pass\n", REFUSED),
    Mutation(
        "rows",
        "        return list(self._sealed), self._tail, self._used\n",
        "        return self._sealed, self._tail, self._used\n",
        SAVED,
    ),
    Mutation("rows", "self._tail.signs[block : block + 1, :, column:] = 0", "pass", SAVED),
    Mutation("rows", "            self._tail.signs[block + 1 :] = 0\n", "", SAVED),
    Mutation(
        "rows",
        "            self._sealed.append(self._tail)\n            self._tail,",
        "            self._tail,",
        "test_memory.py test_changes.py test_index.py",
    ),
    Mutation(
        "rows",
        "                target[: len(source)] = source\n",
        "                pass\n",
        "test_index.py -k memory_grows",
    ),
    Mutation(
        "rows",
        "            offset += source.rows\n        return block\n",
        "        return block\n",
        "test_changes.py test_store.py",
    ),
    Mutation(
        "rows", "at, to = rows[start:stop] - offset,", "at, to = rows[start:stop],", "test_changes.py test_store.py"
    ),
    # ---- ids
    Mutation(
        "ids",
        "            self._count, self._ids, self._next, self._live, self._removed, self._string_ids, strings = ",
        "            strings = savepoint[-1]\n            ignored = ",
        TAKEN,
    ),
    Mutation("ids", "                self._string_ids.rollback(strings)\n", "                pass\n", TAKEN),
    Mutation(
        "ids",
        "            self._table = IdTable()\n",
        "            pass\n",
        TAKEN,
        why="the table adds rows when an id is looked up, and no change looks up one before it fails; the new table is "
        "for a change that would",
    ),
    Mutation("ids", "                following = None\n", "                pass\n", "test_changes.py test_index.py"),
    Mutation("ids", "            following += count\n", "            pass\n", "test_changes.py test_index.py"),
    Mutation("ids", "                self._remove(replaces)\n", "                pass\n", "test_changes.py"),
    Mutation("ids", "            self._removed += removed\n", "", "test_changes.py test_index.py"),
    Mutation(
        "ids",
        "            self._removed = WORD * self._live.size - count_bits(self._live)\n",
        "            pass\n",
        f"{REFUSED} -k removal_that_is_interrupted",
    ),
    Mutation(
        "ids",
        "_wider(self._live, -(-last // WORD), ~np.uint64(0))",
        "_wider(self._live, -(-last // WORD), np.uint64(0))",
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
        "        if (rows < 0).any():\n            raise UnknownIdError",
        "        if False:\n            raise UnknownIdError",
        "test_index.py test_search.py",
    ),
    Mutation(
        "ids",
        "self._live[: -(-self._count // WORD)].copy()\n",
        "self._live[: -(-self._count // WORD)]\n",
        "test_changes.py -k search_keeps",
    ),
    Mutation(
        "ids",
        "        return 0 if self._next is None and not len(self) else self._next\n",
        "        return self._next\n",
        "test_changes.py test_index.py",
    ),
    Mutation(
        "ids",
        "        return IdMap(rows.size, self.numbers(rows), self.next_id, strings)\n",
        "        return IdMap(rows.size, self.numbers(rows), None, strings)\n",
        "test_changes.py",
    ),
    # ---- ids that are strings
    Mutation(
        "string ids",
        "        self._size, self._count = savepoint\n",
        "        self._count = mark[1]\n",
        TAKEN,
        why="the next strings follow those of the failed change, and each is found by its end and the end of the one "
        "before it",
    ),
    Mutation(
        "string ids",
        "            if row >= 0 and self._string(row) != string:\n",
        "            if False:\n",
        "test_string_ids.py",
    ),
    Mutation(
        "string ids",
        ", dtype=np.int64) + self._size\n",
        ", dtype=np.int64)\n",
        "test_string_ids.py test_refused_changes.py",
    ),
    Mutation(
        "string ids",
        "        self._put(other.text, other.ends + self._size)\n",
        "        self._put(other.text, other.ends)\n",
        "test_string_ids.py test_store.py",
    ),
    Mutation(
        "string ids",
        "        if not isinstance(string, str):\n",
        "        if False:\n",
        "test_string_ids.py test_refused_changes.py",
    ),
    # ---- originals
    Mutation("originals", "        self.parts = savepoint\n", "        pass\n", REFUSED),
    Mutation("originals", "        return list(self.parts)\n", "        return self.parts\n", REFUSED),
    Mutation(
        "originals",
        "        view.parts = list(self.parts)\n",
        "        view.parts = self.parts\n",
        "test_threads.py test_rerank.py",
        why="later rows come after the rows that a search sees, joined or not; only a thread that reads the list while "
        "it changes could see it",
    ),
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
    # ---- center
    Mutation("index", "                self._encoder = before\n", "                pass\n", f"{REFUSED} -k first_add"),
    Mutation(
        "index",
        "            if not self._ids.rows_ever:\n",
        "            if True:\n",
        f"{REFUSED} -k mean",
        why="once there are rows the center is final, and `before` has the same one",
    ),
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
        "scores, rows = rerank(metric, on_host(vectors), found.rows, vectors_of, k)\n",
        "scores, rows = found.scores[:, :k], found.rows[:, :k]\n",
        "test_rerank.py",
    ),
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
    Mutation("store", "        self._next_file += 1\n", "        pass\n", "test_store.py"),
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
    Mutation("store", "        if not self._lock.held:\n", "        if False:\n", "test_processes.py test_store.py"),
]


def find(mutation, package=ROOT / "vqindex"):
    """Return the one file that holds a mutation's text; LookupError if there is none or several."""
    counts = {path: path.read_text().count(mutation.old) for path in sorted(package.rglob("*.py"))}
    if sum(counts.values()) != 1:
        places = [f"{path.relative_to(package)} ({count})" for path, count in counts.items() if count]
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


def run_tests(folder, tests, timeout=TIMEOUT):
    """Return pytest's exit status and output."""
    paths = [f"tests/{word}" if word.startswith("test_") else word for word in shlex.split(tests)]
    command = [sys.executable, "-B", "-c", CHILD, str(folder), "-x", "-q", "-p", "no:cacheprovider", "-m", "not gpu"]
    try:
        done = subprocess.run([*command, *paths], cwd=folder, capture_output=True, text=True, timeout=timeout)
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


def main():
    """Apply all mutations; return 1 if one survives without an explanation or can't be applied."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--only", default="", help="apply only mutations whose module, text or tests contain this word")
    parser.add_argument("--find", action="store_true", help="only report which texts are not found")
    arguments = parser.parse_args()
    selection = [m for m in MUTATIONS if arguments.only in f"{m.where} {m.old} {m.tests}"]
    if not arguments.find:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            copy_to(folder)
            words = dict.fromkeys(" ".join(mutation.tests for mutation in selection).split())
            status, output = run_tests(
                folder, " ".join(word for word in words if word.startswith("test_")), 3 * TIMEOUT
            )
        if status:
            print(f"the tests fail without a mutation:\n{output[-3000:]}")
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
