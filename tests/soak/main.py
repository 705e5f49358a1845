"""The command line: rounds one after the other, and a report."""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from random import Random

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
    "commits without room", "few descriptors", "forks", "chdirs", "moved folders", "missed moved folders",
    "restored backups", "refused second writers", "refused saves",
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


def main(arguments=None):
    options = parse(arguments)
    seed = int(time.time()) if options.seed is None else options.seed
    base = options.folder or Path(tempfile.mkdtemp(prefix="vqindex-soak-"))
    base.mkdir(exist_ok=True)
    disk = base / "small-disk"
    disk.mkdir()
    has_disk = options.in_namespace and troubles.mount_disk(disk, SMALL_DISK)
    print(f"soak: seed {seed}, {options.seconds:g} s, in {base}")
    print(f"full disks: {'a tmpfs of 4 MiB, and ' if has_disk else ''}limits of file sizes", flush=True)
    board = Board(EVENTS)
    until, number, failure = time.monotonic() + options.seconds, 0, None
    while failure is None and time.monotonic() < until:
        seconds = min(options.round, max(1, until - time.monotonic()))
        failure = soak_once(number, f"{seed}/{number}", seconds, board, options, base, disk if has_disk else None)
        number += 1
    if has_disk:
        troubles.unmount_disk(disk)
    report(board, seed, base, failure)
    return 0 if failure is None else 1


def soak_once(number, seed, seconds, board, options, base, disk):
    """Run one round; return the Loss, or None. Its folder stays if anything was lost."""
    random = Random(seed)
    kind, setup = options.only or KINDS[number % len(KINDS)], Setup.draw(random)
    is_small = disk is not None and random.random() < 0.5
    folder = base / f"round-{number}"
    folder.mkdir()
    home = disk / folder.name if is_small else folder / "subject"
    subject = (StoreSubject if kind.startswith("store") else FileSubject)(home, setup)
    subject.create()
    journal, broken = Journal(folder / "journal"), BROKEN.get(options.broken)
    print(f"round {number}: {kind}{', small disk' if is_small else ''}, {setup}", flush=True)
    try:
        run_round(Round(folder, subject, setup, journal, board, "two" in kind, is_small, broken), seed, seconds)
    except Loss as loss:
        if is_small:
            shutil.copytree(home, folder / "subject")
        return loss
    shutil.rmtree(folder)
    shutil.rmtree(home, ignore_errors=True)
    return None


def report(board, seed, base, failure):
    for event, times in board.totals().items():
        print(f"{times:8d}  {event}")
    if failure is None:
        shutil.rmtree(base, ignore_errors=True)
        print("nothing lost")
    else:
        print(f"LOST with --seed {seed}; everything is kept in {base}\n{failure}")
