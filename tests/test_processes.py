"""Tests in separate processes: Ctrl-C during a search, and search after fork."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reports import in_fork

from vqindex import VQIndex

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX")

# One search that takes minutes: very many queries.
LONG = """
import signal, sys
import numpy as np, vqindex
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background jobs
codec, dim, nq, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng = np.random.default_rng(0)
index = vqindex.VQIndex(dim, 2, codec=codec)
index.add(rng.standard_normal((100_000, dim), dtype=np.float32))
q = np.resize(rng.standard_normal((500, dim), dtype=np.float32), (nq, dim))
index.search(q[:3], 10)
print("searching", flush=True)
try:
    index.search(q, 10, threads=threads, confidence=1 if codec == "trellis" else 0.995)
except KeyboardInterrupt:
    print("stopped", flush=True)
    assert index.search(q[:3], 10).ids.shape == (3, 10), "the index is still good"
    raise
print("finished", flush=True)
"""


@pytest.mark.parametrize(
    ("codec", "dim", "nq", "threads"),
    [
        ("turboquant-prod", 64, 300_000, 1),
        ("turboquant-prod", 64, 300_000, 2),
        ("turboquant-prod", 700, 30_000, 2),
        ("trellis", 64, 300_000, 2),
        ("turboquant-prod", 300, 30_000, 1),
    ],
)
def test_ctrl_c_stops_a_search(codec, dim, nq, threads):
    command = [sys.executable, "-c", LONG, codec, str(dim), str(nq), str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "searching\n"
            time.sleep(0.4)
            assert process.poll() is None, process.stderr.read()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == "stopped\n", out + err
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode in (-signal.SIGINT, 130)


def test_a_handler_that_raises_nothing_does_not_stop_a_search():
    code = LONG.replace('print("searching"', 'signal.signal(signal.SIGINT, lambda *_: None); print("searching"')
    command = [sys.executable, "-c", code, "turboquant-prod", "64", "60000", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "searching\n"
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (out, err, process.returncode) == ("finished\n", "", 0)


# Single queries on two threads. There are enough rows for a second thread, and the worker thread persists.
SINGLE = """
import os, sys
import numpy as np, psutil, vqindex
codec = sys.argv[1]
rng = np.random.default_rng(0)
index = vqindex.VQIndex(512, 2, codec=codec)
index.add(np.resize(rng.standard_normal((700, 512), dtype=np.float32), (60_000, 512)))
q = rng.standard_normal((5, 512), dtype=np.float32)
def search(threads):
    return [index.search(v, 10, threads=threads, confidence=confidence) for v in q for confidence in (0.995, 1)]
want = search(1)
def right():
    found = search(2)
    return all(np.array_equal(a, b) for f, w in zip(found, want) for a, b in zip(f, w))
"""


def run_single(code, codec="turboquant-prod"):
    command = [sys.executable, "-c", SINGLE + code, codec]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis", "turboquant-mse"])
def test_a_single_query_gets_its_own_worker_in_every_forked_process(codec):
    run_single(
        """
def count(): return psutil.Process().num_threads()
def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(error, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
def look(deeper):
    assert right()
    with_worker = count()
    for _ in range(20): assert right()
    assert count() == with_worker, "the same worker each time"
    for _ in range(deeper): in_child(lambda: look_as_child(deeper - 1))
    assert right()
def look_as_child(deeper):
    assert count() == 1
    look(deeper)
    assert count() == 2, "each process starts one worker"
look(2)
""",
        codec,
    )


def test_the_process_ends_right_after_a_search_on_threads():
    run_single("assert right()")
    run_single("assert right(); sys.exit()")
    run_single("import threading; threading.Thread(target=right).start()")


def test_concurrent_searches_give_the_results_of_one_thread():
    rng = np.random.default_rng(0)
    x, q = rng.standard_normal((30_000, 128)), rng.standard_normal((150, 128))
    index = VQIndex(128, 3)
    index.add(np.resize(x, (180_000, 128)))  # many ties
    calls = [
        (q[i : i + n], filters) for i, n in enumerate((1, 3, 1, 150, 1, 20)) for filters in (None, range(0, 180_000, 9))
    ]
    want = [index.search(some, 20, threads=1, filter=selection) for some, selection in calls]

    def search(i):
        some, selection = calls[i % len(calls)]
        return index.search(some, 20, threads=2 + i % 2, filter=selection)

    with ThreadPoolExecutor(6) as pool:
        for i, got in enumerate(pool.map(search, range(10 * len(calls)))):
            for one, other in zip(got, want[i % len(calls)], strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_during_another_threads_change_can_change_the_index():
    rows = np.random.default_rng(0).standard_normal((30, 16)).astype(np.float32)
    reading, go_on = threading.Event(), threading.Event()

    class Slow:
        shape, dtype = rows.shape, rows.dtype

        def __getitem__(self, at):
            reading.set()
            go_on.wait()
            return rows[at]

    index = VQIndex(16)
    index.add(rows)

    def work():
        index.add(rows[:5])
        return index.remove([3]) == 1 and len(index) == 34

    thread = threading.Thread(target=index.add, args=[Slow()])
    thread.start()
    try:
        reading.wait()
        assert in_fork(work) == 0
    finally:
        go_on.set()
        thread.join()
    assert len(index) == 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_search_works_in_a_forked_child_after_a_search_on_threads(codec):
    rng = np.random.default_rng(0)
    index = VQIndex(64, 2, codec=codec)
    index.add(rng.standard_normal((20_000, 64)))
    q = rng.standard_normal((70, 64))
    want = index.search(q, 10, threads=4)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            got = index.search(q, 10, threads=4)
            index.add(q)
            same = all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
            code = 0 if same and index.search(q, 1, threads=3).ids.shape == (70, 1) else 2
        finally:
            os._exit(code)  # without pytest's own exit
    deadline = time.monotonic() + 60
    done, status = 0, 0
    while not done and time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done, "the child hangs"
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(index.search(q, 10, threads=4).ids, want.ids)
