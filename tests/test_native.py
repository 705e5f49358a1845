"""The compiled extension and the imports around it."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import vqindex
from vqindex import _native

FLAGS = {
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "bmi2"},
    "avx512vnni": {"avx512_vnni"},
    "avx512vbmi": {"avx512_vnni", "avx512vbmi"},
    "neondot": {"asimddp"},
}


def test_plain_code_is_always_supported():
    assert _native.supported_isas()[0] == "scalar"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux's list of processor flags")
def test_detection_agrees_with_the_kernels_list():
    line = next(s for s in Path("/proc/cpuinfo").read_text().splitlines() if s.startswith(("flags", "Features")))
    flags = set(line.split(":")[1].split())
    ours = _native.supported_isas()
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
