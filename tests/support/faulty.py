"""File systems that fail: `FaultyFiles` stands in for `vqindex.directory.local.Files` and knows what a crash may leave.

Calls are counted: creating a file, each write, sync, rename, unlink, sync of a folder. At a given call it raises an
error, or "dies": then no later call does anything, as after a power cut. `crash_states` gives folders that may be found
then: what was synced is there; of all else, names and bytes alike, any part may be.
"""

import errno

from vqindex.directory.local import Files, OutFile


class Died(BaseException):
    """The process is gone; nothing may catch this and go on writing."""


class _Inode:
    def __init__(self, data, synced):
        self.data, self.synced = data, synced


class _File(OutFile):
    def __init__(self, path, files):
        super().__init__(path)
        self._files = files

    def write(self, data):
        self._files.step(
            "write", self.path, lambda share: super(_File, self).write(bytes(data)[: int(len(data) * share)])
        )
        return len(data)

    def sync(self):
        self._files.step("sync", self.path)
        super().sync()
        inode = self._files.names[self.path.name]
        inode.synced = self.path.read_bytes()


class FaultyFiles(Files):
    """See above. `how`: "raise" at call `at`, "die" there, or "full": from there on there is no room for writes."""

    def __init__(self, folder, at=None, how="raise", torn=0.0):
        self.folder, self.at, self.how, self.torn = folder, at, how, torn
        self.calls, self.dead = [], False
        self.names = {p.name: _Inode(p.read_bytes(), p.read_bytes()) for p in folder.iterdir() if p.is_file()}
        self.durable = dict(self.names)
        self.pending = []  # (name, inode or None) since the folder was synced: what each name became

    def step(self, what, path, partly=lambda share: None):
        """Count a call; raise or die if it is the one. `partly(share)` does some of it."""
        if self.dead:
            raise Died
        number = len(self.calls)
        self.calls.append((what, path.name))
        reached = self.at is not None and number >= self.at
        if self.how == "full":
            if reached and what in ("create", "write"):
                partly(self.torn)
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        elif reached and number == self.at:
            partly(self.torn)
            if self.how == "die":
                self.dead = True
                raise Died
            raise OSError(errno.EIO, "Input/output error", str(path))
        partly(1.0)

    def create(self, path):
        self.step("create", path)
        file = _File(path, self)
        self._became(path.name, _Inode(b"", b""))
        return file

    def replace(self, source, target):
        self.step("replace", target)
        super().replace(source, target)
        inode = self.names[source.name]
        self._became(target.name, inode)
        self._became(source.name, None)

    def unlink(self, path):
        self.step("unlink", path)
        if path.name in self.names:
            self.names[path.name].data = path.read_bytes()
        super().unlink(path)
        self._became(path.name, None)

    def sync_folder(self, folder):
        self.step("sync_folder", folder)
        super().sync_folder(folder)
        self.durable, self.pending = dict(self.names), []

    def _became(self, name, inode):
        self.pending.append((name, inode))
        if inode is None:
            self.names.pop(name, None)
        else:
            self.names[name] = inode

    def crash_states(self, random, count):
        """Yield {name: bytes} of folders that a crash now may leave: the least, the most, and `count` others."""
        for name, inode in self.names.items():
            inode.data = (self.folder / name).read_bytes()

        def state(kept, content):
            names = dict(self.durable)
            for (name, inode), keep in zip(self.pending, kept, strict=True):
                if keep and inode is None:
                    names.pop(name, None)
                elif keep:
                    names[name] = inode
            return {name: content(inode) for name, inode in names.items()}

        def some(inode):
            cut = random.randrange(len(inode.data) + 1) if inode.data else 0
            choices = [inode.synced, inode.data, inode.data[:cut], inode.data[:cut] + bytes(len(inode.data) - cut)]
            return inode.synced if inode.data == inode.synced else random.choice(choices)

        every = [True] * len(self.pending)
        yield state([not keep for keep in every], lambda inode: inode.synced)
        yield state(every, lambda inode: inode.data)
        yield state(every, lambda inode: inode.synced)
        for _ in range(count):
            yield state([random.random() < 0.5 for _ in every], some)


def write_folder(folder, state):
    """Make a folder with these files."""
    folder.mkdir()
    for name, data in state.items():
        (folder / name).write_bytes(data)
