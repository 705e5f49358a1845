"""The emulator finds the faults it is meant to find, and computes what the hardware computes (checked with -m gpu)."""

import subprocess
import sys
from pathlib import Path

import emulated
import numpy as np
import pytest
from emulated import EmulatedDevice, EmulatorError

from vqindex_gpu import modules

SEEDS = range(1, 7)
# Barriers whose deletion makes a result wrong: the body to run, a mark in a source, number of the barrier after it.
BARRIERS = [
    ("encode", "void vq_to_scaled", 0),
    ("encode", "void vq_rotate", 0),
    ("encode", "void vq_rotate", 1),
    ("encode", "float* scaled_thresholds", 0),
    ("encode", "float* scaled_thresholds", 1),
    ("scan", "decoded[chunk % 2][warp][s][lane] = a.levels;", 0),
    ("scan", "__shared__ int histogram", 0),
    ("scan", "__shared__ int histogram", 1),
    ("scan", "__shared__ int histogram", 2),
    ("scan", "if (lane == 0) warp_counts[0]", 0),
    ("bound", "vq_bound(", 0),
]


def goes_wrong(body, start, number):
    """Return whether any schedule gives a wrong result, an error of the emulator or a crash."""
    command = [sys.executable, str(Path(emulated.__file__).parent / "broken.py"), body, start, str(number)]
    runs = (subprocess.run([*command, str(seed)], capture_output=True, check=False) for seed in SEEDS)
    return any(run.returncode for run in runs)


@pytest.mark.parametrize("body", ["encode", "scan", "bound"])
def test_unchanged_kernels_are_right_under_every_schedule(body):
    assert not goes_wrong(body, "", 0)


@pytest.mark.parametrize(("body", "start", "number"), BARRIERS)
def test_a_deleted_barrier_is_found(body, start, number):
    assert start in modules.source(body) or start in modules.source("select")
    assert goes_wrong(body, start, number)


def test_threads_that_wait_forever_are_found():
    def edit(text):
        before, mark, after = text.partition("__shared__ int histogram")
        return before + mark + after.replace("__syncthreads();", "if (threadIdx.x != 3) __syncthreads();", 1)

    device = EmulatedDevice(edit=edit)
    arguments = [device.upload(np.zeros((1, 4), np.float32)), np.int64(4), np.int32(1), device.empty((1, 1), np.int32)]
    with pytest.raises(EmulatorError, match=r"select: block \(0, 0\): .* wait"):
        device.launch("select", {"COLLECT": 0, "THREADS": 256}, (1, 1), 256, arguments)


def test_writes_outside_of_an_array_are_found():
    device = EmulatedDevice()
    short = device.empty((1, 3), np.int32)
    arguments = [device.upload(np.ones((1, 8), np.float32)), np.int64(8), np.int32(8), short]
    with pytest.raises(EmulatorError, match="outside of its arrays"):
        device.launch("select", {"COLLECT": 0, "THREADS": 256}, (1, 1), 256, arguments)


def test_host_arrays_and_python_numbers_are_refused_as_arguments():
    device = EmulatedDevice()
    with pytest.raises(AssertionError, match="no device array"):
        device.launch("select", {"COLLECT": 0, "THREADS": 256}, (1, 1), 256, [np.zeros(4, np.float32), 4])


# One kernel that runs every vq_* function with PTX, and the intrinsics that the kernels depend on.
PROBE = """
VQ_KERNEL(32) vq_probe(const uint4 *a, const uint2 *b, int *signed_out, int *unsigned_out, u32 *permuted, float *f) {
    const int lane = threadIdx.x;
    int c[4] = {lane, -lane, 7, 0}, d[4] = {1, 2, 3, -4};
    vq_mma_s8(c, vq_load_once(a + lane), b[lane].x, b[lane].y);
    vq_mma_u8(d, a[lane], b[lane].x, b[lane].y);
    for (int i = 0; i < 4; ++i) {
        signed_out[lane * 4 + i] = c[i];
        unsigned_out[lane * 4 + i] = d[i];
    }
    permuted[lane * 2] = vq_permute(a[lane].x, a[lane].y, b[lane].x & 0x7777);
    permuted[lane * 2 + 1] = __funnelshift_r(a[lane].x, a[lane].y, lane);
    f[lane] = __ll2float_rn((i64)a[lane].x * (int)b[lane].y);
}
"""


def run_probe(device):
    """Run the probe and return inputs and outputs."""
    rng = np.random.default_rng(3)
    a = rng.integers(0, 2**32, (32, 4), dtype=np.uint32)
    b = rng.integers(0, 2**32, (32, 2), dtype=np.uint32)
    out = [device.empty((32, 4), np.int32), device.empty((32, 4), np.int32)]
    out += [device.empty((32, 2), np.uint32), device.empty((32,), np.float32)]
    device.launch("probe", {}, (1, 1), 32, [device.upload(a), device.upload(b), *out])
    return a, b, [device.download(array) for array in out]


def check_probe(device):
    a, b, (signed, unsigned, permuted, floats) = run_probe(device)
    # Fragments as PTX defines them for m16n8k32.
    matrix_a = np.zeros((16, 32), np.int64)
    matrices_b = np.zeros((2, 32, 8), np.int64)  # signed and unsigned
    bytes_a, bytes_b = a.view(np.uint8).reshape(32, 4, 4), b.view(np.uint8).reshape(32, 2, 4)
    for lane in range(32):
        g, t = divmod(lane, 4)
        for register in range(4):
            columns = slice(t * 4 + register // 2 * 16, t * 4 + register // 2 * 16 + 4)
            matrix_a[g + register % 2 * 8, columns] = bytes_a[lane, register].view(np.int8)
        for register in range(2):
            rows = slice(t * 4 + register * 16, t * 4 + register * 16 + 4)
            matrices_b[0, rows, g] = bytes_b[lane, register].view(np.int8)
            matrices_b[1, rows, g] = bytes_b[lane, register]
    for got, product, start in (
        (signed, matrix_a @ matrices_b[0], None),
        (unsigned, matrix_a @ matrices_b[1], (1, 2, 3, -4)),
    ):
        for lane in range(32):
            g, t = divmod(lane, 4)
            first = np.array((lane, -lane, 7, 0) if start is None else start)
            where = [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)]
            assert got[lane].tolist() == (first + [product[place] for place in where]).tolist()
    for lane in range(32):
        both = a[lane, :2].tobytes()
        expected = bytes(both[int(b[lane, 0]) >> 4 * i & 7] for i in range(4))
        assert permuted[lane, 0].tobytes() == expected
        assert permuted[lane, 1] == int.from_bytes(both, "little") >> lane & 0xFFFFFFFF
        assert floats[lane] == np.float32(int(a[lane, 0]) * int(b[lane, 1].view(np.int32)))


@pytest.fixture
def probe_source(monkeypatch):
    text = (modules.KERNELS / "common.cuh").read_text() + PROBE
    monkeypatch.setattr(modules, "source", lambda name: text)


@pytest.mark.usefixtures("probe_source")
def test_instructions_of_the_emulator_compute_what_ptx_defines():
    check_probe(EmulatedDevice())


@pytest.mark.gpu
@pytest.mark.usefixtures("probe_source")
def test_instructions_of_the_hardware_compute_what_ptx_defines():
    from vqindex_gpu.cupy_device import CupyDevice

    check_probe(CupyDevice(0))
