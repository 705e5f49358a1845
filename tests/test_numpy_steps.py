"""Backends say which steps NumPy runs for a codec, in stats, in doctor, and in one warning."""

import json
import subprocess
import sys
import warnings

import pytest

from vqindex import SlowCodecWarning, VQIndex
from vqindex.backends import registry
from vqindex.backends.registry import make_backend
from vqindex.codes.codec import Codec
from vqindex.spec import IndexSpec

KINDS = [
    ({}, []),
    ({"codec": "turboquant-mse"}, []),
    ({"codec": "trellis"}, []),
    ({"rotation": "haar"}, ["encode", "prepare"]),
    ({"sketch": "orthogonal"}, ["encode", "prepare", "search"]),
    ({"sketch": "gaussian"}, ["encode", "prepare", "search"]),
    ({"codec": "qjl"}, ["encode", "prepare", "search"]),
]


@pytest.fixture(autouse=True)
def _warn_again():
    registry._warn_once.cache_clear()
    yield
    registry._warn_once.cache_clear()


@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_stats_name_the_steps_that_numpy_runs(kind, steps):
    assert VQIndex(8, 2, device="native", **kind).stats()["numpy_steps"] == steps


@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_a_step_is_called_compiled_only_if_the_compiled_tables_exist(kind, steps):
    backend = make_backend(Codec(IndexSpec(8, 2, **kind)), "native")
    assert ("encode" in steps) == (backend._tables is None)
    assert ("search" in steps) == (backend._scanner is None)


def test_a_slow_codec_is_warned_of_once_and_names_its_steps():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for dim in (8, 9):
            VQIndex(dim, 2, codec="qjl", device="native")
    assert [warning.category for warning in seen] == [SlowCodecWarning]
    assert "'native' has no kernel to encode, prepare, search for codec 'qjl'" in str(seen[0].message)
    assert seen[0].filename == __file__, "the warning points at the caller's line"


@pytest.mark.filterwarnings("error::vqindex.SlowCodecWarning")
def test_fast_codecs_and_the_reference_are_not_warned_of():
    VQIndex(8, 2, device="native")
    VQIndex(8, 2, codec="qjl", device="reference")


@pytest.mark.filterwarnings("default::vqindex.SlowCodecWarning")
def test_moving_to_a_backend_without_kernels_warns():
    index = VQIndex(8, 2, codec="qjl", device="reference")
    with pytest.warns(SlowCodecWarning, match="'native' has no kernel"):
        index.to("native")


def test_doctor_lists_the_codecs_that_numpy_runs():
    command = [sys.executable, "-c", "from vqindex_cli.main import main; main()", "doctor", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["numpy_codecs"]
    assert found == {
        "turboquant-prod orthogonal": ["encode", "prepare", "search"],
        "turboquant-prod gaussian": ["encode", "prepare", "search"],
        "qjl": ["encode", "prepare", "search"],
    }
