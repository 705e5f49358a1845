"""The log of all writes of a round, and which states may be found at a moment.

Every process appends to it, and each record is on disk before its writer goes on. The length of the log is the clock
of a round: what was appended before a call began happened before it.
"""

import json
import math
import os
from dataclasses import dataclass

from .model import Loss, State

__all__ = ["Journal"]


@dataclass
class _Write:
    """A write of a state, between two moments. It took place if it is `certain`; otherwise it may have."""

    writer: str
    state: State
    base: int | None
    start: int
    end: float = math.inf
    certain: bool = False


class Journal:
    """Appends records, and reads those of all processes."""

    def __init__(self, path):
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._read = 0
        self._writes = []
        self._moves = []  # [writer, start, end]
        self.restored = False

    def clock(self):
        """Return the present moment."""
        return os.fstat(self._file).st_size

    # ---- what writers say

    def start(self):
        """Record the empty index that a round begins with."""
        self.intend("main", State(), None)
        self.acknowledge("main")

    def intend(self, writer, state, base, restores=False):
        """Record that a state, made from the state `base`, will now be written."""
        self._append({"intend": state.as_json(), "base": base, "writer": writer, "restores": restores})

    def acknowledge(self, writer):
        """Record that the library returned: from now on, no earlier state may be found."""
        self._append({"acknowledged": True, "writer": writer})

    def fail(self, writer):
        """Record that the library raised an error: the state may be there or not."""
        self._append({"failed": True, "writer": writer})

    def bury(self, writer):
        """Record that a process is gone: what it had not finished takes effect no more."""
        self._append({"dead": True, "writer": writer})

    def find(self, writer, state, start):
        """Record that a writer that began to look at `start` found a state."""
        self._append({"found": state.number, "start": start, "writer": writer})

    def move(self, writer, moving):
        """Record that a writer begins or has ended to move folders; a move also ends by `bury`."""
        self._append({"moving": moving, "writer": writer})

    def _append(self, record):
        # A process killed here may leave half a line, which the line break before the next record ends.
        os.write(self._file, b"\n" + json.dumps(record).encode() + b"\n")
        os.fsync(self._file)

    # ---- what they have said

    def _catch_up(self):
        data = os.pread(self._file, self.clock() - self._read, self._read)
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines(keepends=True):
            self._read += len(line)
            try:
                record = json.loads(line)
            except ValueError:  # an empty line, or half a record: what it announced has not begun
                continue
            self._take(record, self._read)

    def _take(self, record, now):
        writer = record["writer"]
        if "intend" in record:
            self.restored |= record["restores"]
            self._writes.append(_Write(writer, State.from_json(record["intend"]), record["base"], now))
            return
        if "found" in record:
            state = next(write.state for write in self._writes if write.state.number == record["found"])
            self._writes.append(_Write(writer, state, None, record["start"], now, certain=True))
            return
        if record.get("moving"):
            self._moves.append([writer, now, math.inf])
            return
        if "moving" in record or "dead" in record:
            for move in self._moves:
                if move[0] == writer:
                    move[2] = min(move[2], now)
        if "moving" in record:
            return
        for write in self._writes:
            if write.writer == writer and write.end == math.inf:
                write.end, write.certain = now, "acknowledged" in record

    def last_number(self):
        """Return the highest number of a state."""
        self._catch_up()
        return max(write.state.number for write in self._writes)

    def state_found(self, number, start, end):
        """Return the state with a number that was found between two moments; raise Loss if it can't be there.

        A write may be found from its start on, until a later one is certain: one that began after its end and was
        over before `start`.
        """
        self._catch_up()
        before = [write.start for write in self._writes if write.certain and write.end <= start]
        oldest = max(before, default=-1)
        allowed = {
            write.state.number: write.state for write in self._writes if write.start <= end and write.end > oldest
        }
        if number in allowed:
            return allowed[number]
        known = any(write.state.number == number for write in self._writes)
        raise Loss(
            f"state {number} was found, {'which is a former one' if known else 'which nobody wrote'}; "
            f"expected one of {sorted(allowed)}"
        )

    def was_moving(self, start, end):
        """Return whether folders were moved between two moments, so that files may have been missing."""
        self._catch_up()
        return any(first <= end and last >= start for _, first, last in self._moves)

    def overwritten(self):
        """Return the numbers of acknowledged states that another writer replaced without having read them."""
        self._catch_up()
        done = [write for write in self._writes if write.certain and write.base is not None]
        last_on = {write.base: write for write in done}
        return [write.state.number for write in done if last_on[write.base] is not write]

    def state_numbered(self, number):
        """Return the state with a number."""
        self._catch_up()
        return next(write.state for write in self._writes if write.state.number == number)
