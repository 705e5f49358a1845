"""The searches of the trellis experiments agree with the codec's and keep their constraints."""

from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def lab(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import trellis_lab

    return trellis_lab


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_searches_of_the_lab_walk_along_the_trellis(lab, bits):
    code = lab.shipped(bits)
    y = lab.sphere(20, 40, bits)
    mask, shift = code.states - 1, code.window - code.bits
    errors = {}
    for name, at in {
        "native": lab.native_windows(y, code),
        "free": lab.viterbi(y, code),
        "fixed": lab.viterbi(y, code, first=np.zeros(len(y), np.int64)),
        "closed": lab.tail_biting(y, code),
    }.items():
        assert np.array_equal(at[:, 1:] & mask, at[:, :-1] >> code.bits)
        assert at.max() >> shift < 2**bits
        errors[name] = lab.squared_error(y, code.table[at])
        if name == "fixed":
            assert not np.any(at[:, 0] & mask)
        if name == "closed":
            assert np.array_equal(at[:, 0] & mask, at[:, -1] >> code.bits)
    # The integer costs of the codec lose up to 0.1 % at 4 bits; a constraint can only add to the free search's error.
    assert errors["free"] <= errors["native"] <= 1.002 * errors["free"]
    assert errors["free"] < min(errors["fixed"], errors["closed"])


def test_e8_points_have_the_known_counts_and_are_their_own_nearest(lab):
    norms = (lab.e8_ball(2401) ** 2).sum(axis=1)
    assert [int((norms == n).sum()) for n in (0, 2, 4)] == [1, 240, 2160]
    points = lab.e8_ball(2401)
    assert np.array_equal(lab.nearest_e8(points + 0.05), points)


def test_the_script_of_the_tables_writes_where_the_codec_reads_them(lab):
    import trellis_tables

    from vqindex.codes import trellis_tables as shipped

    assert Path(shipped.__file__).samefile(trellis_tables.TARGET)
