"""The compiled extension and the imports around it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scans import backends, every_isa, make_rows, stored_segments

import vqindex
from vqindex import _native
from vqindex.codes.sign_bound import quantile
from vqindex.spec import METRICS, IndexSpec

FLAGS = {
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "bmi2"},
    "avx512vnni": {"avx512_vnni"},
    "avx512vbmi": {"avx512_vnni", "avx512vbmi"},
    "neondot": {"asimddp"},
}


TILES = {"avx512_vnni", "avx512vbmi", "amx_tile", "amx_int8"}  # flags of a processor with "amx"

# Gives the thread an alternate signal stack with no room for the tiles. Linux then refuses them to the process.
REFUSED = """
import ctypes
class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(6144)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(ctypes.addressof(memory), 0, len(memory))), None) == 0
"""


def flags_of_processor():
    line = next(s for s in Path("/proc/cpuinfo").read_text().splitlines() if s.startswith(("flags", "Features")))
    return set(line.split(":")[1].split())


def has_tiles():
    return Path("/proc/cpuinfo").exists() and flags_of_processor() >= TILES


def test_the_plain_kernels_are_always_supported_and_the_emulation_is_no_default():
    ours = _native.supported_isas()
    assert {"scalar", "tiles-emulated"} <= set(ours)
    assert ours[-1] != "tiles-emulated"
    assert _native.Scanner(4, 1, 1, 0, np.array([-1, 1], np.int16), "ip").isa == ours[-1]


@pytest.mark.skipif(not has_tiles(), reason="needs a processor with AMX")
def test_amx_is_found_where_linux_permits_it_and_refused_by_name_where_it_does_not():
    def run(code, **variables):
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables}
        )

    show = "import vqindex._native as n; print(n.supported_isas()[-1])"
    assert run(show).stdout.strip() == "amx"
    done = run(REFUSED + show)
    assert (done.returncode, done.stdout.strip()) == (0, "avx512vbmi"), done.stderr
    search = "import vqindex, numpy as np; vqindex.VQIndex(8).add(np.ones((1, 8), np.float32))"
    done = run(REFUSED + search, VQINDEX_ISA="amx")
    assert "VQINDEX_ISA is 'amx'; this machine has: " in done.stderr
    assert run(search, VQINDEX_ISA="amx").returncode == 0


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux's list of processor flags")
def test_detected_instruction_sets_agree_with_proc_cpuinfo():
    flags, ours = flags_of_processor(), _native.supported_isas()
    for name, needed in FLAGS.items():
        assert (name in ours) == (needed <= flags), name
    assert ("neon" in ours) == (platform.machine() == "aarch64")


def test_importing_the_library_pulls_in_no_heavy_package():
    heavy = "torch cupy faiss rich click matplotlib pyarrow"
    code = f"import sys, vqindex; print(*(m for m in '{heavy}'.split() if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_installed_version_is_the_source_version():
    from importlib.metadata import version

    assert version("vqindex") == vqindex.__version__


@every_isa
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("confidence", [1.0, 0.9])
def test_search_returns_rank_scores_and_counts_of_dropped_rows(isa, metric, confidence):
    """For one query and a batch, on one thread and three, without a filter, with one, and with one for each query."""
    spec, n, k = IndexSpec(64, 4, metric), 3000, 20
    reference, compiled = backends(spec)
    backend = compiled[isa]
    rows, queries = reference.encode(make_rows("ties", n, 64, 1)), reference.prepare(make_rows("plain", 5, 64, 2))
    ranks = reference._signed(reference.scores(queries, rows))
    if confidence < 1:
        ranks = np.minimum(ranks, reference._signed(reference._bounds(queries, rows, quantile(confidence))))
    segments = stored_segments(spec, rows, (9,))
    words = np.random.default_rng(0).integers(0, 2**63, (5, -(-n // 64)), dtype=np.uint64)
    words[0, :46] = 0  # fewer than k rows: some places are missing
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :n].astype(bool)
    for nq, threads, selected in (
        *((nq, threads, None) for nq in (1, 5) for threads in (1, 3)),
        *((nq, threads, slice(0, 1)) for nq in (1, 5) for threads in (1, 3)),
        (5, 1, slice(0, 5)),
    ):
        selection = None if selected is None else [words[selected, :9], words[selected, 9:]]
        is_selected = np.ones((nq, n), bool) if selected is None else np.broadcast_to(bits[selected], (nq, n))
        scores, found, rank_scores, dropped = backend._scanner.search(
            segments,
            queries.code_query[:nq],
            queries.code_scale[:nq],
            queries.norm[:nq],
            k,
            backend._sign_bound(confidence),
            threads,
            selection,
        )
        is_present = found >= 0
        assert rank_scores.dtype == np.float32
        assert rank_scores.shape == scores.shape == (nq, k)
        want = np.where(is_present, np.take_along_axis(ranks[:nq], found, axis=1), np.float32(-np.inf))
        np.testing.assert_array_equal(rank_scores, want)
        assert dropped.dtype == np.int64
        assert dropped.shape == (nq,)
        assert (dropped >= 0).all()
        # A returned row was not dropped.
        assert (dropped <= is_selected.sum(axis=1) - is_present.sum(axis=1)).all()
        if confidence == 1:
            assert not dropped.any()
        elif nq > 1 and isa == "tiles-emulated":
            assert not dropped.any()  # it scans five queries by tiles
        elif selected is None:
            assert (dropped > n // 4).all()
