"""What befalls the processes of a soak from inside: interrupts, full disks, limits, and folders that are moved."""

import errno
import linecache
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

__all__ = [
    "Interrupts", "decoy", "few_descriptors", "file_size_limit", "full_disk", "in_namespace", "locked_files",
    "mount_disk", "moved_away", "repair", "restored", "unmount_disk",
]  # fmt: skip


class Interrupts:
    """Raises KeyboardInterrupt in this process, once, somewhere in a call.

    A timer does so at a random moment, which is nearly always inside of a long operation. To meet also the moments
    between two short ones, a trace function does so before a random line of the library.
    """

    def __init__(self, random):
        self._random, self._armed = random, False
        self._lengths = {}  # of calls of a kind, in seconds and in lines
        signal.signal(signal.SIGALRM, self._handle)

    def run(self, kind, work):
        """Run `work`, a call of some kind, with an interrupt at some moment; return whether it was interrupted."""
        by, guess = self._random.choice([(self._at_moment, 0.005), (self._at_line, 300)])
        at = self._random.uniform(0, 1.2 * self._lengths.get((by.__name__, kind), guess))
        try:
            self._lengths[by.__name__, kind] = by(at, work)
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.settrace(None)
        return False

    def _handle(self, signum, frame):
        if self._armed:
            raise KeyboardInterrupt

    def _at_moment(self, delay, work):
        begin = time.monotonic()
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))
            work()
        finally:
            self._armed = False
        return time.monotonic() - begin

    def _at_line(self, number, work):
        lines, entered = 0, set()

        def trace_line(frame, event, arg):
            nonlocal lines
            if event == "line":
                lines += 1
                # Python reports the line of a `with` again before it leaves the block. No signal comes there.
                is_exit = (id(frame), frame.f_lineno) in entered
                if linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
                    entered.add((id(frame), frame.f_lineno))
                if lines > number and not is_exit:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            elif event == "return":
                entered.difference_update([entry for entry in entered if entry[0] == id(frame)])
            return trace_line

        def trace_call(frame, event, arg):
            return trace_line if frame.f_globals.get("__name__", "").startswith("vqindex.") else None

        sys.settrace(trace_call)
        try:
            work()
        finally:
            sys.settrace(None)
        return lines


@contextmanager
def _limited(what, limit):
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@contextmanager
def file_size_limit(size):
    """Let writes past `size` bytes fail with EFBIG. (Python ignores SIGXFSZ.)"""
    with _limited(resource.RLIMIT_FSIZE, size):
        yield errno.EFBIG


@contextmanager
def few_descriptors(more):
    """Let this process open no descriptor above the `more` lowest free ones."""
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    with _limited(resource.RLIMIT_NOFILE, free + more):
        yield errno.EMFILE


@contextmanager
def full_disk(folder, left):
    """Fill the file system of a folder, but for `left` bytes."""
    ballast = folder / f"ballast-{os.getpid()}"
    try:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(2**16))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            file.truncate(max(0, file.tell() - left))
        yield errno.ENOSPC
    finally:
        ballast.unlink(missing_ok=True)


def locked_files():
    """Return the paths of all files on which a descriptor of this process has a lock."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{number}"):  # the descriptor of the listing itself is closed by now
            path = os.readlink(f"/proc/self/fd/{number}")
            with open(f"/proc/self/fdinfo/{number}") as file:
                found += [path for line in file if line.startswith("lock:")]
    return found


# ---- a small disk, which only the processes of the soak see


def _succeeds(*command):
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def in_namespace(arguments):
    """Return a command that runs the soak where it may mount file systems that nobody else sees; None if none can."""
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    return [*inside, sys.executable, "-m", "soak", *arguments] if _succeeds(*inside, "true") else None


def mount_disk(folder, size):
    """Mount a file system of `size` bytes on a folder; return whether that worked."""
    return _succeeds("mount", "-t", "tmpfs", "-o", f"size={size}", "soak", str(folder))


def unmount_disk(folder):
    """Undo `mount_disk`."""
    _succeeds("umount", str(folder))


# ---- folders


# A store that is moved away and comes back, with a copy in its place meanwhile; and one that is replaced for good.
def _aside(store):
    return [store.with_name(store.name + ending) for ending in (".away", ".copy", ".replaced")]


@contextmanager
def moved_away(store):
    """Move a store away and put a copy in its place; yield both folders. At the end it is as before."""
    away, copy, _ = _aside(store)
    shutil.copytree(store, copy)
    store.rename(away)
    copy.rename(store)
    try:
        yield away, store
    finally:
        store.rename(copy)
        away.rename(store)
        shutil.rmtree(copy)


def restored(store, backup):
    """Put a backup in the place of a store; return the folder to which that was moved, to be removed."""
    replaced = _aside(store)[2]
    store.rename(replaced)
    backup.rename(store)
    return replaced


def repair(subject):
    """Remove what a killed writer has filled the disk with, and put a store back that it has moved away."""
    for ballast in subject.folder.parent.glob("ballast-*"):
        ballast.unlink()
    if not subject.is_store:
        return
    store = subject.path
    away, copy, replaced = _aside(store)
    if away.exists():
        if store.exists():
            store.rename(copy)
        away.rename(store)
    if replaced.exists() and not store.exists():
        replaced.rename(store)
    for folder in (copy, replaced):
        shutil.rmtree(folder, ignore_errors=True)


def decoy(folder, subject):
    """Make a store of the subject's name in another folder, which must never change."""
    folder.mkdir()
    shutil.copytree(subject.path, folder / subject.path.name)
    return folder
