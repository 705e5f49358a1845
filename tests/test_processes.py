"""What needs processes of its own: Ctrl-C while a search runs, and search after fork."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vqindex import VQIndex

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX")

# One search of minutes: rows of few vectors met by very many queries.
LONG = """
import signal, sys
import numpy as np, vqindex
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_search_works_in_a_child_after_a_search_on_threads(codec):
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
            os._exit(code)  # not through pytest
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
