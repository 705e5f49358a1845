"""The soak test (tests/soak/) passes where nothing is lost, and notices what a broken writer loses."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("resource", reason="the soak sets limits of POSIX")

from soak.journal import Journal
from soak.model import Loss, Setup, State, check_index
from soak.writer import BROKEN

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the soak needs fork and Linux's limits")

TESTS = Path(__file__).resolve().parent


def soak(folder, *arguments, seconds=1.5):
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "soak", "--folder", str(folder), "--seconds", str(seconds), "--seed", "1", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def counts(report):
    return {event: int(times) for times, event in re.findall(r"^ *(\d+)  (.+)$", report, re.MULTILINE)}


@pytest.mark.parametrize("kind", ["store", "file with two writers"])
def test_a_short_soak_loses_nothing_and_says_what_it_did(tmp_path, kind):
    code, report = soak(tmp_path / "soak", "--only", kind)
    assert code == 0, report
    assert report.endswith("nothing lost\n")
    assert not (tmp_path / "soak").exists()
    found = counts(report)
    assert found["rounds"] == found["last looks"] >= 1
    assert found["killed writers"] + found["killed readers"] >= 1


@pytest.mark.parametrize(
    ("broken", "kind", "message"),
    [
        ("acknowledges-first", "store", "was found, which is a former one"),
        (
            "writes-in-place",
            "file",
            f"FileFormatError|ended with -{int(getattr(signal, 'SIGBUS', 7))}",
        ),  # of a file cut under its map
        ("forgets-a-change", "file", "1 missing ids"),
        ("mixes-versions", "store", "answers otherwise than a new index"),
    ],
)
def test_a_soak_notices_what_a_broken_writer_loses(tmp_path, broken, kind, message):
    code, report = soak(tmp_path / "soak", "--only", kind, "--broken", broken, seconds=60)
    assert code == 1, report
    assert re.search(r"^LOST with --seed 1; everything is kept in ", report, re.MULTILINE)
    assert re.search(message, report), report
    assert (tmp_path / "soak" / "round-0" / "journal").exists()


def test_every_broken_writer_is_tried():
    (marks,) = test_a_soak_notices_what_a_broken_writer_loses.pytestmark
    assert {broken for broken, _, _ in marks.args[1]} == set(BROKEN)


# ---- the journal: which states may be found


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.start()
    return journal


def may_be_found(journal, number, start=None):
    now = journal.clock()
    try:
        return journal.state_found(number, now if start is None else start, now).number == number
    except Loss:
        return False


def test_an_acknowledged_state_replaces_those_before_it(journal):
    before = journal.clock()
    journal.intend("a", State(1), 0)
    assert may_be_found(journal, 0)
    assert may_be_found(journal, 1), "it is in flight"
    assert not may_be_found(journal, 2)
    journal.acknowledge("a")
    assert may_be_found(journal, 1)
    assert not may_be_found(journal, 0)
    assert may_be_found(journal, 0, before), "the reader began before it was acknowledged"


@pytest.mark.parametrize("end", ["fail", "bury"])
def test_a_failed_state_may_be_found_until_something_else_was(journal, end):
    journal.intend("a", State(1), 0)
    getattr(journal, end)("a")
    assert may_be_found(journal, 0)
    assert may_be_found(journal, 1)
    journal.find("b", State(0), journal.clock())
    assert may_be_found(journal, 0)
    assert not may_be_found(journal, 1)


def test_of_two_states_in_flight_at_once_either_may_remain(journal):
    journal.intend("a", State(1), 0)
    journal.intend("b", State(2), 0)
    journal.acknowledge("b")
    journal.acknowledge("a")
    assert may_be_found(journal, 1)
    assert may_be_found(journal, 2)
    assert not may_be_found(journal, 0)
    assert journal.overwritten() == [1]


def test_half_a_record_of_a_killed_process_is_passed_over(journal, tmp_path):
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'\n{"intend": {"number": 7, "ro')
    journal.intend("a", State(1), 0)
    journal.acknowledge("a")
    assert may_be_found(journal, 1)
    assert not may_be_found(journal, 7)
    assert journal.last_number() == 1


# ---- the comparison of an index with a state


@pytest.mark.parametrize("ids", ["numbers", "strings"])
@pytest.mark.parametrize("keep_vectors", [None, "f16"])
@pytest.mark.parametrize("center", [None, "mean"])
def test_an_index_of_other_ids_versions_or_order_is_not_the_state(ids, keep_vectors, center):
    setup = Setup(ids=ids, keep_vectors=keep_vectors, center=center)
    rows = tuple((setup.id_of(number), number % 3) for number in range(100))
    point = None if center is None else setup.vectors(rows).mean(0)

    def is_state(rows_of_index, *removed):
        index = setup.reference(rows_of_index, point)
        index.remove(list(removed))
        try:
            check_index(index, State(1, rows), setup, random.Random(0), len(rows))
        except Loss:
            return False
        return True

    assert is_state(rows)
    assert is_state((*rows[:50], (setup.id_of(500), 1), *rows[50:]), setup.id_of(500))
    assert not is_state(rows, setup.id_of(70))
    assert not is_state((*rows, (setup.id_of(500), 1)))
    assert not is_state((rows[1], rows[0], *rows[2:]))
    assert not is_state(((rows[0][0], 9), *rows[1:]))


def test_vectors_differ_by_id_and_version():
    rows = [(id, version) for id in (0, 1, "item 0", "item 1") for version in (0, 1)]
    vectors = Setup().vectors(rows)
    assert np.unique(vectors, axis=0).shape == (len(rows), vectors.shape[1])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
