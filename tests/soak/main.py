"""The command line: rounds one after the other, and a report."""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np

from vqindex import VQIndex, VQIndexError

from . import troubles
from .board import Board
from .journal import Journal
from .model import Loss, Setup
from .rounds import KINDS, Round, run_round
from .subject import FileSubject, StoreSubject
from .writer import BROKEN

__all__ = ["main"]

EVENTS = (
    "rounds", "killed writers", "killed readers", "acknowledged", "opened to write", "opened to read",
    "checked answers", "verified", "last looks", "interrupted changes", "interrupted commits", "interrupted searches",
    "commits without room", "few descriptors", "forks", "chdirs", "moved folders",
    "missed moved folders",
    "restored backups", "refused second writers", "saves over another's refused", "saves over another's",
    "temporary files left",
)  # fmt: skip
SMALL_DISK = 2**22  # bytes


def parse(arguments):
    parser = argparse.ArgumentParser(prog="soak", description="Write, read, kill and disturb; then look for losses.")
    parser.add_argument("--seconds", type=float, default=600, help="how long, about (default 600)")
    parser.add_argument("--round", type=float, default=4, help="seconds of a round (default 4)")
    parser.add_argument("--seed", type=int, help="of all choices; moments differ from run to run")
    parser.add_argument("--only", choices=KINDS, help="kind of round")
    parser.add_argument("--broken", choices=BROKEN, help="let the writer make a mistake, which the soak must find")
    parser.add_argument("--folder", type=Path, help="where to work (default: a new one)")
    parser.add_argument("--in-namespace", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def saves_notice_others(folder):
    """Return whether a save is refused over a file that another process has replaced since it was loaded."""
    path = folder / "probe.vqi"
    VQIndex(8).save(path)
    first, second = VQIndex.load(path), VQIndex.load(path)
    for index in (first, second):
        index.add(np.eye(8)[:1])
    first.save(path)
    try:
        second.save(path)
    except VQIndexError:
        return True
    finally:
        path.unlink()
    return False


def main(arguments=None):
    options = parse(arguments)
    seed = int(time.time()) if options.seed is None else options.seed
    base = options.folder or Path(tempfile.mkdtemp(prefix="vqindex-soak-"))
    base.mkdir(exist_ok=True)
    disk = base / "small-disk"
    disk.mkdir()
    has_disk = options.in_namespace and troubles.mount_disk(disk, SMALL_DISK)
    notice = saves_notice_others(base)
    print(f"soak: seed {seed}, {options.seconds:g} s, in {base}")
    print(f"full disks: {'a tmpfs of 4 MiB, and ' if has_disk else ''}limits of file sizes")
    print(f"a save over another process's save is {'refused' if notice else 'not noticed'}", flush=True)
    board = Board(EVENTS)
    until, number, failure = time.monotonic() + options.seconds, 0, None
    kinds = [options.only] if options.only else KINDS
    while failure is None and time.monotonic() < until:
        random = Random(f"{seed}/{number}")
        kind, setup = kinds[number % len(kinds)], Setup.draw(random)
        small = has_disk and random.random() < 0.5
        folder = base / f"round-{number}"
        folder.mkdir()
        home = disk / folder.name if small else folder / "subject"
        subject = (StoreSubject if kind.startswith("store") else FileSubject)(home, setup)
        subject.create()
        round = Round(
            folder, subject, setup, Journal(folder / "journal"), board, "two" in kind, small, notice,
            BROKEN.get(options.broken),
        )  # fmt: skip
        print(f"round {number}: {kind}{', small disk' if small else ''}, {setup}", flush=True)
        try:
            run_round(round, f"{seed}/{number}", min(options.round, max(1, until - time.monotonic())))
        except Loss as loss:
            failure = loss
            if small:
                shutil.copytree(home, folder / "subject")
        else:
            shutil.rmtree(folder)
            shutil.rmtree(home, ignore_errors=True)
        number += 1
    if has_disk:
        troubles.unmount_disk(disk)
    report(board, seed, base, failure)
    return 0 if failure is None else 1


def report(board, seed, base, failure):
    for event, times in board.totals().items():
        print(f"{times:8d}  {event}")
    if failure is None:
        shutil.rmtree(base, ignore_errors=True)
        print("nothing lost")
    else:
        print(f"LOST with --seed {seed}; everything is kept in {base}\n{failure}")
