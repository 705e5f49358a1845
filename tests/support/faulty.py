"""Directories that fail: `FaultyDirectory` is a `LocalDirectory` that knows what a crash may leave.

It counts calls: each create, write, sync of a file, publish, remove, and sync of the names. At a given call it raises
an error or "dies": then no later call does anything, as after a power cut. `crash_states` yields the folders that may
be found afterwards: they have everything that was synced, and any part of the other names and bytes.
"""

import errno

from vqindex.directory.local import LocalDirectory, LocalFile


class Died(BaseException):
    """The process is gone; nothing may catch this and go on writing."""


class _Inode:
    def __init__(self, data, synced):
        self.data, self.synced = data, synced


class _File(LocalFile):
    def __init__(self, path, directory):
        super().__init__(path)
        self._directory = directory

    def write(self, data):
        self._directory.step(
            "write", self.path, lambda share: super(_File, self).write(bytes(data)[: int(len(data) * share)])
        )
        return len(data)

    def sync(self):
        self._directory.step("sync", self.path)
        super().sync()
        inode = self._directory.inodes[self.path.name]
        inode.synced = self.path.read_bytes()


class FaultyDirectory(LocalDirectory):
    """See above. `how`: "raise" at call `at`, "die" at it, or "full": from call `at` on the disk has no space."""

    def __init__(self, folder, at=None, how="raise", torn=0.0):
        super().__init__(folder)
        self.at, self.how, self.torn = at, how, torn
        self.calls, self.dead = [], False
        self.inodes = {p.name: _Inode(p.read_bytes(), p.read_bytes()) for p in folder.iterdir() if p.is_file()}
        self.durable = dict(self.inodes)
        self.pending = []  # (name, inode or None) since the names were synced: what each name became

    def step(self, what, path, partly=lambda share: None):
        """Count a call; raise or die if it is the chosen one. `partly(share)` does a share of its work."""
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

    def create(self, name):
        path = self.folder / name
        self.step("create", path)
        file = _File(path, self)
        self._became(name, _Inode(b"", b""))
        return file

    def publish(self, source, target, expected):
        self.step("publish", self.folder / target)
        version = super().publish(source, target, expected)
        inode = self.inodes[source]
        self._became(target, inode)
        self._became(source, None)
        return version

    def remove(self, name):
        path = self.folder / name
        self.step("remove", path)
        if name in self.inodes:
            self.inodes[name].data = path.read_bytes()
        super().remove(name)
        self._became(name, None)

    def sync(self):
        self.step("sync_names", self.folder)
        super().sync()
        self.durable, self.pending = dict(self.inodes), []

    def _became(self, name, inode):
        self.pending.append((name, inode))
        if inode is None:
            self.inodes.pop(name, None)
        else:
            self.inodes[name] = inode

    def crash_states(self, random, count):
        """Yield {name: bytes} of folders that a crash now may leave: the least, the most, and `count` others."""
        for name, inode in self.inodes.items():
            inode.data = (self.folder / name).read_bytes()

        def state(survived, content):
            names = dict(self.durable)
            for (name, inode), keep in zip(self.pending, survived, strict=True):
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
