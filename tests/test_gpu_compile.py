"""NVRTC compiles every kernel variant without a GPU: without warnings, within budgets, to the intended instructions."""

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
# Registers of a thread. A multiprocessor has 65,536 of them for all resident threads. The batch scan with sign bound
# keeps 96 sums in registers, so only two or three blocks of 128 threads are resident; other budgets allow eight.
REGISTERS = {"scan": 176, "encode": 64, "prepare": 64, "viterbi": 64}
OTHERS = 48
# The compiler turns float64 division and square root into subroutines, and spills 8 bytes around each call.
SPILLS = 16


@lru_cache(maxsize=1)
def compiled():
    """Return all variants for both targets: {(kernel, macros, target): Compiled}."""
    nvrtc = Nvrtc()
    jobs = [(kernel, macros, arch) for kernel, macros, _ in variants() for arch in (HOPPER, OLDEST)]
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda job: nvrtc.compile(job[0], dict(job[1]), job[2]), jobs)
        return dict(zip(jobs, done, strict=True))


def on_hopper():
    return {job: made for job, made in compiled().items() if job[2] == HOPPER}


def number(pattern, log):
    return sum(int(found) for found in re.findall(pattern, log))


def test_every_kernel_and_every_scan_variant_is_compiled():
    kernels = {path.stem for path in modules.KERNELS.glob("*.cu")}
    assert {kernel for kernel, _, _ in compiled()} == kernels
    scans = [dict(macros) for kernel, macros, arch in on_hopper() if kernel == "scan"]
    assert len(scans) == (4 * 2 + 3 * 2 + 1) * 2, (
        "each code with and without the sign bound, except the trellis of one bit; single queries and batches"
    )


def test_sources_include_nothing_and_entries_are_named_after_files():
    for path in modules.KERNELS.glob("*.cu"):
        text = modules.source(path.stem)
        assert "#include" not in text
        assert re.findall(r"VQ_KERNEL\([^)]*\)*\s*(vq_\w+)\(", text) == [f"vq_{path.stem}"]


def test_ptx_stays_in_one_header():
    for path in modules.KERNELS.iterdir():
        assert path.name == "common.cuh" or "asm" not in path.read_text()


def test_kernels_allocate_nothing_and_no_memory_is_managed():
    for path in modules.KERNELS.iterdir():
        assert not re.search(r"\b(malloc|free|new|delete|__managed__)\b", re.sub(r"//.*", "", path.read_text())), path
    for path in modules.KERNELS.parent.glob("*.py"):
        assert "managed" not in path.read_text().lower(), path


def test_every_variant_compiles_without_warnings():
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
    """Check float32 operations. The compiler's float64 division and root fuse steps, but round correctly in the end."""
    for (kernel, macros, _), made in on_hopper().items():
        if kernel in ("encode", "prepare", "finish", "score", "bound", "accept"):
            text = assembly(made.binary)
            names = instructions(text)
            assert names
            # An integer division consists of conversions with .FTZ, whose operands are never subnormal.
            flushed = [name for name in names if name.startswith("F") and ".FTZ" in name and not name.startswith("F2I")]
            divides = kernel == "prepare" or dict(macros).get("TRELLIS")  # float32 division has .FTZ in rare cases
            assert divides or not flushed, (kernel, macros)
            if kernel == "encode" and not divides:
                assert "FADD" in names
                fused = [line for line in text.splitlines() if "FFMA" in line]
                # The float64 division tests for infinities with 0 * x + y; register RZ is 0.
                assert all(re.search(r"FFMA R\d+, RZ, ", line) for line in fused), fused


def test_a_compiler_error_names_kernel_and_architecture(monkeypatch):
    monkeypatch.setattr(modules, "source", lambda name: "nonsense")
    with pytest.raises(BackendError, match=r"scan\.cu does not compile for sm_90a:\n.*error"):
        Nvrtc().compile("scan", {}, HOPPER)


def test_the_cache_compiles_anew_if_source_or_macros_change(tmp_path, monkeypatch):
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
