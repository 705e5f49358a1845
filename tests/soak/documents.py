"""``python -m soak.documents``: documents that several processes write, read and are killed over.

Commit number c makes changes that follow from c alone, so everything that a commit holds is known. A writer appends c
to a journal after `commit` has returned. Readers compare all they see with the changes 1 to c: every text, its
metadata and its vector carry the same number. In the end no commit of the journal may be missing.
"""

import argparse
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from vqindex import StoreBusyError, documents
from vqindex.documents import stored_columns

__all__ = ["changes_of", "check", "expected_after", "lower_columns", "soak", "write_once"]

IDS, DIM = 120, 12
COMMIT = "commit"  # the document that holds the number of the last commit
ROLES = ("writer", "would-be writer", "would-be writer", *["reader"] * 6)
_NUMBER = struct.Struct("<q")
# Limits of stored columns at which this few documents have columns, in several chunks, that commits often write.
_LOW_LIMITS = {"CHUNK": 64, "_FEWEST": 16, "_MOST_STALE": 24, "_MOST_RANGES": 12, "_MOST_BEHIND": 16, "_SHARE": 1000}


def lower_columns():
    """Let this process, and those that it forks, store columns of few documents."""
    for name, value in _LOW_LIMITS.items():
        assert hasattr(stored_columns, name), name
        setattr(stored_columns, name, value)


def vector_of(name, number):
    """Return the vector of a document: its number, and a direction of its own."""
    direction = np.random.default_rng(int(name) if name.isdecimal() else 999).standard_normal(DIM - 1)
    return np.concatenate([[number], 100 * direction]).astype(np.float32)


def changes_of(number):
    """Return what a commit does: (ids to write, ids to delete)."""
    rng = random.Random(number)
    if number % 60 == 0:  # more at once than wait in the database
        return [str(i) for i in range(IDS)], []
    chosen = rng.sample(range(IDS), rng.randrange(2, 12))
    cut = rng.randrange(len(chosen)) if number % 3 == 0 else len(chosen)
    return [str(i) for i in chosen[:cut]], [str(i) for i in chosen[cut:]]


class Replay:
    """What documents there are after each commit."""

    def __init__(self):
        self.number, self.state = 0, {}

    def after(self, number):
        """Return {id: number} after a commit."""
        if number < self.number:
            self.__init__()
        while self.number < number:
            self.number += 1
            written, deleted = changes_of(self.number)
            self.state.update(dict.fromkeys([*written, COMMIT], self.number))
            for name in deleted:
                self.state.pop(name, None)
        return self.state


def expected_after(number):
    """Return {id: number} after a commit."""
    return dict(Replay().after(number))


def write_once(store, journal=None):
    """Make the next commit, whoever made the last one; return its number."""
    store.delete(["nobody"])  # takes the right to write, and the last commit
    found = store.get([COMMIT])
    number = 1 + (found[0].metadata["n"] if found else 0)
    written, deleted = changes_of(number)
    names = [*written, COMMIT]
    store.upsert(
        [f"{name} is {number}" for name in names],
        np.stack([vector_of(name, number) for name in names]),
        metadata=[{"n": number, "half": number // 2} for _ in names],
        ids=names,
    )
    store.delete(deleted)
    store.commit()
    if journal is not None:
        os.write(journal, _NUMBER.pack(number))
    return number


def check(store, replay, rng):
    """Compare what a store shows with the changes that lead to its commit; return the commit's number."""
    found = {each.id: each for each in store.list(vectors=True)}
    number = found[COMMIT].metadata["n"] if found else 0
    expected = replay.after(number)
    seen = {name: each.metadata["n"] for name, each in found.items()}
    assert seen == expected, (number, sorted(set(seen.items()) ^ set(expected.items()))[:10])
    assert len(store) == store.count() == len(expected)
    for name, each in found.items():
        assert_one(name, each, expected)
    if expected:
        name = rng.choice(sorted(expected))
        hits = store.search(vector_of(name, expected[name]), 5, rerank=True, vectors=True)
        assert hits[0].id == name, (number, name, hits)
        hits += store.search(vector_of(name, number), 5, where={"half": {"$gte": number // 3}}, vectors=True)
        hits += store.search(text=f"{name} is", k=5, vectors=True)
        for hit in hits:
            assert_one(hit.id, hit, expected)
    return number


def assert_one(name, document, expected):
    """Raise AssertionError unless text, metadata and vector are of one version, the one that is expected."""
    number = expected[name]
    assert document.text == f"{name} is {number}", (document, number)
    assert document.metadata == {"n": number, "half": number // 2}, (document, number)
    assert np.array_equal(document.vector, vector_of(name, number)), (document, number)


# ---- processes


def write(folder, journal, rng):
    while True:
        store = documents.open(folder, autocommit=False, keep_vectors="f32", metric="l2", timeout=60)
        for _ in range(rng.randrange(1, 60)):
            write_once(store, journal)
        store.close()


def try_to_write(folder, journal, rng):
    """Write now and then, and give up at once where another process writes."""
    while True:
        with documents.open(folder, autocommit=False, keep_vectors="f32", metric="l2", timeout=0.01) as store:
            for _ in range(rng.randrange(1, 5)):
                try:
                    write_once(store, journal)
                except StoreBusyError as error:
                    if "is open for writing by process" not in str(error):
                        raise
                time.sleep(rng.random() * 0.02)


def read(folder, journal, rng):
    replay = Replay()
    while True:
        with documents.open(folder, "r") as store:
            for _ in range(rng.randrange(1, 8)):
                number = check(store, replay, rng)
                time.sleep(rng.random() * 0.01)
                assert check(store, replay, rng) == number
                store.refresh()


WORK = {"writer": write, "would-be writer": try_to_write, "reader": read}


def start(role, folder, seed):
    """Fork a process of a role; return its id."""
    pid = os.fork()
    if pid:
        return pid
    journal = os.open(folder.with_name("journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        WORK[role](folder, journal, random.Random(seed))
    except BaseException:
        with folder.with_name("failures").open("a") as file:
            file.write(f"{role}\n{traceback.format_exc()}\n")
    finally:
        os._exit(1)


def last_look(folder, rng, seed):
    """Check the store, copies of it, and that no acknowledged commit is missing; return the number of commits."""
    journal = folder.with_name("journal")
    data = journal.read_bytes() if journal.exists() else b""
    numbers = [number for (number,) in _NUMBER.iter_unpack(data[: len(data) // 8 * 8])]
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    for path in (folder, copy):
        with documents.open(path, "r") as store:
            last = check(store, Replay(), rng)
            store.verify()
        assert last >= max(numbers, default=0), f"commit {max(numbers)} was acknowledged; the last one is {last}"
        assert len(set(numbers)) == len(numbers), "two commits had one number"
    with documents.open(copy, autocommit=False, keep_vectors="f32", metric="l2") as store:
        assert write_once(store) == last + 1
    with documents.open(copy, "r") as store:
        assert check(store, Replay(), rng) == last + 1
    names = set(os.listdir(copy))
    shutil.rmtree(copy)
    assert not {name for name in names if name.endswith(("-wal", "-shm", ".tmp"))}, names
    return last


def soak(folder, seconds, seed, pause=(0.02, 0.4), roles=ROLES):
    """Let processes work on documents in a new folder, and kill one now and then; return counts of what happened.

    Raises
    ------
    AssertionError
        If anything is lost, mixed, or not whole.
    """
    rng, failures = random.Random(seed), folder.with_name("failures")
    documents.open(folder, keep_vectors="f32", metric="l2", dim=DIM).close()
    running = {start(role, folder, f"{seed}/{number}"): role for number, role in enumerate(roles)}
    counts, until = {"kills": 0}, time.monotonic() + seconds
    try:
        while time.monotonic() < until and not failures.exists():
            time.sleep(rng.uniform(*pause))
            victim = rng.choice(sorted(running))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            role = running.pop(victim)
            counts["kills"] += 1
            running[start(role, folder, f"{seed}/{counts['kills']}/{role}")] = role
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert not failures.exists(), failures.read_text()
    counts["commits"] = last_look(folder, rng, seed)
    return counts


def main(arguments=None):
    """Soak for some time; return 0 if nothing was lost."""
    parser = argparse.ArgumentParser(prog="soak.documents", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="how long, about (default 600)")
    parser.add_argument("--seed", type=int, help="of all choices; moments differ from run to run")
    parser.add_argument("--columns", action="store_true", help="store columns, as for many documents")
    options = parser.parse_args(arguments)
    if options.columns:
        lower_columns()
    seed = int(time.time()) if options.seed is None else options.seed
    until, number = time.monotonic() + options.seconds, 0
    print(f"soak of documents: seed {seed}, {options.seconds:g} s{', with columns' * options.columns}", flush=True)
    while time.monotonic() < until:
        base = Path(tempfile.mkdtemp(prefix="vqindex-soak-"))
        try:
            counts = soak(base / "store", min(20, max(1, until - time.monotonic())), f"{seed}/{number}")
        except AssertionError as loss:
            print(f"LOST with --seed {seed}; everything is kept in {base}\n{loss}")
            return 1
        print(f"round {number}: {', '.join(f'{times} {kind}' for kind, times in counts.items())}", flush=True)
        shutil.rmtree(base)
        number += 1
    print("nothing lost")
    return 0


if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    sys.exit(main())
