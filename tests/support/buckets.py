"""A bucket in memory with the conditional puts of object stores, and requests that fail or die on demand."""

import threading
from contextlib import nullcontext, suppress

from vqindex import StorageError
from vqindex.directory.cache import Cache
from vqindex.directory.object_client import ConditionFailed, ObjectEntry, StoredObject
from vqindex.directory.objects import ObjectDirectory
from vqindex.store.buckets import open_in


class Died(BaseException):
    """The process is gone; nothing may catch this and go on."""


class Bucket:
    """What a store holds, for any number of clients: {name: (data, tag, time)}."""

    def __init__(self):
        self.objects, self.now, self.tags, self.lock = {}, 1000.0, 0, threading.Lock()

    def set(self, name, data):
        self.tags += 1
        self.objects[name] = data, f"tag {self.tags}", self.now
        return f"tag {self.tags}"

    def damage(self, name, change):
        """Replace the bytes of an object; its tag and its time stay."""
        data, tag, time = self.objects[name]
        self.objects[name] = change(data), tag, time

    def data(self):
        return {name: data for name, (data, _, _) in self.objects.items()}


class FakeClient:
    """Requests to a `Bucket`.

    At request `at` it does what `how` says: "before" fails without doing it, "after" does it and loses the answer;
    "die before" and "die after" end the process, so that no later request does anything.
    """

    def __init__(self, bucket, at=None, how="before"):
        self.bucket, self.at, self.how, self.url = bucket, at, how, "fake://bucket/prefix"
        self.calls, self.dead = [], False

    def _request(self, what, name, work):
        if self.dead:
            raise Died
        chosen = len(self.calls) == self.at
        self.calls.append((what, name))
        answer = None
        with self.bucket.lock, suppress(Exception) if chosen else nullcontext():
            if not chosen or "after" in self.how:
                answer = work(self.bucket.objects)
        if chosen and "die" in self.how:
            self.dead = True
            raise Died
        if chosen:
            raise StorageError(f"{self.url}/{name}: did not answer in time")
        return answer

    def _found(self, name):
        if name not in self.bucket.objects:
            raise FileNotFoundError(2, "there is no such object", f"{self.url}/{name}")
        return self.bucket.objects[name]

    def get(self, name):
        return self._request("get", name, lambda _: StoredObject(*self._found(name)))

    def get_ranges(self, name, starts, ends):
        def work(_):
            data = self._found(name)[0]
            return [data[start:end] for start, end in zip(starts, ends, strict=True)]

        return self._request("get_ranges", name, work)

    def entry(self, name):
        def work(_):
            data, _, time = self._found(name)
            return ObjectEntry(name, len(data), time)

        return self._request("entry", name, work)

    def put_new(self, name, data):
        def work(objects):
            if name in objects:
                raise ConditionFailed(name)
            return self.bucket.set(name, data)

        return self._request("put_new", name, work)

    def put_if(self, name, data, tag):
        def work(objects):
            if name not in objects or objects[name][1] != tag:
                raise ConditionFailed(name)
            return self.bucket.set(name, data)

        return self._request("put_if", name, work)

    def list(self):
        def work(objects):
            return sorted(ObjectEntry(name, len(data), time) for name, (data, _, time) in objects.items())

        return self._request("list", "", work)

    def delete(self, name):
        return self._request("delete", name, lambda objects: objects.pop(name, None))


def open_fake(bucket, mode="r", *, client=None, cache=None, limit=None, **parameters):
    """Open the index in a fake bucket, with a temporary cache unless a folder is given."""
    client = FakeClient(bucket) if client is None else client
    directory = ObjectDirectory(client, Cache(client.url, cache, limit))
    return open_in(directory, mode, parameters, "cpu", True, False)
