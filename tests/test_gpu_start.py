"""Device 'cuda' from the outside: importing starts nothing, and a missing part is named in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import cli_tools
import fake_cupy
import gate
import gpu_checks as gpu
import numpy as np
import pytest

from vqindex import BackendError, VQIndex
from vqindex.backends.registry import make_backend, resolve

run = pytest.fixture(cli_tools.run)
ok = pytest.fixture(cli_tools.ok)


def test_importing_loads_no_cuda():
    code = """
import sys, vqindex, vqindex_cli.main, vqindex_gpu, vqindex_gpu.backend, vqindex_gpu.cupy_device, vqindex_gpu.doctor
vqindex.VQIndex(8)
libraries = open('/proc/self/maps').read() if sys.platform.startswith('linux') else ''
print(*(m for m in ('cupy', 'torch') if m in sys.modules), *(l for l in ('libcuda', 'libnvrtc') if l in libraries))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_missing_cupy_is_an_error_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendError, match=r"^device 'cuda' needs CuPy, .*; pip install 'vqindex\[gpu-cuda13\]'"):
        VQIndex(8, device="cuda")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"error": "cudaErrorInsufficientDriver"},
            "no usable NVIDIA driver .cudaErrorInsufficientDriver.; see",
        ),
        ({"devices": 0}, "no NVIDIA GPU; see vqindex doctor"),
    ],
)
def test_a_missing_driver_or_device_is_named(monkeypatch, kwargs, message):
    fake_cupy.install(monkeypatch, **kwargs)
    with pytest.raises(BackendError, match=message):
        VQIndex(8, device="cuda")


def test_old_devices_are_refused(monkeypatch):
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", "75")
    with pytest.raises(BackendError, match="compute capability 75; expected 80 or more"):
        VQIndex(8, device="cuda")


def test_auto_and_cpu_never_mean_a_gpu_unless_it_is_named(monkeypatch):
    monkeypatch.delenv("VQINDEX_BACKEND", raising=False)
    assert (resolve("auto"), resolve("cpu"), resolve("cuda")) == ("native", "native", "cuda")
    monkeypatch.setenv("VQINDEX_BACKEND", "cuda")
    assert (resolve("auto"), resolve("cpu")) == ("cuda", "native")


@pytest.mark.parametrize("devices", [1, 3])
def test_the_cupy_device_gives_the_references_results_on_the_emulator(monkeypatch, devices):
    """Run cupy_device.py itself, on a stand-in for CuPy."""
    module = fake_cupy.install(monkeypatch, devices)
    made = gpu.codec_of(100, 4, "l2")
    backend = make_backend(made, "cuda")
    blocks = gpu.stored(made, gate.corpus(100, rows=200), (41,))
    gpu.searches_like_the_reference(backend, blocks, gate.queries(100), 12, 0.6)
    rows = backend.encode(gate.corpus(100))
    gpu.same(rows.codes, gpu.ReferenceBackend(made).encode(gate.corpus(100)).codes)
    assert module.inside == []


def test_wide_vectors_raise_the_limit_of_shared_memory(monkeypatch):
    fake_cupy.install(monkeypatch)
    made = gpu.codec_of(8000, 1)
    x = gate.corpus(8000, rows=20)[14:17]
    gpu.same(make_backend(made, "cuda").encode(x).codes, gpu.ReferenceBackend(made).encode(x).codes)


def test_an_index_on_the_device_saves_and_loads_like_one_on_the_host(monkeypatch, tmp_path):
    fake_cupy.install(monkeypatch)
    x, q = gate.corpus(33, rows=150), gate.queries(33)
    indexes = [VQIndex(33, 3, "cosine", device=device) for device in ("cuda", "cpu")]
    for index in indexes:
        index.add(x)
        index.add(x[:10] + 1)
    for got, want in zip(*[index.search(q, 7) for index in indexes], strict=True):
        gpu.same(got, want)
    indexes[0].save(tmp_path / "on-the-device.vqi")
    indexes[1].save(tmp_path / "on-the-host.vqi")
    loaded = VQIndex.load(tmp_path / "on-the-host.vqi", device="cuda")
    assert loaded.stats()["backend"] == "cuda"
    gpu.same(loaded.search(q, 7).ids, indexes[1].search(q, 7).ids)
    again = VQIndex.load(tmp_path / "on-the-device.vqi", mmap=True, device="cpu")
    gpu.same(again.search(q, 7).scores, indexes[1].search(q, 7).scores)


def test_an_index_that_moves_between_devices_keeps_its_results(monkeypatch):
    fake_cupy.install(monkeypatch)
    x, q = gate.corpus(33, rows=150), gate.queries(33)
    index = VQIndex(33, 4)
    index.add(x[:100])
    assert index.to("cuda") is index
    assert index.stats()["backend"] == "cuda"
    index.search(q, 5)
    index.add(x[100:])
    index.remove([3, 140])
    on_device = index.search(q, 9), index.search(q, 9, filter=np.arange(0, 150, 3)), index.range_search(q, 0.0)
    index.compact()
    on_device = *on_device, index.search(q, 9)
    index.to("cpu")
    assert index.stats()["backend"] == "native"
    on_host = (*(index.search(q, 9), index.search(q, 9, filter=np.arange(0, 150, 3)), index.range_search(q, 0.0)),)
    for got, want in zip(on_device, (*on_host, on_host[0]), strict=True):
        for ours, theirs in zip(got, want, strict=True):
            gpu.same(ours, theirs)


def test_an_index_stays_where_it_is_if_it_cannot_move(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    index = VQIndex(8, device="reference")
    with pytest.raises(BackendError):
        index.to("cuda")
    assert index.stats()["backend"] == "reference"


def test_doctor_names_what_is_missing(monkeypatch, ok):
    monkeypatch.delenv("VQINDEX_BACKEND", raising=False)
    monkeypatch.setitem(sys.modules, "cupy", None)
    out = json.loads(ok("doctor", "--json"))
    assert (out["auto"], out["cuda"]) == ("native", False)
    (cupy,) = (check for check in out["checks"] if check["name"] == "CuPy")
    assert not cupy["ok"]
    assert "pip install 'vqindex[gpu-cuda13]'" in cupy["repair"]
    text = ok("doctor")
    assert "device 'auto' is backend 'native'" in text
    assert "cannot be used here" in text


def test_doctor_lists_devices(monkeypatch, ok):
    from vqindex_gpu import doctor

    fake_cupy.install(monkeypatch, 2)
    monkeypatch.setattr(doctor, "_driver", lambda: (doctor.Check("driver", True, "CUDA 13.0"), 13))
    monkeypatch.setenv("VQINDEX_BACKEND", "cuda")
    out = json.loads(ok("doctor", "--json"))
    assert out["cuda"]
    assert (out["auto"], out["why"]) == ("cuda", "VQINDEX_BACKEND is 'cuda'")
    assert [check["found"].partition(",")[0] for check in out["checks"] if check["name"] == "device"] == [
        "Emulator (cuda:0)",
        "Emulator (cuda:1)",
    ]


def test_doctor_names_a_compiler_that_is_too_new_for_the_driver(monkeypatch):
    from vqindex_gpu import doctor

    check = doctor._nvrtc(11)
    assert not check.ok
    assert "newer drivers" in check.found


@pytest.mark.gpu
def test_an_index_on_hardware_gives_the_hosts_results():
    x = np.random.default_rng(0).standard_normal((5000, 100)).astype(np.float32)
    indexes = [VQIndex(100, device=device) for device in ("cuda", "cpu")]
    for index in indexes:
        index.add(x)
    for got, want in zip(*[index.search(x[:20], 10) for index in indexes], strict=True):
        gpu.same(got, want)


def test_too_little_device_memory_leaves_the_index_as_it_was(monkeypatch):
    cupy = fake_cupy.install(monkeypatch, memory=2000)
    x, q = gate.corpus(33, rows=150), gate.queries(33)
    index, other = VQIndex(33, 4, "l2"), VQIndex(33, 4, "l2")
    for each in (index, other):
        each.add(x[:100])
    index.to("cuda")
    with pytest.raises(BackendError, match=r"streaming 64 rows needs \d+ bytes of device memory; \d+ are free"):
        index.search(q, 5)
    with pytest.raises(BackendError, match=r"has \d+ bytes of memory free; \d+ are needed"):
        index.add(x[100:])
    assert index.ntotal == 100
    gpu.same(index.ids, other.ids)
    gpu.same(index.reconstruct(index.ids), other.reconstruct(other.ids))
    cupy.memories[0].memory = 2**30
    for each in (index, other):
        each.add(x[100:])
    for got, want in zip(index.search(q, 5), other.search(q, 5), strict=True):
        gpu.same(got, want)
    cupy.memories[0].memory = 0
    for got, want in zip(index.to("cpu").search(q, 5), other.search(q, 5), strict=True):
        gpu.same(got, want)


@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_files_of_either_device_are_the_same_bytes(monkeypatch, tmp_path, codec):
    fake_cupy.install(monkeypatch, 2)
    x = gate.corpus(33, rows=150)
    for device in ("cuda", "cpu"):
        index = VQIndex(33, 2, "l2", codec=codec, keep_vectors="f16" if codec == "trellis" else None, device=device)
        index.add(x[14:90])
        index.upsert(np.arange(70, 140), x[80:])
        index.remove([1, 2])
        index.save(tmp_path / f"{device}.vqi")
    assert (tmp_path / "cuda.vqi").read_bytes() == (tmp_path / "cpu.vqi").read_bytes()


@pytest.fixture
def benchmark_script(tmp_path):
    def run(*args):
        script = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
        command = [sys.executable, str(script), "--emulate", "--out", str(tmp_path), *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not list(tmp_path.iterdir()), "the script wrote times of the emulator"
        lines = done.stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")], [
            line for line in lines if line.startswith("skipped")
        ]

    return run


def test_the_benchmark_runs_every_step_on_the_emulator(benchmark_script):
    lines, skipped = benchmark_script()
    assert [(line["name"], line["passed"]) for line in lines if line["what"] == "check"] == [("instructions", True)]
    whats = [line["what"] for line in lines]
    assert whats[0] == "versions"
    assert {"copy", "encode", "search"} < set(whats)
    # torch is measured on the CPU if it is installed. Libraries that are missing or lack GPU support are skipped.
    for name, what in {
        "torch float16": "torch float16 matmul + topk",
        "torch int8": "torch._int_mm + topk",
        "faiss Flat float16": "faiss Flat float16",
        "faiss IVFPQ": "faiss IVFPQ",
        "cuVS": "cuVS brute force",
    }.items():
        assert (what in whats) != any(line.startswith(f"skipped: {name}: ") for line in skipped), (name, skipped)


def test_the_benchmark_skips_steps_after_its_time(benchmark_script):
    lines, skipped = benchmark_script("--no-tests", "--minutes", "0")
    assert {line["what"] for line in lines} == {"versions"}
    assert "skipped: copying: the time is over" in skipped
