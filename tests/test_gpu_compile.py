"""NVRTC compiles every kernel variant without a GPU: no warnings, budgets kept, the instructions that were meant."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pytest
from gpu_variants import variants

from vqindex.errors import BackendError
from vqindex_gpu import modules
from vqindex_gpu.modules import Nvrtc

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NVRTC's package is for Linux")

HOPPER, OLDEST = "sm_90a", "compute_80"
# Registers a thread: 65,536 of a multiprocessor over what must be resident at once. The batch scan holds 96 sums (with
# the sign bound) and lives with three blocks of 128 threads; the others get what lets eight or more blocks be there.
REGISTERS = {"scan": 176, "encode": 64, "prepare": 64, "viterbi": 64}
OTHERS = 48
# Spills are 8 bytes around the calls of float64 division and square root, which the compiler makes subroutines.
SPILLS = 16


@lru_cache(maxsize=1)
def compiled():
    """All variants for both targets: {(kernel, macros, target): Compiled}."""
    nvrtc = Nvrtc()
    jobs = [(kernel, macros, arch) for kernel, macros, _ in variants() for arch in (HOPPER, OLDEST)]
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda job: nvrtc.compile(job[0], dict(job[1]), job[2]), jobs)
        return dict(zip(jobs, done, strict=True))


def on_hopper():
    return {job: made for job, made in compiled().items() if job[2] == HOPPER}


def number(pattern, log):
    return sum(int(found) for found in re.findall(pattern, log))


def test_the_matrix_is_whole():
    kernels = {path.stem for path in modules.KERNELS.glob("*.cu")}
    assert {kernel for kernel, _, _ in compiled()} == kernels
    scans = [dict(macros) for kernel, macros, arch in on_hopper() if kernel == "scan"]
    assert len(scans) == (4 * 2 + 3 * 2 + 1) * 2, (
        "with and without the sign bound, but for the trellis of one bit; two batches"
    )


def test_sources_include_nothing_and_entries_are_named_after_files():
    for path in modules.KERNELS.glob("*.cu"):
        text = modules.source(path.stem)
        assert "#include" not in text
        assert re.findall(r"VQ_KERNEL\([^)]*\)*\s*(vq_\w+)\(", text) == [f"vq_{path.stem}"]


def test_ptx_stays_in_one_header():
    for path in modules.KERNELS.iterdir():
        assert path.name == "common.cuh" or "asm" not in path.read_text()


def test_kernels_own_no_memory_and_none_is_managed():
    for path in modules.KERNELS.iterdir():
        assert not re.search(r"\b(malloc|free|new|delete|__managed__)\b", re.sub(r"//.*", "", path.read_text())), path
    for path in modules.KERNELS.parent.glob("*.py"):
        assert "managed" not in path.read_text().lower(), path


def test_compiles_without_warnings():
    for job, made in compiled().items():
        assert made.binary, job
        assert "warning" not in made.log, (job, made.log)


def test_registers_and_spills_keep_their_budgets():
    for (kernel, macros, _), made in on_hopper().items():
        registers = number(r"Used (\d+) registers", made.log)
        assert 0 < registers <= REGISTERS.get(kernel, OTHERS), (kernel, macros, registers)
        spills = number(r"(\d+) bytes spill stores", made.log)
        assert spills <= SPILLS, (kernel, macros, spills)


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """Return the machine code of a variant as text."""
    nvidia = pytest.importorskip("nvidia", reason="needs nvidia-cuda-nvdisasm")
    tools = [path for root in nvidia.__path__ for path in Path(root).glob("*/bin/nvdisasm")]
    assert tools, "nvidia-cuda-nvdisasm is in the dev extra"
    folder = tmp_path_factory.mktemp("cubin")

    def text(binary):
        (folder / "kernel.cubin").write_bytes(binary)
        done = subprocess.run([tools[0], "-c", folder / "kernel.cubin"], capture_output=True, text=True, check=True)
        return done.stdout

    return text


def instructions(text):
    return re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", text, re.MULTILINE)


def test_the_scan_multiplies_int8_on_the_tensor_cores(assembly):
    for (kernel, macros, _), made in on_hopper().items():
        if kernel == "scan" and dict(macros)["BITS"] in (1, 4):
            names = instructions(assembly(made.binary))
            assert any(name.startswith("IMMA.16832.S8.S8") for name in names), macros
            assert any(name.startswith("IMMA.16832.S8.U8") for name in names), macros
            assert not any(name.startswith(("LDL", "STL")) for name in names) or dict(macros).get("WINDOW"), macros


def test_float_operations_are_neither_fused_nor_flushed(assembly):
    """Of float32; the compiler divides and takes roots in float64 with fused steps, correctly rounded in the end."""
    for (kernel, macros, _), made in on_hopper().items():
        if kernel in ("encode", "prepare", "finish", "score", "bound", "accept"):
            text = assembly(made.binary)
            names = instructions(text)
            assert names
            # (An integer division is made of conversions with .FTZ; they meet no subnormal.)
            flushed = [name for name in names if name.startswith("F") and ".FTZ" in name and not name.startswith("F2I")]
            divides = kernel == "prepare" or dict(macros).get("TRELLIS")  # in float32; its rare cases have .FTZ
            assert divides or not flushed, (kernel, macros)
            if kernel == "encode" and not divides:
                assert "FADD" in names
                fused = [line for line in text.splitlines() if "FFMA" in line]
                # The float64 division looks for infinities with 0 * x + y, RZ being 0.
                assert all(re.search(r"FFMA R\d+, RZ, ", line) for line in fused), fused


def test_what_does_not_compile_says_so(monkeypatch):
    monkeypatch.setattr(modules, "source", lambda name: "nonsense")
    with pytest.raises(BackendError, match=r"scan\.cu does not compile for sm_90a:\n.*error"):
        Nvrtc().compile("scan", {}, HOPPER)


def test_the_cache_is_keyed_by_what_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("VQINDEX_CACHE", str(tmp_path))
    first = modules.compiled("finish", {"THREADS": 128}, HOPPER)
    assert first == modules.compiled("finish", {"THREADS": 128}, HOPPER)
    modules.compiled("finish", {"THREADS": 64}, HOPPER)
    files = list(tmp_path.rglob("*.cubin"))
    assert len(files) == 2
    text = modules.source("finish")
    monkeypatch.setattr(modules, "source", lambda name: text + "// changed\n")
    modules.compiled("finish", {"THREADS": 128}, HOPPER)
    assert len(list(tmp_path.rglob("*.cubin"))) == 3
