"""Calls of compiled code by daemon threads end before the interpreter does; other threads are not held up."""

import subprocess
import sys

import numpy as np
import pytest

import vqindex
from vqindex.backends import cpu

# CPython before 3.14 aborts where a daemon thread wants the lock back after the interpreter began to end.
CODE = """
import sys, threading, time
import numpy as np, vqindex
from vqindex import native_calls
x = np.random.default_rng(0).standard_normal((5000, 32)).astype("f4")
index = vqindex.VQIndex(32, 2, metric="cosine")
index.add(x)
index.search(x[:9], 5)
def forever(work):
    while True:
        work()
def start(*works):
    for work in works:
        threading.Thread(target=forever, args=(work,), daemon=True).start()
    time.sleep(0.1)
"""
CASES = {
    "searches": "start(*[lambda: index.search(x[:50], 10, threads=2)] * 4)",
    "additions": "start(*[lambda: vqindex.VQIndex(32, 3, codec='trellis').add(x)] * 2)",
    "all others": "start(lambda: index.range_search(x[:9], 0.5), lambda: index.estimate(x[:50], range(50)), "
    "lambda: index.reconstruct(range(500)), lambda: vqindex.VQIndex(32, codec='trellis', rotation='haar').add(x))",
    "a search that is running": "threading.Thread(target=lambda: index.search(np.resize(x, (200_000, 32)), 10), "
    "daemon=True).start()\nwhile not native_calls._running: pass",
    "a search at exit": "import atexit; atexit.register(lambda: index.search(x[:9], 5).ids[0, 0] == 0 or 1 / 0)",
    "a child": "import os\nstart(lambda: index.search(x[:50], 10))\n"
    "if os.fork() == 0: sys.exit(int(index.search(x[:9], 5).ids[0, 0]))\n"
    "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0",
}


@pytest.mark.parametrize("case", CASES)
def test_a_process_ends_well_while_daemon_threads_call_compiled_code(case):
    if case == "a child" and sys.platform == "win32":
        pytest.skip("needs fork")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE + CASES[case]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_vectors_are_encoded_where_no_more_threads_can_start(monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((5000, 32), dtype=np.float32)
    expected = vqindex.VQIndex(32, rotation="haar")
    expected.add(vectors)

    def no_threads(count):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(cpu, "ThreadPoolExecutor", no_threads)
    monkeypatch.setattr(cpu, "cpu_count", lambda: 2)
    index = vqindex.VQIndex(32, rotation="haar")
    index.add(vectors)
    # The rotation is a product by BLAS, whose last digits depend on how many vectors it gets at a time.
    np.testing.assert_allclose(
        index.search(vectors[:9], 5).scores, expected.search(vectors[:9], 5).scores, rtol=1e-5, atol=0
    )
