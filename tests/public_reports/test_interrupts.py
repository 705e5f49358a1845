"""Reports of calls that could not be interrupted, or left something broken when they were."""

import contextlib
import os
import signal

import numpy as np
import pytest
from reports import index_of, nearest, rows, same

from vqindex import VQIndex

X = rows(2000)
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class Interrupted(BaseException):
    """What the signal's handler raises, as Ctrl-C raises KeyboardInterrupt."""


@pytest.fixture
def ticking():
    """Return a function that makes a call, in which Interrupted is raised after 50 ms."""

    def raise_it(*_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Interrupted

    before = signal.signal(signal.SIGALRM, raise_it)

    def call(work):
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        work()

    yield call
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# turbovec #287: a long search heard Ctrl-C only after its end, 13 seconds later.
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_a_long_search_can_be_interrupted_and_the_index_is_as_before(ticking, codec):
    index = index_of(X, codec=codec)
    want = index.search(X[:50], 5)
    many = np.resize(X, (1_000_000, 16))  # takes many times the 50 ms
    with pytest.raises(Interrupted):
        ticking(lambda: index.search(many, 5))
    same(index.search(X[:50], 5), want)


# turbovec #287: and a long add, 8 seconds later.
# vpxtool #442: and what an interrupted indexing left behind was no index.
def test_a_long_add_can_be_interrupted_and_nothing_was_added(ticking):
    index = index_of(X, keep_vectors="f16")
    want = index.search(X[:50], 5)
    endless = np.broadcast_to(X[:1], (30_000_000, 16))  # takes many times the 50 ms, and no memory itself
    with pytest.raises(Interrupted):
        ticking(lambda: index.add(endless))
    assert len(index) == 2000
    same(index.search(X[:50], 5), want)
    index.add(rows(10, seed=9))
    assert nearest(index, rows(10, seed=9)) == list(range(2000, 2010))


# galacticus #30 and h5netcdf #98: a file that was being written when the interrupt came was broken.
# nautilus #77: so that the next run could not go on from it.
def test_a_save_that_is_interrupted_leaves_the_old_file_or_the_new_one(ticking, tmp_path):
    index_of(X).save(tmp_path / "a.vqi")
    before = (tmp_path / "a.vqi").read_bytes()
    large = index_of(np.resize(X, (400_000, 16)), keep_vectors="f32")
    with contextlib.suppress(Interrupted):
        ticking(lambda: large.save(tmp_path / "a.vqi"))
    signal.setitimer(signal.ITIMER_REAL, 0)
    is_old = (tmp_path / "a.vqi").read_bytes() == before  # the interrupt may come after the new file got its name
    assert len(VQIndex.load(tmp_path / "a.vqi")) == (2000 if is_old else 400_000)
    assert os.listdir(tmp_path) == ["a.vqi"]
    large.save(tmp_path / "a.vqi")
    assert len(VQIndex.load(tmp_path / "a.vqi")) == 400_000
