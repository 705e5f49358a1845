"""An index in a bucket: many writers, lost races and conflicts, readers of old commits, sweeps, and errors.

Most tests use a bucket in memory with the conditional puts of object stores (``support/buckets.py``). Where obstore is
installed they run with its memory store, too.
"""

import importlib.util
import itertools
import pickle
import threading

import numpy as np
import pytest
from buckets import Bucket, Died, FakeClient, open_fake
from stores import DIM, QUERIES, content, open_with, vectors

import vqindex
from vqindex import FileFormatError, InvalidInputError, StorageError, StoreConflictError, StoreError
from vqindex.directory.object_client import ObjectEntry
from vqindex.directory.objects import GRACE, ObjectDirectory
from vqindex.directory.obstore_client import ObstoreClient, is_url
from vqindex.store.manifest import MANIFEST, load_manifest

HAS_OBSTORE = importlib.util.find_spec("obstore") is not None
_numbers = itertools.count()


@pytest.fixture(params=["fake", "obstore"] if HAS_OBSTORE else ["fake"])
def opened(request):
    """Return a function that opens the index in one bucket; the first call creates it."""
    bucket, url = Bucket(), f"memory:objects-{next(_numbers)}"

    def opens(mode="a", **parameters):
        if request.param == "fake":
            return open_fake(bucket, mode, **parameters)
        return vqindex.open(url, mode, **parameters)

    opens(dim=DIM, metric="l2").close()
    return opens


def seen(opened):
    with opened("r") as index:
        return content(index)


# ---- one writer


def test_index_in_a_bucket_equals_the_one_in_a_folder_after_every_commit(opened, tmp_path):
    with open_with(tmp_path / "s", dim=DIM, metric="l2") as local, opened() as index:
        for i in range(12):
            for each in (local, index):
                each.add(vectors(10, i))
                each.remove([7 * i, 7 * i + 1])
                each.meta["round"] = i
                each.commit()
            assert seen(opened) == content(index) == content(local)
        local.compact()
        index.compact()
        assert seen(opened) == content(index) == content(local)


@pytest.mark.parametrize(
    "parameters", [{"keep_vectors": "int8"}, {"graph": 8}, {"center": "mean"}, {"codec": "trellis", "bits": 2}]
)
def test_every_kind_of_index_comes_back_from_a_bucket_as_it_was(parameters):
    bucket = Bucket()
    with open_fake(bucket, "a", dim=DIM, metric="l2", **parameters) as index:
        index.add(vectors(1100) + (3 if "center" in parameters else 0))
        index.commit()
        index.remove([4, 9])
        index.upsert([11], vectors(1, 5))
        expected = content(index)
    with open_fake(bucket, "r") as found:
        assert content(found) == expected
        assert found.stats()["keep_vectors"] == parameters.get("keep_vectors")
        assert (found.stats()["linked"] or 0) >= (1024 if "graph" in parameters else 0)
        assert len(found) == 1098


def test_string_ids_come_back_and_are_refused_twice(opened):
    with opened() as index:
        index.add(vectors(3), ids=["a", "b", "c"])
    with opened() as index, pytest.raises(InvalidInputError, match="'b'"):
        index.add(vectors(1), ids=["b"])
    assert seen(opened)[0] == ["a", "b", "c"]


def test_open_costs_one_request_and_the_first_search_one_for_each_file():
    bucket = Bucket()
    with open_fake(bucket, "a", dim=DIM, metric="l2") as index:
        for i in range(3):
            index.add(vectors(20, i))
            index.commit(merge=False)
        index.remove([3])
    client = FakeClient(bucket)
    index = open_fake(bucket, "r", client=client)
    assert (len(index), index.ntotal, index.dim, index.meta) == (59, 59, DIM, {})
    assert "not read yet" in repr(index)
    assert [what for what, _ in client.calls] == ["get"]
    index.search(QUERIES, 3)
    assert sorted(what for what, _ in client.calls[1:]) == ["get_ranges"] * 4
    index.search(QUERIES, 3)
    assert len(client.calls) == 5


def test_commit_costs_one_request_for_each_new_file_and_one_for_the_manifest():
    bucket = Bucket()
    open_fake(bucket, "a", dim=DIM, metric="l2").close()
    client = FakeClient(bucket)
    index = open_fake(bucket, "a", client=client)
    index.add(vectors(5))
    del client.calls[:]
    index.commit()
    assert [what for what, _ in client.calls] == ["put_new", "put_if"]
    index.commit()
    assert len(client.calls) == 2, "nothing has changed"


def test_manifest_of_many_bytes_is_read_by_one_request():
    bucket = Bucket()
    with open_fake(bucket, "a", dim=DIM) as index:
        index.meta["long"] = "x" * 200_000
    client = FakeClient(bucket)
    assert len(open_fake(bucket, "r", client=client).meta["long"]) == 200_000
    assert len(client.calls) == 1


# ---- many writers


def run_writers(opened, writers, commits):
    """Let threads add one vector a commit, each with a note of its own."""
    failures = []

    def write(writer):
        try:
            with opened() as index:
                for i in range(commits):
                    index.add(np.full((1, DIM), 1000 * writer + i, np.float32))
                    index.meta[f"{writer} {i}"] = True
                    index.commit()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def assert_kept(opened, writers, commits):
    with opened("r") as index:
        total = writers * commits
        assert index.ids.tolist() == list(range(total))
        assert len(index.meta) == total
        assert index.stats()["commit"] == total
        found = np.sort(index.reconstruct(np.arange(total)).mean(1))
    expected = np.sort([1000 * writer + i for writer in range(writers) for i in range(commits)])
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=1)


def test_all_commits_of_writers_at_the_same_time_are_kept(opened):
    run_writers(opened, 6, 6)
    assert_kept(opened, 6, 6)


@pytest.mark.scale
def test_all_of_400_commits_of_eight_writers_are_kept(opened):
    run_writers(opened, 8, 50)
    assert_kept(opened, 8, 50)


def test_append_that_lost_the_race_gets_the_next_ids_and_both_writers_see_all(opened):
    first, late = opened(), opened()
    first.add(vectors(4, 1))
    late.add(vectors(3, 2))
    first.commit()
    late.commit()
    assert late.ids.tolist() == list(range(7))
    single = vqindex.VQIndex(DIM, metric="l2")
    single.add(np.concatenate([vectors(4, 1), vectors(3, 2)]))
    assert seen(opened) == content(late) == content(single)
    first.add(vectors(2, 3))
    first.commit()
    assert len(first) == 9


def test_writer_whose_race_was_lost_keeps_removes_upserts_notes_and_originals():
    bucket = Bucket()
    with open_fake(bucket, "a", dim=DIM, metric="l2", keep_vectors="f32") as index:
        index.add(vectors(20))
        index.meta["old"] = 1
    first, late = open_fake(bucket, "a"), open_fake(bucket, "a")
    first.remove([1, 2])
    first.add(vectors(5, 1))
    first.meta["first"] = [1]
    late.remove([3])
    late.upsert([4], vectors(1, 9))
    late.add(vectors(2, 2))
    late.meta["late"] = 2
    del late.meta["old"]
    first.commit()
    late.commit()
    with open_fake(bucket, "r") as found:
        assert found.meta == {"first": [1], "late": 2}
        assert sorted(found.ids.tolist()) == sorted({*range(27)} - {1, 2, 3})
        for ids, exact in (([4], vectors(1, 9)), ([25, 26], vectors(2, 2))):
            for id, vector in zip(ids, exact, strict=True):
                assert found.search(vector, 1, rerank=True).ids.tolist() == [id]
                assert found.search(vector, 1, rerank=True).scores[0] < 1e-6


def test_compaction_that_lost_the_race_compacts_what_the_other_writer_published(opened):
    with opened() as index:
        index.add(vectors(40))
        index.commit()
        index.remove(range(10))
    first, late = opened(), opened()
    len(late.ids)  # it has read the files
    first.add(vectors(3, 1))
    first.commit()
    assert late.compact() == 10
    with opened("r") as found:
        assert (len(found), found.stats()["segments"], found.stats()["removed"]) == (33, 1, 0)


CONFLICTS = {
    "both remove an id": (lambda i: i.remove([3]), lambda i: i.remove([3, 5]), "removed id 3"),
    "one replaces what the other removes": (
        lambda i: i.upsert([3], vectors(1, 8)),
        lambda i: i.remove([3]),
        "replaced",
    ),
    "both replace an id": (lambda i: i.upsert([3], vectors(1, 8)), lambda i: i.upsert([3], vectors(1, 9)), "replaced"),
    "both use an id": (lambda i: i.add(vectors(1), ids=[99]), lambda i: i.add(vectors(1, 1), ids=[99]), "id 99"),
    "ids and no ids": (lambda i: i.add(vectors(1), ids=[99]), lambda i: i.add(vectors(1, 1)), "with ids"),
    "both write a note": (lambda i: i.meta.update(a=1), lambda i: i.meta.update(a=2), "note 'a'"),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_conflict_is_refused_and_leaves_the_first_writers_commit(opened, case):
    one, other, message = CONFLICTS[case]
    with opened() as index:
        index.add(vectors(20))
    first, late = opened(), opened()
    one(first)
    other(late)
    first.commit()
    before, mine = seen(opened), content(late)
    for _ in range(2):  # it stays refused
        with pytest.raises(StoreConflictError, match=message):
            late.commit()
        assert seen(opened) == before
        assert content(late) == mine, "what is in memory is unchanged"
    late.close()
    with opened() as again:
        again.add(vectors(1, 7), ids=[1000])
    assert len(seen(opened)[0]) == len(before[0]) + 1


def test_removes_of_different_ids_are_both_kept_also_across_a_merge(opened):
    with opened() as index:
        for i in range(10):
            index.add(vectors(4, i))
            index.commit(merge=False)
    first, late = opened(), opened()
    late.remove([1, 20])
    first.remove([0, 39])
    first.compact()  # other files, other row numbers
    late.commit()
    assert sorted(seen(opened)[0]) == sorted({*range(40)} - {0, 1, 20, 39})


def test_first_vectors_of_two_writers_with_different_means_are_a_conflict():
    bucket = Bucket()
    open_fake(bucket, "a", dim=DIM, metric="l2", center="mean").close()
    first, late = open_fake(bucket, "a"), open_fake(bucket, "a")
    first.add(vectors(20) + 5)
    late.add(vectors(20) - 5)
    first.commit()
    with pytest.raises(StoreConflictError, match="center"):
        late.commit()
    assert len(open_fake(bucket)) == 20


def test_two_that_create_an_index_at_the_same_time_share_it():
    bucket = Bucket()
    client = FakeClient(bucket)

    def late_put(name, data):
        with open_fake(bucket, "a", dim=DIM) as other:
            other.add(vectors(3))
        return FakeClient.put_new(client, name, data)

    client.put_new = late_put
    with open_fake(bucket, "a", client=client, dim=DIM) as index:
        assert len(index) == 3


# ---- lost answers and crashes


def history(client, cache):
    """Open, add, remove, compact; return what was committed, up to the point of a failure."""
    states, error = [None], None
    try:
        with_index = open_fake(client.bucket, "a", client=client, cache=cache, dim=DIM, metric="l2")
        states = [content(with_index)]
        for change in (
            lambda i: i.add(vectors(9)),
            lambda i: (i.remove([2]), i.add(vectors(4, 1))),
            lambda i: i.meta.update(note=1),
            lambda i: i.remove(range(3, 9)),
        ):
            change(with_index)
            states.append(content(with_index))
            with_index.commit()
        with_index.compact()
    except (Died, StorageError) as failure:
        error = failure
    return states, error


def test_failure_or_death_at_any_request_leaves_the_old_or_the_new_commit(tmp_path):
    client = FakeClient(Bucket())
    history(client, tmp_path / "cache")
    requests = len(client.calls)
    assert requests > 10
    for how in ("before", "after", "die before", "die after"):
        for at in range(requests):
            client = FakeClient(Bucket(), at, how)
            states, error = history(client, tmp_path / f"{how} {at}")
            assert error is not None or how in ("before", "after")
            try:
                found = content(open_fake(client.bucket))
            except FileNotFoundError:
                assert states == [None], (how, at)
                continue
            allowed = [state for state in states[-2:] if state is not None] or [([], [[]] * 3, [[]] * 3, {})]
            assert any(found[0] == state[0] and found[3] == state[3] for state in allowed), (how, at)


@pytest.mark.parametrize("how", ["before", "after"])
def test_commit_that_is_repeated_after_a_lost_answer_is_there_once(how):
    """For every request of a commit: the answer is lost, another writer commits or not, and the commit is repeated."""
    for at in range(3):
        for is_alone in (True, False):
            bucket = Bucket()
            with open_fake(bucket, "a", dim=DIM, metric="l2") as index:
                index.add(vectors(20))
            client = FakeClient(bucket)
            index = open_fake(bucket, "a", client=client)
            index.remove([1])
            index.add(vectors(5, 1))
            client.at, client.how = len(client.calls) + at, how
            real, client.get = client.get, no_answer(bucket)  # nor can it look what became of its commit
            with pytest.raises(StorageError):
                index.commit()
            client.get = real
            if not is_alone:
                with open_fake(bucket, "a") as other:
                    other.add(vectors(2, 2))
            index.add(vectors(1, 3))
            index.commit()
            count = 20 - 1 + 5 + 1 + (0 if is_alone else 2)
            for found in (index, open_fake(bucket)):
                assert len(found) == len(set(found.ids.tolist())) == count, (at, is_alone)


def no_answer(bucket):
    def get(name):
        raise StorageError("did not answer in time")

    return get


def test_lost_answer_of_a_publish_is_looked_up():
    bucket = Bucket()
    client = FakeClient(bucket)
    index = open_fake(bucket, "a", client=client, dim=DIM)
    index.add(vectors(5))
    client.at, client.how = len(client.calls) + 1, "after"
    assert index.commit() == 1
    index.add(vectors(5, 1))
    assert index.commit() == 2
    assert len(open_fake(bucket)) == 10


# ---- readers of old commits, and sweeps


def test_reader_gets_the_commit_that_it_opened_while_writers_merge_and_sweep():
    bucket = Bucket()
    with open_fake(bucket, "a", dim=DIM, metric="l2") as index:
        for i in range(5):
            index.add(vectors(10, i))
            index.commit(merge=False)
    reader, before = open_fake(bucket), content(open_fake(bucket))
    writer = open_fake(bucket, "a")
    for i in range(40):
        bucket.now += GRACE / 50
        writer.remove([i])
        writer.compact()
    assert content(reader) == before


def test_reader_that_comes_after_the_grace_time_is_told_to_open_again():
    bucket = Bucket()
    writer = open_fake(bucket, "a", dim=DIM, metric="l2")
    writer.add(vectors(10))
    writer.commit()
    reader = open_fake(bucket)
    for i in range(4):
        bucket.now += GRACE
        writer.remove([i])
        writer.compact()
    with pytest.raises(StoreError, match="open the index again"):
        reader.search(QUERIES, 3)
    assert len(open_fake(bucket).search(QUERIES, 3).ids) == 3


def test_sweep_removes_retired_files_and_those_of_killed_writers_after_the_grace_time_alone():
    bucket = Bucket()
    bucket.set("notes.txt", b"not ours")
    writer = open_fake(bucket, "a", dim=DIM, metric="l2")
    bucket.set("0000000007-00000000000000aa.vqi", b"of a killed writer")
    writer.add(vectors(10))
    writer.commit()
    old = {name for name in bucket.objects if name.endswith(".vqi")}
    writer.remove([1])
    writer.compact()
    for step in (GRACE / 2, GRACE / 3):
        bucket.now += step
        writer.meta["step"] = step
        writer.commit()
        writer.compact()
        writer._commits.sweep()
        assert old < set(bucket.objects), "too early"
    for step in range(3):
        bucket.now += GRACE
        writer.meta["step"] = step
        writer.commit()
        writer._commits.sweep()
    assert not old & set(bucket.objects)
    assert set(bucket.objects) == {"notes.txt", *writer._commits.manifest.names}
    assert not load_manifest(writer._commits.directory).sharing.retired


def test_commit_whose_files_may_have_been_swept_is_refused(monkeypatch):
    bucket = Bucket()
    index = open_fake(bucket, "a", dim=DIM)
    index.add(vectors(5))
    times = iter([0.0, GRACE])
    monkeypatch.setattr("vqindex.directory.objects.time.monotonic", lambda: next(times))
    with pytest.raises(StoreError, match="nothing was published"):
        index.commit()
    assert len(open_fake(bucket)) == 0
    monkeypatch.undo()
    index.commit()
    assert len(open_fake(bucket)) == 5


# ---- damage


def test_every_object_that_is_flipped_cut_or_gone_is_named_and_refused():
    bucket = Bucket()
    with open_fake(bucket, "a", dim=DIM, metric="l2", graph=8) as index:
        index.add(vectors(1100))
        index.commit()
        index.remove([5])
        index.commit()
    whole = dict(bucket.objects)
    assert {name.rpartition(".")[2] for name in whole} == {MANIFEST, "vqi", "removed", "links"}
    for name, (data, _, _) in whole.items():
        for what, damaged in (
            ("flipped", data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]),
            ("cut", data[:-1]),
            ("empty", b""),
        ):
            bucket.damage(name, lambda _, damaged=damaged: damaged)
            with pytest.raises(FileFormatError, match=f"fake://bucket/prefix/{name}"):
                open_fake(bucket).search(QUERIES, 3)
            bucket.objects = dict(whole)
            assert what
        if name != MANIFEST:
            del bucket.objects[name]
            with pytest.raises(FileFormatError, match=f"{name}, which is missing"):
                open_fake(bucket).search(QUERIES, 3)
            bucket.objects = dict(whole)


def test_prefix_with_files_and_no_manifest_is_no_place_for_a_new_index():
    bucket = Bucket()
    with open_fake(bucket, "a", dim=DIM) as index:
        index.add(vectors(5))
    del bucket.objects[MANIFEST]
    for mode in ("r", "a"):
        with pytest.raises(FileNotFoundError, match="push is under way"):
            open_fake(bucket, mode, dim=DIM)


# ---- arguments and errors


def test_missing_index_and_wrong_parameters_are_refused_by_the_url(opened):
    with pytest.raises(FileNotFoundError, match="there is no index"):
        open_fake(Bucket())
    with pytest.raises(FileNotFoundError, match="there is no index"):
        open_fake(Bucket(), "a")
    with pytest.raises(InvalidInputError, match=r"dim is 7; the index in \w+:.* has 6"):
        opened(dim=7)
    with pytest.raises(InvalidInputError, match="mode is 'w'"):
        vqindex.open("s3://bucket/prefix", "w")


def test_reader_and_closed_index_refuse_changes(opened):
    index = opened("r")
    with pytest.raises(StoreError, match="open for reading"):
        index.add(vectors(1))
    index.close()
    for call in (lambda: index.search(QUERIES), lambda: len(index), lambda: index.stats()):
        with pytest.raises(StoreError, match="was closed"):
            call()


SECRETS = ("AKIAEXAMPLE", "s3cr3t/key+")


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{SECRETS[0]}:{SECRETS[1]}@bucket/prefix",
        f"s3://bucket/prefix?secret={SECRETS[1]}",
        f"az://account/container/prefix?sig={SECRETS[1]}",
        f"gs://bucket/prefix#{SECRETS[1]}",
        "s3://",
        "s3:bucket",
        "s3:///prefix",
        "s3://bucket/a/../b",
        "s3://bucket//b",
        "az://",
    ],
)
def test_url_that_is_not_one_is_refused_without_repeating_secrets(url):
    assert is_url(url)
    with pytest.raises(InvalidInputError, match=r"URL|path") as caught:
        vqindex.open(url)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_options_of_buckets_are_refused_for_folders_and_wrong_ones_by_name(tmp_path):
    for options in ({"cache": "c"}, {"cache_bytes": 1}, {"storage_options": {"secret_access_key": SECRETS[1]}}):
        with pytest.raises(InvalidInputError, match=next(iter(options))) as caught:
            vqindex.open(tmp_path, **options)
        assert SECRETS[1] not in str(caught.value)


@pytest.mark.skipif(HAS_OBSTORE, reason="obstore is installed")
def test_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(ImportError, match=r"pip install 'vqindex\[s3\]'"):
        vqindex.open("s3://bucket/prefix")


def test_directory_of_objects_lists_reads_and_refuses_as_the_protocol_says(tmp_path):
    from vqindex.directory.cache import Cache

    client = FakeClient(Bucket())
    directory = ObjectDirectory(client, Cache("fake:", tmp_path))
    file = directory.create("0000000001-00000000000000aa.vqi")
    file.write(b"0123456789")
    file.seek(2)
    buffer = bytearray(3)
    assert file.readinto(buffer) == 3
    assert bytes(buffer) == b"234"
    assert file.truncate(12) == 12
    assert directory.names() == [], "nobody sees it before it is synced"
    file.sync()
    with pytest.raises(StoreError, match="no more writes"):
        file.write(b"x")
    file.close()
    assert client.bucket.data() == {"0000000001-00000000000000aa.vqi": b"0123456789\0\0"}
    assert directory.read("0000000001-00000000000000aa.vqi", 8, 100) == b"89\0\0"
    assert client.entry("0000000001-00000000000000aa.vqi") == ObjectEntry("0000000001-00000000000000aa.vqi", 12, 1000.0)
    other = directory.create("0000000001-00000000000000aa.vqi")
    other.write(b"another")
    with pytest.raises(FileExistsError):
        other.sync()
    other.close()


def test_lock_of_a_bucket_excludes_nobody_and_ends_with_the_process(tmp_path, monkeypatch):
    index = open_fake(Bucket(), "a", dim=DIM)
    index.add(vectors(1))
    monkeypatch.setattr("vqindex.directory.objects.os.getpid", lambda: -1)
    with pytest.raises(StoreError, match="before a fork"):
        index.add(vectors(1))


def test_pickle_holds_the_url_and_never_options():
    if not HAS_OBSTORE:
        index = open_fake(Bucket(), "a", dim=DIM)
        with pytest.raises(StoreError, match="mode 'r'"):
            pickle.dumps(index)
        return
    url = f"memory:objects-{next(_numbers)}"
    with vqindex.open(url, "a", dim=DIM, metric="l2") as index:
        index.add(vectors(5))
    reader = vqindex.open(url)
    assert content(pickle.loads(pickle.dumps(reader))) == content(reader)
    assert "memory:" in repr(ObstoreClient(url))
