"""What befalls the processes of a soak from inside: interrupts, full disks, limits, and folders that are moved."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

__all__ = ["Interrupts", "decoy", "few_descriptors", "file_size_limit", "full_disk", "moved_away", "repair", "restored"]


class Interrupts:
    """Raises KeyboardInterrupt in this process, once, at a chosen moment of a call."""

    def __init__(self):
        self._armed = False
        signal.signal(signal.SIGALRM, self._handle)

    def _handle(self, signum, frame):
        if self._armed:
            raise KeyboardInterrupt

    def run(self, delay, work):
        """Run `work`, with an interrupt after `delay` seconds; return whether it was interrupted."""
        try:
            try:
                self._armed = True
                signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))
                work()
            finally:
                self._armed = False
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


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
