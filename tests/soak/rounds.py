"""One round: a subject, processes that write and read it, and kills; then a last look at what is left."""

import errno
import faulthandler
import os
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from vqindex import OffsetWarning

from . import troubles
from .board import Board
from .journal import Journal
from .model import Loss, Setup, check_index
from .reader import Reader
from .subject import names_in
from .writer import Writer

__all__ = ["KINDS", "Round", "run_round"]

KINDS = ("store", "file", "store with two writers", "file with two writers")
_READERS = 2
_PATIENCE = 60  # seconds that a process may take to end


@dataclass(eq=False)
class Round:
    """What the processes of a round share.

    Attributes
    ----------
    folder : Path
        Holds everything.
    subject : FileSubject or StoreSubject
        What is written and read.
    setup : Setup
        The kind of index.
    journal : Journal
        What was written.
    board : Board
        Counts of the whole soak.
    competing : bool
        Whether there are two writers.
    on_small_disk : bool
        Whether the subject's disk may be filled.
    broken : function or None
        A wrong `Writer.put`. Nothing else disturbs such a round.
    """

    folder: Path
    subject: Any
    setup: Setup
    journal: Journal
    board: Board
    competing: bool
    on_small_disk: bool
    broken: Any

    @property
    def may_happen(self):
        """Error numbers that any writer may meet: on the small disk, another one may have filled it."""
        return {errno.ENOSPC} if self.on_small_disk and self.competing else set()

    @property
    def decoy(self):
        """A folder with a store of the subject's name."""
        return self.folder / "elsewhere"


@dataclass
class _Process:
    """A running process, and how to start another like it."""

    kind: type
    name: str
    slot: int
    pid: int = 0
    starts: int = 0


class _Processes:
    """Starts, kills and awaits the processes of a round."""

    def __init__(self, round, seed):
        self._round, self._seed = round, seed
        writers = [_Process(Writer, f"writer {i}", i) for i in range(1 + round.competing)]
        readers = [_Process(Reader, f"reader {i}", len(writers) + i) for i in range(_READERS)]
        self._all = writers + readers
        for process in self._all:
            self._start(process)

    def _start(self, process):
        process.starts += 1
        random = Random(f"{self._seed}/{process.name}/{process.starts}")
        process.pid = start(self._round, lambda: process.kind(self._round, process.name, process.slot, random).run())

    def kill_one(self, random):
        """Kill a process at random, and start another in its place."""
        process = random.choice(self._all)
        os.kill(process.pid, signal.SIGKILL)
        self._await(process, time.monotonic() + _PATIENCE)
        self._start(process)
        return process.kind.__name__.lower()

    def _bury(self, process):
        if process.kind is Writer:
            troubles.repair(self._round.subject)
            self._round.journal.bury(process.name)

    def check(self):
        """Raise Loss if a process has ended by itself."""
        for process in self._all:
            if self._has_ended(process):
                self._start(process)

    def _has_ended(self, process):
        """Return whether a process has ended, by a kill or in good order; raise Loss if it ended otherwise."""
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if not pid:
            return False
        process.pid, code = 0, os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:  # by `kill_one`, or by itself
            self._bury(process)
            return True
        if code and code != _FAILED:
            raise Loss(f"{process.name} ended with {code}; expected 0")
        if code:
            raise Loss(f"{process.name}: {(self._round.folder / 'failures.log').read_text()}")
        return True

    def _await(self, process, until):
        while not self._has_ended(process):
            if time.monotonic() > until:
                os.kill(process.pid, signal.SIGUSR1)
                time.sleep(1)
                log = (self._round.folder / "stderr.log").read_text()
                raise Loss(f"{process.name} hangs: it did not end within {_PATIENCE} seconds\n{log}")
            time.sleep(0.005)

    def end(self):
        """Let all processes end."""
        until = time.monotonic() + _PATIENCE
        for process in self._all:
            if process.pid:
                self._await(process, until)

    def kill(self):
        """Kill what still runs."""
        for process in self._all:
            if process.pid:
                os.kill(process.pid, signal.SIGKILL)
                os.waitpid(process.pid, 0)


_FAILED = 3  # exit code of a process that found a loss


def start(round, work):
    """Run a function in a forked process, which then ends as a program does; return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    warnings.simplefilter("ignore", OffsetWarning)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    log = os.open(round.folder / "stderr.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.register(signal.SIGUSR1, file=2)  # where it hangs
    try:
        work()
    except BaseException:
        with (round.folder / "failures.log").open("a") as file:
            traceback.print_exc(file=file)
        sys.exit(_FAILED)  # through the frames of the parent to the end of the interpreter, which may crash
    sys.exit(0)


def run_round(round, seed, seconds):
    """Create the subject, disturb those who use it for some seconds, and check what is left; raise Loss."""
    me, random = os.getpid(), Random(seed)
    round.journal.start()
    if round.subject.is_store:
        troubles.decoy(round.decoy, round.subject)
        decoy = names_in(round.decoy / round.subject.path.name)
    count = round.board.counter(-1)
    round.board.stop(False)
    processes = _Processes(round, seed)
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(random.uniform(0.01, 0.4))
            processes.check()
            if round.broken is None:
                count(f"killed {processes.kill_one(random)}s")
        round.board.stop()
        processes.end()
        finish(round, random)
        if round.subject.is_store and names_in(round.decoy / round.subject.path.name) != decoy:
            raise Loss(f"the store in {round.decoy} changed, which only has the same name")
    finally:
        if os.getpid() == me:  # forked processes come through here, too
            processes.kill()
    count("rounds")


def finish(round, random):
    """Check what a round has left, in a process of its own: what is there is the last that was acknowledged."""

    def look():
        subject, journal = round.subject, round.journal
        start = journal.clock()
        index = subject.edit()
        state = journal.state_found(index.meta.get("state", 0), start, journal.clock())
        check_index(index, state, round.setup, random, len(state.rows))
        index.meta["finished"] = True
        subject.put(index, random)
        subject.close(index)
        check_index(subject.open(), state, round.setup, random)
        subject.verify()
        if left := subject.leftovers():
            raise Loss(f"files are left that nobody needs: {left}")
        if not journal.restored and (replaced := journal.overwritten()):
            raise Loss(f"states {replaced} were acknowledged, and replaced by writers that had not read them")
        round.board.counter(-1)("last looks")

    pid = start(round, look)
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        log = round.folder / "failures.log"
        raise Loss(f"last look: {log.read_text() if log.exists() else f'ended with {code}'}")
