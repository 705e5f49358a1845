"""Builds in shards: equal to one machine's, whoever encodes which shard, how often, and who is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import vqindex
from vqindex import FileFormatError, InvalidInputError, StoreError
from vqindex.sharding import (
    BuildPlan,
    build,
    commit_build,
    discard_build,
    encode_shard,
    load_plan,
    missing_shards,
    plan_build,
)
from vqindex.store.segments import name_of

ROWS, DIM = 1000, 24


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32) + np.float32(0.1)


@pytest.fixture
def data(tmp_path, vectors):
    path = tmp_path / "vectors.npy"
    np.save(path, vectors)
    return path


def built(plan, order=None):
    for shard in range(plan.shards) if order is None else order:
        encode_shard(plan, shard)
    commit_build(plan)
    return vqindex.open(plan.output)


CASES = [
    {"bits": 4},
    {"bits": 1, "metric": "cosine"},
    {"bits": 2, "codec": "trellis", "metric": "l2"},
    {"bits": 2, "metric": "cosine", "center": "mean"},
    {"bits": 3, "metric": "l2", "center": "mean", "keep_vectors": "f16"},
    {"bits": 2, "codec": "turboquant-mse", "keep_vectors": "int8"},
    {"bits": 1, "codec": "qjl"},
    {"bits": 2, "sketch": "gaussian", "seed": 7},
]


@pytest.mark.parametrize("parameters", CASES, ids=str)
@pytest.mark.parametrize("ids", [None, "numbers", "strings"])
def test_the_index_equals_that_of_one_machine_byte_for_byte(tmp_path, data, vectors, parameters, ids):
    given = {"numbers": np.arange(ROWS)[::-1] * 3, "strings": np.array([f"id {i}" for i in range(ROWS)])}.get(ids)
    if given is not None:
        np.save(tmp_path / "ids.npy", given)
    single = vqindex.VQIndex(DIM, **parameters)
    single.add(vectors, given)
    single.save(tmp_path / "single.vqi")
    plan = plan_build(
        data, tmp_path / "store", shard_rows=192, ids=None if given is None else tmp_path / "ids.npy", **parameters
    )
    with built(plan, order=[3, 0, 5, 1, 1, 4, 2, 0]) as index:
        assert plan.shards == 6
        index.save(tmp_path / "sharded.vqi")
        assert (tmp_path / "sharded.vqi").read_bytes() == (tmp_path / "single.vqi").read_bytes()
        for got, want in zip(index.search(vectors[:20], 5), single.search(vectors[:20], 5), strict=True):
            np.testing.assert_array_equal(got, want)
    assert len(vqindex.store.snapshot.verify_store(tmp_path / "store")) == 7
    assert load_plan(tmp_path / "store") is None


def test_a_store_goes_on_after_its_build(tmp_path, data, vectors):
    built(plan_build(data, tmp_path / "store", shard_rows=256)).close()
    with vqindex.open(tmp_path / "store", "a") as index:
        index.add(vectors[:5])
        assert index.ids.tolist() == list(range(ROWS + 5))


def test_before_the_commit_there_is_no_index(tmp_path, data):
    plan = plan_build(data, tmp_path / "store", shard_rows=256)
    encode_shard(plan, 0)
    with pytest.raises(FileNotFoundError):
        vqindex.open(tmp_path / "store")
    with pytest.raises(FileNotFoundError):
        vqindex.open(tmp_path / "store", "a", dim=DIM)
    assert missing_shards(plan) == [1, 2, 3]
    with pytest.raises(InvalidInputError, match="3 of 4 shards are missing or damaged, the first is shard 1"):
        commit_build(plan)
    with pytest.raises(FileNotFoundError):
        vqindex.open(tmp_path / "store")


def test_missing_doubled_and_foreign_shards_are_refused(tmp_path, data):
    plan = plan_build(data, tmp_path / "store", shard_rows=512)
    entries = [encode_shard(plan, shard) for shard in (0, 1)]
    with pytest.raises(InvalidInputError, match="1 of 2 shards are missing"):
        commit_build(plan, entries[:1])
    with pytest.raises(InvalidInputError, match="shard 0 is there twice"):
        commit_build(plan, [*entries, entries[0]])
    with pytest.raises(InvalidInputError, match="shard 2 is there; expected 0 to 1"):
        commit_build(plan, [*entries, replace(entries[0], file=3)])
    with pytest.raises(InvalidInputError, match="shard 1 is SegmentEntry"):
        commit_build(plan, [entries[0], replace(entries[1], crc32=1)])
    commit_build(plan, reversed(entries))
    commit_build(plan, entries)  # again: nothing changes
    assert vqindex.open(tmp_path / "store").ntotal == ROWS


@pytest.mark.parametrize("ids", [np.arange(ROWS) // 2 * 2, np.array([f"id {i % 900}" for i in range(ROWS)])])
def test_an_id_in_two_shards_is_refused_by_name(tmp_path, data, ids, monkeypatch):
    monkeypatch.setattr("vqindex.sharding.commit._IDS_AT_ONCE", 100)
    ids[:512] = ids[:512] if ids.dtype.kind == "U" else np.arange(512)
    ids[512:] = ids[512:] if ids.dtype.kind == "U" else np.arange(5000, 5000 + ROWS - 512)
    if ids.dtype.kind != "U":
        ids[700] = 17
    np.save(tmp_path / "ids.npy", ids)
    plan = plan_build(data, tmp_path / "store", shard_rows=512, ids=tmp_path / "ids.npy")
    for shard in range(2):
        encode_shard(plan, shard)
    with pytest.raises(InvalidInputError, match=r"id ('id \d+'|17) occurs in 0000000001.vqi and 0000000002.vqi"):
        commit_build(plan)
    with pytest.raises(FileNotFoundError):
        vqindex.open(tmp_path / "store")


def test_a_damaged_or_cut_part_is_made_again(tmp_path, data):
    plan = plan_build(data, tmp_path / "store", shard_rows=512)
    path = tmp_path / "store" / name_of(1)
    encode_shard(plan, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert missing_shards(plan) == [0, 1]
    encode_shard(plan, 0)
    assert path.read_bytes() == whole
    damaged = bytearray(whole)
    damaged[-3000] ^= 1
    path.write_bytes(damaged)
    encode_shard(plan, 1)
    with pytest.raises(InvalidInputError, match="1 of 2 shards are missing or damaged"):
        commit_build(plan, verify=True)


def test_a_finished_shard_is_not_written_again(tmp_path, data):
    plan = plan_build(data, tmp_path / "store", shard_rows=512)
    entry = encode_shard(plan, 0)
    before = (tmp_path / "store" / name_of(1)).stat()
    assert encode_shard(plan, 0) == entry
    after = (tmp_path / "store" / name_of(1)).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_same_call_returns_the_plan_that_was_begun(tmp_path, data):
    plan = plan_build(data, tmp_path / "store", metric="l2", center="mean", shard_rows=256, meta={"a": 1})
    assert plan_build(data, tmp_path / "store", metric="l2", center="mean", meta={"a": 2}) == plan
    assert load_plan(tmp_path / "store") == plan == BuildPlan.from_json(plan.to_json())
    assert built(plan).meta == {"a": 1}


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"bits": 3}, "unfinished build with spec"),
        ({"metric": "l2", "center": "mean"}, "unfinished build with spec"),
        ({"keep_vectors": "f16"}, "unfinished build with keep_vectors None; expected keep_vectors 'f16'"),
        ({"shard_rows": 128}, "unfinished build with shard_rows 256; expected shard_rows 128"),
    ],
)
def test_a_plan_with_other_parameters_is_refused(tmp_path, data, other, text):
    plan_build(data, tmp_path / "store", shard_rows=256)
    with pytest.raises(InvalidInputError, match=text):
        plan_build(data, tmp_path / "store", **other)


def test_changed_data_and_another_version_are_refused(tmp_path, data, vectors):
    plan = plan_build(data, tmp_path / "store", shard_rows=256)
    with pytest.raises(InvalidInputError, match=r"the plan is of vqindex 9\.9; this is"):
        encode_shard(replace(plan, version="9.9"), 0)
    np.save(data, vectors[::-1])
    with pytest.raises(InvalidInputError, match="changed since the plan was made"):
        encode_shard(plan, 0)
    with pytest.raises(InvalidInputError, match="expected the data or ids of this one"):
        plan_build(data, tmp_path / "store", shard_rows=256)
    discard_build(tmp_path / "store")
    assert built(plan_build(data, tmp_path / "store", shard_rows=256)).ntotal == ROWS


def test_wrong_arguments_are_refused_by_name(tmp_path, data):
    for rows in (0, 100, True, 64.0):
        with pytest.raises(InvalidInputError, match=r"shard_rows is .*; expected a multiple of 64"):
            plan_build(data, tmp_path / "store", shard_rows=rows)
    np.save(tmp_path / "ids.npy", np.arange(ROWS - 1))
    with pytest.raises(InvalidInputError, match=f"expected {ROWS} integers or strings"):
        plan_build(data, tmp_path / "store", ids=tmp_path / "ids.npy")
    np.save(tmp_path / "none.npy", np.empty((0, 3)))
    with pytest.raises(InvalidInputError, match="has no vectors"):
        plan_build(tmp_path / "none.npy", tmp_path / "store")
    assert not (tmp_path / "store").exists()
    plan = plan_build(data, tmp_path / "store")
    for shard in (-1, 1, True, "0"):
        with pytest.raises(InvalidInputError, match=r"shard is .*; expected a whole number from 0 to 0"):
            encode_shard(plan, shard)
    (tmp_path / "store" / "building.json").write_text(json.dumps({"rows": 3}))
    with pytest.raises(InvalidInputError, match=r"building\.json: not the plan of a build"):
        load_plan(tmp_path / "store")


def test_a_folder_with_an_index_is_refused(tmp_path, data):
    built(plan_build(data, tmp_path / "store", shard_rows=512))
    with pytest.raises(FileExistsError, match="holds an index already"):
        plan_build(data, tmp_path / "store", shard_rows=512)


def test_a_vector_that_cannot_be_stored_is_named(tmp_path, vectors):
    broken = vectors.copy()
    broken[700, 3] = np.nan
    np.save(tmp_path / "vectors.npy", broken)
    plan = plan_build(tmp_path / "vectors.npy", tmp_path / "store", shard_rows=512)
    with pytest.raises(InvalidInputError, match=r"counted from row 512: vectors\[188, 3\] is nan"):
        encode_shard(plan, 1)
    assert not list((tmp_path / "store").glob("*.vqi")) + list((tmp_path / "store").glob(".*"))


def test_processes_build_the_same_files(tmp_path, data):
    one, two = (plan_build(data, tmp_path / name, shard_rows=128) for name in ("one", "two"))
    built(one)
    seen = []
    build(two, workers=2, progress=lambda done, rows: seen.append(done), meta=lambda: {"note": 1})
    assert seen == sorted(seen)
    assert seen[-1] == ROWS
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    for name in names:
        if name.endswith(".vqi"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert vqindex.open(tmp_path / "two").meta == {"note": 1}


def test_errors_of_workers_arrive(tmp_path, vectors):
    broken = vectors.copy()
    broken[700, 3] = np.inf
    np.save(tmp_path / "vectors.npy", broken)
    plan = plan_build(tmp_path / "vectors.npy", tmp_path / "store", shard_rows=128)
    with pytest.raises(InvalidInputError, match=r"counted from row 640: vectors\[60, 3\] is inf"):
        build(plan, workers=2)
    assert 5 in missing_shards(plan)


def test_progress_may_stop_a_build_which_then_goes_on(tmp_path, data):
    plan = plan_build(data, tmp_path / "store", shard_rows=64)

    def stop(done, rows):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(plan, workers=2, progress=stop)
    assert missing_shards(plan)
    build(plan, workers=2)
    assert vqindex.open(tmp_path / "store").ntotal == ROWS


DRIVER = """
import sys
from vqindex.sharding import build, plan_build
if __name__ == "__main__":
    build(plan_build(sys.argv[1], sys.argv[2], shard_rows=64, bits=2, codec="trellis"), workers=2)
"""


def children_of(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds and kills processes by ps")
def test_kills_of_drivers_and_workers_lose_and_double_nothing(tmp_path, vectors):
    np.save(tmp_path / "vectors.npy", np.tile(vectors, (8, 4)))
    (tmp_path / "driver.py").write_text(DRIVER)
    args = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "vectors.npy"), str(tmp_path / "store")]
    rng, killed, errors = np.random.default_rng(0), 0, tmp_path / "errors"
    for _ in range(40):
        with errors.open("wb") as log:
            driver = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=log)
        time.sleep(rng.uniform(0.8, 1.6))
        workers = children_of(driver.pid)
        victim = driver.pid if killed % 3 == 0 or not workers else int(rng.choice(workers))
        if driver.poll() is None:
            killed += 1
            os.kill(victim, signal.SIGKILL)
        if victim == driver.pid:
            driver.wait()
            stop = time.monotonic() + 10
            while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < stop:
                time.sleep(0.05)
            assert not any(os.path.exists(f"/proc/{pid}") for pid in workers), "workers outlive their driver"
            continue
        assert driver.wait(60) == 0, errors.read_text()
        break
    else:
        build(load_plan(tmp_path / "store"), workers=1)
    assert killed
    single = vqindex.VQIndex(4 * DIM, 2, codec="trellis")
    single.add(np.tile(vectors, (8, 4)))
    single.save(tmp_path / "single.vqi")
    with vqindex.open(tmp_path / "store", verify=True) as index:
        index.save(tmp_path / "sharded.vqi")
    assert (tmp_path / "sharded.vqi").read_bytes() == (tmp_path / "single.vqi").read_bytes()
    assert not list((tmp_path / "store").glob(".*"))


def test_workers_that_die_again_and_again_are_reported(tmp_path, data, monkeypatch):
    plan = plan_build(data, tmp_path / "store", shard_rows=256)
    monkeypatch.setattr("vqindex.sharding.local._work", _die)
    with pytest.raises(StoreError, match=r"workers died 3 times in a row while encoding shards \[0, 1\]"):
        build(plan, workers=2)
    assert missing_shards(plan) == [0, 1, 2, 3]


def _die(plan, shard):
    os._exit(1)


def test_a_link_in_place_of_a_part_is_refused(tmp_path, data):
    plan = plan_build(data, tmp_path / "store", shard_rows=512)
    encode_shard(plan, 0)
    path = tmp_path / "store" / name_of(1)
    path.rename(tmp_path / "elsewhere.vqi")
    path.symlink_to(tmp_path / "elsewhere.vqi")
    assert 0 in missing_shards(plan)
    with pytest.raises(FileFormatError, match="symbolic link"):
        encode_shard(plan, 0)
