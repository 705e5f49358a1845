"""A process that changes the subject, and writes down what it intends and what the library acknowledged."""

import os
import shutil
import signal
import time
from contextlib import contextmanager, nullcontext

from vqindex import StoreError
from vqindex.directory.lock import LOCK

from . import troubles
from .board import SLOTS
from .model import Loss, State, check_index, holds
from .subject import names_in

__all__ = ["Writer"]

_MOST_ROWS = 220
_POOL = 400  # ids that writers choose from
_PATIENCE = 10  # seconds to wait for a lock whose holder is gone; a forked child may hold it for a moment


class Writer:
    """One writer. `run` goes on until the round ends.

    Parameters
    ----------
    round : Round
        What the processes of a round share.
    name : str
        Name in the journal.
    slot : int
        Number of the process.
    random : random.Random
        Chooses what it does.
    """

    def __init__(self, round, name, slot, random):
        self.round, self.name, self.slot, self.random = round, name, slot, random
        self.subject, self.setup, self.journal = round.subject, round.setup, round.journal
        self.count = round.board.counter(slot)
        self.interrupts = troubles.Interrupts(random)
        self.put = round.broken or Writer.put_safely
        self.puts = 0
        self.refused_since = None

    def run(self):
        os.chdir(self.subject.folder)
        while not self.round.board.stopping:
            self.session()

    # ---- a session: open, change and put several times, close

    def session(self):
        start = self.journal.clock()
        index = self.try_to_open()
        if index is None:
            return
        self.refused_since = None
        try:
            self.begin(index, start)
            for _ in range(self.random.randint(1, 12)):
                for _ in range(self.random.randint(1, 3)):
                    self.change(index)
                if not self.put(self, index) or self.round.board.stopping or self.trouble(index):
                    break
        finally:
            self.subject.close(index)

    def try_to_open(self):
        """Open the subject, perhaps with an interrupt; return None if that failed."""
        opened = []
        with self.disturbed() as allowed:
            try:
                if not self.call("open", lambda: opened.append(self.open())):
                    return opened[0]
            except StoreError as error:
                self.wait_for_lock(error)
            except OSError as error:
                if error.errno not in allowed:
                    raise
        for index in opened:
            self.subject.close(index)
        if self.subject.is_store and str(self.subject.path / LOCK) in troubles.locked_files():
            raise Loss("an open that failed keeps the lock")
        return None

    def open(self):
        """Open the subject; stores often by a relative path, which must lead to the same folder after a chdir."""
        mmap = self.random.random() < 0.7
        if self.random.random() < 0.5:
            return self.subject.edit(mmap=mmap)
        os.chdir(self.subject.folder)
        index = self.subject.edit(self.subject.path.name, mmap=mmap)
        if self.subject.is_store:
            os.chdir(self.round.decoy)
            self.count("chdirs")
        return index

    def wait_for_lock(self, error):
        if "is open for writing by" not in str(error):
            raise error
        now = time.monotonic()
        self.refused_since = self.refused_since or now
        if not self.round.competing and now > self.refused_since + _PATIENCE:
            raise Loss(f"the lock is still held after {_PATIENCE} seconds, by nobody: {error}")
        self.count("refused second writers")
        time.sleep(0.01)

    def begin(self, index, start):
        """Check what was opened, and write it down."""
        state = self.journal.state_found(index.meta.get("state", 0), start, self.journal.clock())
        check_index(index, state, self.setup, self.random)
        self.journal.find(self.name, state, start)
        self.count("opened to write")
        self.base, self.rows, self.next_id = state.number, state.rows, state.next_id
        self.is_settled = True  # the state `base` is on disk, as far as this writer knows
        self.last = max(self.journal.last_number(), *(version for _, version in state.rows), 0)

    def number(self):
        """Return a new number for a change or a state, which no other process chooses."""
        self.last = (self.last // SLOTS + 1) * SLOTS + self.slot
        return self.last

    # ---- changes

    def change(self, index):
        """Make one change, perhaps interrupted: then it is made as a whole or not at all."""
        version = self.number()
        kinds = ["add", "upsert", "remove", *([] if self.subject.is_store else ["compact"])]
        if len(self.rows) > _MOST_ROWS:
            kinds = ["remove"]
        elif len(self.rows) < 10:
            kinds = ["add"]
        kind = self.random.choice(kinds)
        work, after, next_id = getattr(self, f"plan_{kind}")(index, version)
        before = State(self.base, self.rows)
        if self.call(kind, work):
            self.count("interrupted changes")
            if holds(index, before, self.setup, self.random):
                return
            if not holds(index, State(self.base, after), self.setup, self.random):
                raise Loss(
                    f"an interrupted {kind} left neither the {len(self.rows)} vectors of before nor the {len(after)} "
                    f"of after: {len(index)} vectors, {len(index.ids)} ids"
                )
        self.rows, self.next_id = after, next_id

    def plan_add(self, index, version):
        count = self.random.randint(1, self.setup.most_rows)
        if self.setup.ids == "automatic":
            ids, given = list(range(self.next_id, self.next_id + count)), None
        else:
            ids = given = self.fresh_ids(count)
        new = tuple((id, version) for id in ids)
        vectors = self.setup.vectors(new)
        return lambda: index.add(vectors, given), self.rows + new, self.next_id + (count if given is None else 0)

    def fresh_ids(self, count):
        taken = {id for id, _ in self.rows}
        free = [id for id in map(self.setup.id_of, range(_POOL)) if id not in taken]
        return self.random.sample(free, min(count, len(free)))

    def present_ids(self, most):
        ids = [id for id, _ in self.rows]
        return self.random.sample(ids, self.random.randint(1, min(most, len(ids))))

    def plan_upsert(self, index, version):
        ids = self.present_ids(20)
        if self.setup.ids != "automatic":
            ids += self.fresh_ids(5)
            self.random.shuffle(ids)
        new = tuple((id, version) for id in ids)
        vectors = self.setup.vectors(new)
        return lambda: index.upsert(ids, vectors), self.without(ids) + new, self.next_id

    def plan_remove(self, index, version):
        ids = self.present_ids(len(self.rows) - 1)
        missing = [self.setup.id_of(10 * _POOL + self.next_id)]
        return lambda: index.remove(ids + missing), self.without(ids), self.next_id

    def plan_compact(self, index, version):
        return index.compact, self.rows, self.next_id

    def without(self, ids):
        gone = set(ids)
        return tuple(row for row in self.rows if row[0] not in gone)

    def call(self, kind, work):
        """Do something, perhaps with an interrupt; return whether it was interrupted."""
        if self.round.broken is None and self.random.random() < 0.4:
            return self.interrupts.run(kind, work)
        work()
        return False

    # ---- commits and saves

    def put_safely(self, index):
        """Put the changes on disk; return whether the session can go on.

        What fails is tried again, or the index is opened anew.
        """
        state = self.intended(index)
        self.journal.intend(self.name, state, self.base)
        failure = self.try_to_put(index)
        if failure is None:
            self.journal.acknowledge(self.name)
            self.count("acknowledged")
            self.base, self.is_settled = state.number, True
            return True
        self.is_settled = False
        self.journal.fail(self.name)
        self.count(failure)
        check_index(index, state, self.setup, self.random)
        return failure != "refused saves" and self.random.random() < 0.7

    def try_to_put(self, index):
        """Put the changes on disk, perhaps in difficulties; return None, or what happened."""
        with self.disturbed() as allowed:
            try:
                was_interrupted = self.call("put", lambda: self.subject.put(index, self.random))
            except OSError as error:
                if error.errno not in allowed:
                    raise
                return "commits without room"
            except StoreError:
                if self.subject.is_store or not self.round.competing:
                    raise
                return "refused saves"
        return "interrupted commits" if was_interrupted else None

    def intended(self, index):
        """Return the state of the index, and note its number in it."""
        state = State(self.number(), self.rows, self.next_id)
        index.meta["state"] = state.number
        return state

    @contextmanager
    def disturbed(self):
        """Perhaps take away space or descriptors; yield the errors that may come of it."""
        if self.round.broken is not None:
            yield set()
            return
        kind = self.random.choice([*["nothing"] * 6, "size", "descriptors", *["full"] * (2 * self.round.on_small_disk)])
        left = self.random.randrange(2**16)
        context = {
            "nothing": nullcontext,
            "size": lambda: troubles.file_size_limit(left),
            "descriptors": lambda: troubles.few_descriptors(self.random.randrange(6)),
            "full": lambda: troubles.full_disk(self.subject.folder.parent, left),
        }[kind]
        with context() as error:
            yield {error, *self.round.may_happen}

    # ---- what befalls an open index

    def trouble(self, index):
        """Perhaps do something to the process or the folder; return whether the session is over."""
        if self.round.broken is not None:
            return False
        if self.random.random() < 0.1:
            self.fork(index)
        if self.subject.is_store and not self.round.competing:
            if self.random.random() < 0.15:
                self.move(index)
            if self.is_settled and self.random.random() < 0.2:
                return self.back_up_or_restore(index)
        return False

    def fork(self, index):
        """Let a forked child search; it must not change a store."""
        state = State(self.base, self.rows)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                check_index(index, state, self.setup, self.random)
                code = 0
                if self.subject.is_store:
                    code = 2
                    try:
                        index.remove([self.setup.id_of(0)])
                    except StoreError:
                        code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            raise Loss(f"a forked child {'could change the store' if code == 2 else 'answered otherwise'} (rc {code})")
        self.count("forks")

    def move(self, index):
        """Move the store away, with a copy in its place: the writer refuses, and goes on when it is back."""
        self.journal.move(self.name, True)
        with troubles.moved_away(self.subject.path) as folders:
            self.must_refuse(index, folders)
        self.journal.move(self.name, False)
        self.count("moved folders")

    def must_refuse(self, index, folders):
        before = [names_in(folder) for folder in folders]
        state = self.intended(index)
        self.journal.intend(self.name, state, self.base)
        try:
            self.subject.put(index, self.random)
        except StoreError:
            pass
        else:
            raise Loss("a commit into a folder that was moved away and replaced was acknowledged")
        self.journal.fail(self.name)
        if [names_in(folder) for folder in folders] != before:
            raise Loss("a refused commit changed a folder that was moved away, or the one in its place")

    def back_up_or_restore(self, index):
        """Copy the store to a backup, or put that in place of the store; return whether the session is over."""
        backup = self.subject.folder / "backup"
        saved = self.subject.folder / "backup.state"
        if not saved.exists():
            shutil.rmtree(backup, ignore_errors=True)
            shutil.copytree(self.subject.path, backup)
            saved.write_text(str(self.base))
            return False
        state = self.journal.state_numbered(int(saved.read_text()))
        saved.unlink()
        self.journal.intend(self.name, state, None, restores=True)
        self.journal.move(self.name, True)
        replaced = troubles.restored(self.subject.path, backup)
        self.journal.move(self.name, False)
        self.journal.acknowledge(self.name)
        self.must_refuse(index, (replaced, self.subject.path))
        shutil.rmtree(replaced)
        self.count("restored backups")
        return True


# ---- broken writers, by which tests see that the soak notices


def _acknowledge_first(writer, index):
    """Acknowledge before the commit, and be killed in between."""
    writer.puts += 1
    if writer.puts < 3:
        return writer.put_safely(index)
    writer.journal.intend(writer.name, writer.intended(index), writer.base)
    writer.journal.acknowledge(writer.name)
    os.kill(os.getpid(), signal.SIGKILL)
    return False


def _write_in_place(writer, index):
    """Write half of the new file over the old one, and be killed."""
    writer.puts += 1
    if writer.puts < 3:
        return writer.put_safely(index)
    writer.journal.intend(writer.name, writer.intended(index), writer.base)
    aside = writer.round.folder / "aside.vqi"
    index.save(aside)
    data = aside.read_bytes()
    with writer.subject.path.open("r+b") as file:
        file.truncate(0)
        file.write(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
    return False


def _forget_a_change(writer, index):
    """Leave one vector out, and acknowledge all."""
    writer.puts += 1
    if writer.puts == 3:
        index.remove([writer.rows[0][0]])
    return writer.put_safely(index)


def _mix_versions(writer, index):
    """Keep the old version of a vector of which a new one is acknowledged."""
    writer.puts += 1
    if writer.puts == 3:
        id, _ = writer.rows[-1]
        writer.rows = (*writer.rows[:-1], (id, writer.number()))
    return writer.put_safely(index)


BROKEN = {
    "acknowledges-first": _acknowledge_first,
    "writes-in-place": _write_in_place,
    "forgets-a-change": _forget_a_change,
    "mixes-versions": _mix_versions,
}
