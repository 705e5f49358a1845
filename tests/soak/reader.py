"""A process that opens the subject all the time, and checks what it finds."""

import copy
import os
import pickle
import time

from vqindex import FileFormatError, VQIndex

from . import troubles
from .model import Loss, check_index

__all__ = ["Reader"]

_HELD = 3  # opened indexes that it keeps, to search them again when their files have been replaced


class Reader:
    """One reader; parameters as for `Writer`."""

    def __init__(self, round, name, slot, random):
        self.round, self.random = round, random
        self.subject, self.setup, self.journal = round.subject, round.setup, round.journal
        self.count = round.board.counter(slot)
        self.interrupts = troubles.Interrupts(random)
        self.scratch = round.folder / f"{name}.vqi"
        self.held = []

    def run(self):
        while not self.round.board.stopping:
            self.look_or_miss()
            time.sleep(self.random.uniform(0, 0.02))  # so that writers get on

    def look_or_miss(self):
        start = self.journal.clock()
        try:
            self.look()
        except (FileNotFoundError, FileFormatError):
            if not self.journal.was_moving(start, self.journal.clock()):
                raise
            self.count("missed moved folders")

    def look(self):
        index, state = self.open()
        self.check(index, state)
        for held, old in self.random.sample(self.held, min(1, len(self.held))):
            self.check(held, old)
        chance = self.random.random()
        if chance < 0.1:
            self.subject.verify()
            self.count("verified")
        elif chance < 0.2:
            self.export(index, state)
        elif chance < 0.3:
            self.search_interrupted(index, state)
        elif chance < 0.4:
            self.open_with_few_descriptors()
        self.held.append((index, state))
        if len(self.held) > _HELD:
            self.subject.close(self.held.pop(0)[0])

    def open(self):
        """Open the subject, and return what was found with the state that it is."""
        start = self.journal.clock()
        mmap = self.random.random() < 0.6
        index = self.subject.open(mmap=mmap, verify=self.random.choice([None, True, False]))
        state = self.journal.state_found(index.meta.get("state", 0), start, self.journal.clock())
        self.count("opened to read")
        return index, state

    def check(self, index, state):
        check_index(index, state, self.setup, self.random)
        self.count("checked answers")

    def export(self, index, state):
        """Save what was opened to another file, or copy or pickle it."""
        way = self.random.choice(["save", "copy", "pickle"])
        if way == "save":
            index.save(self.scratch)
            other = VQIndex.load(self.scratch)
        elif way == "copy":
            other = copy.deepcopy(index)
        elif self.subject.is_store:  # the pickle of a store is its path: another commit may be there by now
            other = pickle.loads(pickle.dumps(copy.copy(index)))
        else:
            other = pickle.loads(pickle.dumps(index))
        self.check(other, state)

    def search_interrupted(self, index, state):
        self.interrupts.run("search", lambda: self.check(index, state))
        self.interrupts.run("open", lambda: self.subject.open(mmap=self.random.random() < 0.6))
        self.check(index, state)
        self.count("interrupted searches")

    def open_with_few_descriptors(self):
        more = self.random.randrange(8)
        try:
            with troubles.few_descriptors(more) as expected:
                index = self.subject.open(mmap=self.random.random() < 0.5)
        except OSError as error:
            if error.errno != expected:
                raise
        else:
            self.subject.close(index)
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        if free > 200:
            raise Loss(f"{free} descriptors are open in a reader that holds {len(self.held)} indexes")
        self.count("few descriptors")
