"""A refused or failed change leaves the index unchanged, and later vectors are added and found as usual.

Each test builds two equal indexes. A change fails on one of them, halfway through where possible. Both then get the
same further vectors. They must agree bit for bit in everything that a user can see, and each new vector finds itself.
"""

import sys

import numpy as np
import pytest
from faulty import FaultyDirectory
from stores import open_with

import vqindex
from vqindex import InvalidInputError, VQIndex

DIM = 24
CHUNK_ROWS = 50  # rows that are encoded at a time in these tests
START, BATCH, MORE = 150, 130, 90  # vectors before, in the failed change, and after it
QUERIES = np.random.default_rng(99).standard_normal((5, DIM)).astype(np.float32)

INDEXES = {
    "ip": {"metric": "ip", "bits": 4},
    "l2": {"metric": "l2", "bits": 3},
    "cosine": {"metric": "cosine", "bits": 4},
    "no-sign-bits": {"metric": "l2", "bits": 1, "codec": "trellis"},
    "gaussian": {"metric": "l2", "bits": 4, "sketch": "gaussian"},
    "qjl": {"metric": "cosine", "bits": 1, "codec": "qjl"},
    "l2-f32": {"metric": "l2", "bits": 4, "keep_vectors": "f32"},
    "ip-f16": {"metric": "ip", "bits": 4, "keep_vectors": "f16"},
    "cosine-int8": {"metric": "cosine", "bits": 4, "keep_vectors": "int8"},
    "l2-mean": {"metric": "l2", "bits": 4, "center": "mean"},
    "cosine-mean-f32": {"metric": "cosine", "bits": 4, "center": "mean", "keep_vectors": "f32"},
}
ID_KINDS = ("automatic", "integers", "strings")


class SourceError(Exception):
    """An error that a source of vectors raises."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    found = [
        module
        for name, module in sys.modules.items()
        if name.startswith("vqindex.") and "_CHUNK_VALUES" in vars(module)
    ]
    assert found, "no module of vqindex has the number of values in a chunk"
    for module in found:
        monkeypatch.setattr(module, "_CHUNK_VALUES", CHUNK_ROWS * DIM)


def vectors(n, seed):
    """Return vectors that find themselves first by every metric: equal lengths around a common mean."""
    rows = np.random.default_rng(seed).standard_normal((n, DIM)) + 0.25
    return (8 * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def ids_of(kind, first, n):
    if kind == "automatic":
        return None
    numbers = range(1000 + first, 1000 + first + n)
    return [f"document {number}" for number in numbers] if kind == "strings" else np.array(numbers)


def make(settings, kind, start=START):
    index = VQIndex(DIM, **settings)
    if start:
        index.add(vectors(start, 1), ids_of(kind, 0, start))
        index.remove(index.ids[3:9:2].tolist())
    return index


def observed(index):
    """Return everything that a user can see, in a form that can be compared bit for bit."""
    seen = [len(index), index.ids.tolist(), index.keep_vectors]
    seen += [None if index.center is None else index.center.tobytes()]
    ways = [{"confidence": 1}, {}] if len(index) else [{}]
    if index.keep_vectors:
        ways.append({"rerank": True})
    for options in ways:
        scores, ids = index.search(QUERIES, len(index) + 1, **options)
        seen += [scores.tobytes(), ids.tolist()]
    if len(index):
        seen += [index.estimate(QUERIES, index.ids.tolist()).tobytes(), index.reconstruct(index.ids.tolist()).tobytes()]
    return seen


def file_of(index, folder, name):
    index.save(folder / name)
    return (folder / name).read_bytes()


def assert_more_vectors_find_themselves(index, kind, first=10_000, seed=2):
    more, before = vectors(MORE, seed), len(index)
    ids = ids_of(kind, first, MORE)
    index.add(more, ids)
    assert len(index) == before + MORE
    ids = index.ids[-MORE:].tolist() if ids is None else list(ids)
    assert index.ids[-MORE:].tolist() == ids
    ways = [{"confidence": 1}] + ([{"rerank": True, "oversample": 20}] if index.keep_vectors else [])
    for options in ways:
        found = index.search(more, 10, **options).ids
        own = np.array([ids[i] in found[i].tolist() for i in range(MORE)])
        assert own.all(), f"{np.flatnonzero(~own)} do not find themselves"
        if index.spec.bits > 1 or "rerank" in options:
            assert found[:, 0].tolist() == ids


def assert_as_if_never_tried(index, untouched, kind, folder):
    """Compare an index with one that never saw the failed change: now, after further vectors, and in its file."""
    assert observed(index) == observed(untouched)
    for first, seed in ((10_000, 2), (20_000, 3)):
        assert_more_vectors_find_themselves(index, kind, first, seed)
        assert_more_vectors_find_themselves(untouched, kind, first, seed)
    assert observed(index) == observed(untouched)
    some = index.ids[::7].tolist()
    assert index.remove(some) == untouched.remove(some) == len(some)
    assert observed(index) == observed(untouched)
    assert file_of(index, folder, "changed.vqi") == file_of(untouched, folder, "untouched.vqi")


class Source:
    """Vectors that are read by slices; the slices from the third chunk on raise."""

    def __init__(self, rows, error):
        self._rows, self._error = rows, error
        self.shape, self.dtype = rows.shape, rows.dtype

    def __getitem__(self, at):
        if at.start >= 2 * CHUNK_ROWS:
            raise self._error
        return self._rows[at]


def spoiled(cause):
    """Return vectors that fail in their last chunk, and the error."""
    rows = vectors(BATCH, 5)
    if cause == "nan":
        rows[-1, 3] = np.nan
        return rows, InvalidInputError
    if cause == "infinity":
        rows[-2, 0] = -np.inf
        return rows, InvalidInputError
    if cause == "float32 overflow":
        wide = rows.astype(np.float64)
        wide[-1, 1] = 1e300
        return wide, InvalidInputError
    if cause == "norm":
        rows[-1, 0] = 2.0**63
        return rows, InvalidInputError
    if cause == "f16 overflow":
        rows[-1, 0] = 1e5
        return rows, InvalidInputError
    error = KeyboardInterrupt() if cause == "keyboard interrupt" else SourceError()
    return Source(rows, error), type(error)


CAUSES = ("nan", "infinity", "float32 overflow", "keyboard interrupt", "exception of the source")
SPOILED = [(name, cause) for name in INDEXES for cause in ("nan", "keyboard interrupt")]
SPOILED += [("l2-f32", cause) for cause in CAUSES if cause not in ("nan", "keyboard interrupt")]
SPOILED += [(name, "norm") for name in ("ip", "l2", "no-sign-bits", "gaussian", "l2-f32")]
SPOILED += [("ip-f16", "f16 overflow")]


@pytest.mark.parametrize("kind", ID_KINDS)
@pytest.mark.parametrize(("name", "cause"), SPOILED)
def test_add_that_fails_in_a_late_chunk_leaves_later_vectors_findable(name, cause, kind, tmp_path):
    index, untouched = (make(INDEXES[name], kind) for _ in range(2))
    rows, error = spoiled(cause)
    with pytest.raises(error):
        index.add(rows, ids_of(kind, 500, BATCH))
    assert_as_if_never_tried(index, untouched, kind, tmp_path)


@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize(("name", "cause"), SPOILED)
def test_upsert_that_fails_in_a_late_chunk_leaves_later_vectors_findable(name, cause, kind, tmp_path):
    index, untouched = (make(INDEXES[name], kind) for _ in range(2))
    rows, error = spoiled(cause)
    with pytest.raises(error):
        index.upsert(ids_of(kind, START - 40, BATCH), rows)
    assert_as_if_never_tried(index, untouched, kind, tmp_path)


@pytest.mark.parametrize("kind", ID_KINDS)
@pytest.mark.parametrize("name", INDEXES)
@pytest.mark.parametrize("cause", ["nan", "exception of the source", "keyboard interrupt"])
def test_first_add_that_fails_leaves_an_empty_index_whose_center_is_not_chosen(name, cause, kind, tmp_path):
    index, untouched = (make(INDEXES[name], kind, start=0) for _ in range(2))
    rows, error = spoiled(cause)
    with pytest.raises(error):
        index.add(rows, ids_of(kind, 500, BATCH))
    assert index.center is None
    other_kind = "strings" if kind == "integers" else kind  # the kind of ids is still open, too
    assert_as_if_never_tried(index, untouched, other_kind, tmp_path)


@pytest.mark.parametrize("name", ["ip", "l2", "no-sign-bits", "cosine-int8"])
@pytest.mark.parametrize("more", [0, 5, 60])
def test_file_has_no_trace_of_rows_that_were_not_added(name, more, tmp_path):
    index, untouched = (VQIndex(DIM, **INDEXES[name]) for _ in range(2))
    for one in (index, untouched):
        one.add(vectors(START, 1))  # without removed rows the file is a copy of memory
    rows, error = spoiled("nan")
    with pytest.raises(error):
        index.add(rows)
    for one in (index, untouched):
        one.add(vectors(more, 2))
    assert file_of(index, tmp_path, "changed.vqi") == file_of(untouched, tmp_path, "untouched.vqi")


@pytest.mark.parametrize("kind", ID_KINDS)
@pytest.mark.parametrize("name", ["ip", "no-sign-bits", "l2-f32", "cosine-mean-f32"])
def test_add_that_fails_after_segments_were_sealed_leaves_later_vectors_findable(name, kind, tmp_path, monkeypatch):
    modules = [m for n, m in sys.modules.items() if n.startswith("vqindex.") and "SEGMENT_ROWS" in vars(m)]
    assert modules, "no module of vqindex has the number of rows in a segment"
    for module in modules:
        monkeypatch.setattr(module, "SEGMENT_ROWS", 64)
        monkeypatch.setattr(module, "_FIRST_ROWS", 8)
    index, untouched = (make(INDEXES[name], kind) for _ in range(2))
    rows, error = spoiled("exception of the source")
    with pytest.raises(error):
        index.add(rows, ids_of(kind, 500, BATCH))
    assert_as_if_never_tried(index, untouched, kind, tmp_path)


class ReadTwice(Source):
    """Vectors that can be read once, for the mean, and fail the second time."""

    def __init__(self, rows, error):
        super().__init__(rows, error)
        self._seen = 0

    def __getitem__(self, at):
        self._seen += at.start == 0
        if self._seen > 1 and at.start >= CHUNK_ROWS:
            raise self._error
        return self._rows[at]


@pytest.mark.parametrize("name", ["l2-mean", "cosine-mean-f32"])
@pytest.mark.parametrize("method", ["add", "upsert"])
@pytest.mark.parametrize("error", [SourceError, KeyboardInterrupt])
def test_mean_of_vectors_that_were_not_added_is_forgotten(name, method, error, tmp_path):
    index, untouched = (make(INDEXES[name], "integers", start=0) for _ in range(2))
    rows, ids = ReadTwice(5 + vectors(BATCH, 5), error()), ids_of("integers", 500, BATCH)
    with pytest.raises(error):
        index.add(rows, ids) if method == "add" else index.upsert(ids, rows)
    assert index.center is None
    assert_as_if_never_tried(index, untouched, "integers", tmp_path)


def wrong_calls(kind):
    """Return calls with wrong arguments."""
    first = "document 1020" if kind == "strings" else START - 1 if kind == "automatic" else 1020
    new = [f"new {i}" for i in range(4)] if kind == "strings" else [2000, 2001, 2002, 2003]
    other = [1, 2, 3, 4] if kind == "strings" else ["a", "b", "c", "d"]
    rows, wide = vectors(4, 6), np.zeros((4, DIM + 1), np.float32)
    negative, mixed = [-1, *range(2001, 2004)], ["a", 1, "b", 2]
    calls = {
        "add of a wrong dim": lambda index: index.add(wide, new),
        "add of text": lambda index: index.add(np.full((4, DIM), "x"), new),
        "add of duplicate ids": lambda index: index.add(rows, [*new[:3], new[0]]),
        "add of too few ids": lambda index: index.add(rows, new[:3]),
        "add of an existing id": lambda index: index.add(rows, [*new[:3], first]),
        "add of the first id again": lambda index: index.add(rows, [*new[:3], index.ids[0]]),
        "add of ids of the other kind": lambda index: index.add(rows, other),
        "add of negative ids": lambda index: index.add(rows, negative),
        "add of mixed ids": lambda index: index.add(rows, mixed),
        "upsert of a wrong dim": lambda index: index.upsert(new, wide),
        "upsert of duplicate ids": lambda index: index.upsert([first, *new[:2], first], rows),
        "upsert of too few ids": lambda index: index.upsert(new[:3], rows),
        "upsert of ids of the other kind": lambda index: index.upsert(other, rows),
        "upsert of negative ids": lambda index: index.upsert(negative, rows),
        "remove of ids of the other kind": lambda index: index.remove([other[0]]),
        "remove of a negative id": lambda index: index.remove([-1]),
        "remove of mixed ids": lambda index: index.remove([first, 1.5]),
        "merge of no index": lambda index: index.merge(rows),
        "merge of another dim": lambda index: index.merge(VQIndex(DIM + 1)),
        "merge of another seed": lambda index: index.merge(VQIndex(DIM, 4, "l2", keep_vectors="f32", seed=1)),
        "merge of other kept vectors": lambda index: index.merge(VQIndex(DIM, 4, "l2", keep_vectors="f16")),
    }
    if kind != "automatic":
        calls["add without ids"] = lambda index: index.add(rows)
    return calls


@pytest.mark.parametrize(("kind", "call"), [(kind, call) for kind in ID_KINDS for call in wrong_calls(kind)])
def test_refused_call_leaves_later_vectors_findable(kind, call, tmp_path):
    index, untouched = (make(INDEXES["l2-f32"], kind) for _ in range(2))
    with pytest.raises(InvalidInputError):
        wrong_calls(kind)[call](index)
    assert_as_if_never_tried(index, untouched, kind, tmp_path)


@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize("name", INDEXES)
def test_merge_of_an_existing_id_leaves_later_vectors_findable(name, kind, tmp_path):
    settings = dict(INDEXES[name])
    index, untouched = (make(settings, kind) for _ in range(2))
    if "center" in settings:
        settings["center"] = index.center
    other = VQIndex(DIM, **settings)
    other.add(vectors(BATCH, 5), ids_of(kind, START - 1, BATCH))
    with pytest.raises(InvalidInputError, match="already in the index"):
        index.merge(other)
    assert len(other) == BATCH
    assert_as_if_never_tried(index, untouched, kind, tmp_path)


@pytest.mark.parametrize("kind", ID_KINDS)
@pytest.mark.parametrize("name", INDEXES)
def test_merge_that_is_interrupted_leaves_later_vectors_findable(name, kind, tmp_path, monkeypatch):
    settings = dict(INDEXES[name])
    index, untouched = (make(settings, kind) for _ in range(2))
    if "center" in settings:
        settings["center"] = index.center
    other = VQIndex(DIM, **settings)
    other.add(vectors(BATCH, 5), ids_of(kind, 500, BATCH))
    whole = type(other._contents).batches

    def interrupted(contents, rows):
        batches = whole(contents, rows)
        yield next(batches)
        yield next(batches)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(other._contents), "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.merge(other)
    assert len(other) == BATCH
    assert_as_if_never_tried(index, untouched, kind, tmp_path)
    for one in (index, untouched):
        one.merge(other)
    assert observed(index) == observed(untouched)
    assert (
        index.ids[-BATCH:].tolist()
        == (other.ids if kind != "automatic" else index.ids[-1] - BATCH + 1 + other.ids).tolist()
    )
    assert index.reconstruct(index.ids[-BATCH:]).tobytes() == other.reconstruct(other.ids).tobytes()
    assert file_of(index, tmp_path, "changed.vqi") == file_of(untouched, tmp_path, "untouched.vqi")


def failing_removal(monkeypatch, error, when):
    """Make the last step of an upsert fail, the removal of rows: before or after it clears bits."""
    modules = [m for name, m in sys.modules.items() if name.startswith("vqindex.") and "clear_rows" in vars(m)]
    modules = [m for m in modules if not m.__name__.endswith("_native")]
    assert modules, "no module of vqindex clears bits of removed rows"
    clear = modules[0].clear_rows

    def failing(words, rows):
        if when == "after":
            clear(words, rows)
        raise error

    for module in modules:
        monkeypatch.setattr(module, "clear_rows", failing)


@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize("name", INDEXES)
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_upsert_that_fails_after_its_ids_were_taken_in_leaves_later_vectors_findable(
    name, kind, error, tmp_path, monkeypatch
):
    index, untouched = (make(INDEXES[name], kind) for _ in range(2))
    with monkeypatch.context() as patch:
        failing_removal(patch, error(), "before")
        with pytest.raises(error):
            index.upsert(ids_of(kind, START - 40, BATCH), vectors(BATCH, 5))
    assert_as_if_never_tried(index, untouched, kind, tmp_path)


@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize(
    "removed",
    [False, True],
)
def test_upsert_that_is_interrupted_after_it_removed_rows_brings_them_back(kind, removed, tmp_path, monkeypatch):
    pair = [VQIndex(DIM, 4, "l2", keep_vectors="f32") for _ in range(2)]
    for one in pair:
        one.add(vectors(START, 1), ids_of(kind, 0, START))
        if removed:
            one.remove(one.ids[3:9:2].tolist())
    index, untouched = pair
    with monkeypatch.context() as patch:
        failing_removal(patch, KeyboardInterrupt(), "after")
        with pytest.raises(KeyboardInterrupt):
            index.upsert(ids_of(kind, START - 4, 8), vectors(8, 5))
    assert_as_if_never_tried(index, untouched, kind, tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ID_KINDS)
@pytest.mark.parametrize("removed", [0, 3])
def test_removal_that_is_interrupted_removes_nothing(kind, when, removed, monkeypatch):
    index = make(INDEXES["l2-f32"], kind)
    index.remove(index.ids[:removed].tolist())
    count, going = len(index), index.ids[5:12].tolist()
    with monkeypatch.context() as patch:
        failing_removal(patch, KeyboardInterrupt(), when)
        with pytest.raises(KeyboardInterrupt):
            index.remove(going)
    assert len(index) == index.ids.size == count
    assert index.remove(going) == 7
    assert len(index) == index.ids.size == count - 7
    assert len(index.search(vectors(1, 5), count, confidence=1).ids[0]) == count
    assert_more_vectors_find_themselves(index, kind)


@pytest.mark.parametrize("kind", ID_KINDS)
def test_change_that_failed_can_be_made_again(kind, tmp_path):
    index, untouched = (make(INDEXES["l2-f32"], kind) for _ in range(2))
    rows, error = spoiled("exception of the source")
    ids = ids_of(kind, 500, BATCH)
    with pytest.raises(error):
        index.add(rows, ids)
    for one in (index, untouched):
        one.add(vectors(BATCH, 5), ids)
    assert_as_if_never_tried(index, untouched, kind, tmp_path)


def test_add_that_fails_with_chunks_of_their_true_size_leaves_later_vectors_findable(monkeypatch):
    monkeypatch.undo()
    dim = 8192
    rows = np.random.default_rng(0).standard_normal((1100, dim), dtype=np.float32)
    index = VQIndex(dim, 1, "l2", codec="turboquant-mse")
    index.add(rows[:100])
    bad = rows[100:].copy()
    bad[-1, -1] = np.nan
    with pytest.raises(InvalidInputError, match=r"vectors\[999, 8191\]"):
        index.add(bad)
    index.add(rows[100:200])
    assert len(index) == 200
    assert index.search(rows[:200], 1).ids[:, 0].tolist() == list(range(200))


# ---- durable indexes


def open_pair(tmp_path, settings, kind):
    """Return two equal stores with a commit, removed rows and uncommitted vectors."""
    pair = []
    for name in ("changed", "untouched"):
        index = open_with(tmp_path / name, dim=DIM, **settings)
        index.add(vectors(START, 1), ids_of(kind, 0, START))
        index.commit()
        index.remove(index.ids[3:9:2].tolist())
        index.add(vectors(40, 4), ids_of(kind, 300, 40))
        pair.append(index)
    return pair


def assert_same_when_reopened(pair, tmp_path):
    seen = []
    for index in pair:
        index.commit()
        seen.append(observed(index))
        folder = index.path
        index.close()
        with vqindex.open(folder) as again:
            assert observed(again) == seen[-1]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", ID_KINDS)
@pytest.mark.parametrize("name", INDEXES)
def test_add_that_fails_between_commits_leaves_later_vectors_findable(name, kind, tmp_path):
    index, untouched = pair = open_pair(tmp_path, INDEXES[name], kind)
    rows, error = spoiled("keyboard interrupt")
    with pytest.raises(error):
        index.add(rows, ids_of(kind, 500, BATCH))
    assert_as_if_never_tried(index, untouched, kind, tmp_path)
    assert_same_when_reopened(pair, tmp_path)


@pytest.mark.parametrize("kind", ID_KINDS)
@pytest.mark.parametrize("name", ["l2", "cosine-mean-f32", "no-sign-bits", "ip-f16"])
@pytest.mark.parametrize("at", [0, 1, 5])
def test_commit_on_a_full_disk_leaves_later_vectors_findable(name, kind, at, tmp_path):
    index, untouched = pair = open_pair(tmp_path, INDEXES[name], kind)
    whole = index._commits.directory
    index._commits.directory = FaultyDirectory(index.path, at, "full", 0.5)
    with pytest.raises(OSError, match="No space left"):
        index.commit()
    index._commits.directory = whole
    assert_as_if_never_tried(index, untouched, kind, tmp_path)
    assert_same_when_reopened(pair, tmp_path)


def test_commit_that_fails_at_any_call_can_be_followed_by_additions_and_another(tmp_path):
    def attempt(at):
        folder = tmp_path / str(at)
        folder.mkdir()
        index, untouched = pair = open_pair(folder, INDEXES["l2-f32"], "strings")
        whole, directory = index._commits.directory, FaultyDirectory(index.path, at, "raise")
        index._commits.directory = directory
        try:
            index.commit()
            failed = False
        except OSError:
            failed = True
        index._commits.directory = whole
        whole._published.add(whole.version("manifest"))  # which `directory` may have replaced, not another writer
        # A failed removal of an unused file does not fail the commit; the file stays.
        assert failed == (at is not None and directory.calls[at][0] != "remove")
        assert_more_vectors_find_themselves(index, "strings")
        assert_more_vectors_find_themselves(untouched, "strings")
        assert_same_when_reopened(pair, tmp_path)
        return directory.calls

    calls = attempt(None)
    kinds = [what for what, _ in calls]
    others = [at for at, what in enumerate(kinds) if what != "write"]
    writes = [at for at, what in enumerate(kinds) if what == "write"]
    for at in sorted([*others, *writes[:: max(1, len(writes) // 8)]]):
        attempt(at)
