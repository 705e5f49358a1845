"""Test the GPU engine on a device, then measure it beside its floors and other libraries.

    python benchmarks/gpu.py [--name h200] [--minutes 10] [--rows 1000000 10000000 100000000] [--no-tests]

1. Checks. Each may take a share of the time: the instructions that the emulator imitates, the hash gate, and all other
   tests of `pytest -m gpu`. If a check fails, nothing is timed.
2. Encoding of rows that lie on the device. `share_of_memory_floor` is the time in which a copy moves as many bytes,
   divided by the measured time.
3. Searches (k = 10) of random codes of 1, 2 and 4 bits, at confidence 1 and at the default. `share_of_memory_floor` is
   the time in which a copy moves the bytes of the codes once, divided by the measured time.
4. Other libraries on the same device, if they can be imported: torch float16 matmul + topk, torch._int_mm + topk,
   faiss-gpu (Flat float16, IVFPQ) and cuVS (brute force). They are measured with the smallest number of rows.

Each check and each measurement is written at once as a JSON line to results/gpu-<name>.jsonl, with the device's name. A
run that ends early therefore keeps its results. A step is skipped with a message if it does not fit, is not installed,
fails, or would start after the time given. `--emulate` runs all steps on the emulator in tiny sizes, with torch on the
CPU and only the first check. It tests the script; its times mean nothing and are not written.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Queries
from vqindex.errors import BackendError
from vqindex.spec import IndexSpec
from vqindex_cli.output import show_table
from vqindex_gpu.device import Device
from vqindex_gpu.engine import Engine
from vqindex_gpu.mirror import MAX_ROWS, DeviceRows

DIM = 1536
K = 10
QUERIES = (1, 8, 64, 1024)
BITS = (1, 2, 4)
DEFAULT_CONFIDENCE = 0.995
_PATTERN_ROWS = 2**14  # random rows that the host generates and the device repeats


class Clock:
    """Median seconds of work on the device: from CUDA events, or from the wall clock on the emulator."""

    def __init__(self, emulated: bool) -> None:
        self._emulated = emulated

    def __call__(self, work: Callable[[], Any], repeats: int = 5, enough: float = 3.0) -> float:
        """Run the work once to compile and warm up, then `repeats` times or until `enough` seconds are measured."""
        if self._emulated:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        import cupy

        work()
        taken = []
        for _ in range(repeats):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            work()
            end.record()
            end.synchronize()
            taken.append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
            if sum(taken) > enough:
                break
        return float(np.median(taken))


def copy_speed(device: Device, clock: Clock, size: int) -> float:
    """Return the bytes that a copy on the device reads and writes in a second."""
    source, target = (device.empty((size,), np.uint8) for _ in range(2))
    device.fill(source, 1)
    return 2 * size / clock(lambda: device.copy(target, source))


def repeated(device: Device, rows: int, width: int, dtype: Any, make: Callable[[int], np.ndarray]) -> Any:
    """Return a device array of rows * width values, which repeats a pattern from the host."""
    out = device.empty((rows * width,), dtype)
    pattern = device.upload(np.ascontiguousarray(make(min(rows, _PATTERN_ROWS) * width), dtype))
    for start in range(0, out.size, pattern.size):
        stop = min(out.size, start + pattern.size)
        device.copy(out[start:stop], pattern[: stop - start])
    return out


def random_segments(device: Device, engine: Engine, rows: int, seed: int = 0) -> list[DeviceRows]:
    """Return rows of random codes; each segment has random weights of its own."""
    rng, segments = np.random.default_rng(seed), []
    words = engine.layout.tile_words // 64
    for start in range(0, rows, MAX_ROWS):
        capacity = -(-min(MAX_ROWS, rows - start) // 64) * 64
        codes = repeated(device, capacity, words, np.uint64, lambda n: rng.integers(0, 2**64, n, dtype=np.uint64))
        code_weight, norm = (
            repeated(device, capacity, 1, np.float32, lambda n: 1 + rng.random(n, np.float32)) for _ in range(2)
        )
        segments.append(DeviceRows(codes, code_weight, None, norm, capacity, min(MAX_ROWS, rows - start)))
    return segments


class Sizes(NamedTuple):
    """Sizes of the measurements; tiny on the emulator."""

    dim: int
    queries: tuple[int, ...]
    encoded: tuple[int, ...]
    rows: tuple[int, ...]
    copied: int
    place: str  # torch's name of the device


class Step(NamedTuple):
    """A measurement. If it fails, the others still run."""

    name: str
    run: Callable[[], Iterator[dict[str, Any]]]


def fits(device: Device, size: int) -> None:
    if size > 0.8 * device.free_bytes():
        raise BackendError(f"{size} bytes do not fit {device.free_bytes()} bytes of device memory")


def encoding(device: Device, clock: Clock, speed: float, rows: int, dim: int) -> Iterator[Step]:
    def vectors(count: int) -> Any:
        fits(device, count * dim * 5)
        rng = np.random.default_rng(1)
        made = repeated(device, count, dim, np.float32, lambda n: rng.standard_normal(n, np.float32))
        return made.reshape(count, dim)

    def run(codec: str, bits: int) -> Iterator[dict[str, Any]]:
        some = vectors(rows if codec != "trellis" else max(1, rows // 16))
        engine = Engine(device, Codec(IndexSpec(dim, bits, codec=codec)))
        seconds = clock(lambda: engine.encode(some))
        moved = len(some) * (4 * dim + engine.spec.bytes_per_vector)
        yield {
            "what": "encode",
            "codec": codec,
            "bits": bits,
            "n": len(some),
            "dim": dim,
            "seconds": seconds,
            "vectors_per_second": len(some) / seconds,
            "share_of_memory_floor": moved / speed / seconds,
        }

    for codec in ("turboquant-prod", "trellis"):
        for bits in BITS:
            yield Step(f"encoding {rows} rows, {codec}, {bits} bits", lambda c=codec, b=bits: run(c, b))


def search_all(engine: Engine, segments: list[DeviceRows], queries: Queries, confidence: float) -> None:
    at_once = engine.batch(segments, K)
    for start in range(0, queries.code_query.shape[0], at_once):
        engine.search(segments, queries.select(slice(start, start + at_once)), K, confidence)


def searching(device: Device, clock: Clock, speed: float, rows: int, sizes: Sizes) -> Iterator[Step]:
    dim = sizes.dim

    def run(bits: int) -> Iterator[dict[str, Any]]:
        engine = Engine(device, Codec(IndexSpec(dim, bits)))
        row_bytes = engine.layout.tile_words // 8 + 8
        fits(device, rows * row_bytes)
        segments = random_segments(device, engine, rows)
        for count in sizes.queries:
            queries = np.random.default_rng(2).standard_normal((count, dim), np.float32)
            prepared = engine.prepare(device.upload(queries))
            for confidence in (1.0, DEFAULT_CONFIDENCE):
                seconds = clock(lambda: search_all(engine, segments, prepared, confidence))  # noqa: B023 - runs at once
                yield {
                    "what": "search",
                    "bits": bits,
                    "n": rows,
                    "dim": dim,
                    "k": K,
                    "queries": count,
                    "confidence": confidence,
                    "seconds": seconds,
                    "queries_per_second": count / seconds,
                    "share_of_memory_floor": rows * row_bytes / speed / seconds,
                    "int8_operations_per_second": 2 * 2 * rows * dim * count / seconds,
                }

    for bits in BITS:
        yield Step(f"searching {rows} rows, {bits} bits", lambda b=bits: run(b))


def peer_line(name: str, rows: int, dim: int, count: int, seconds: float) -> dict[str, Any]:
    return {"what": name, "n": rows, "dim": dim, "k": K, "queries": count, "seconds": seconds}


def time_float16(clock: Clock, rows: int, sizes: Sizes) -> Iterator[dict[str, Any]]:
    import torch

    x = torch.randn(rows, sizes.dim, device=sizes.place, dtype=torch.float16)
    for count in sizes.queries:
        q = torch.randn(count, sizes.dim, device=sizes.place, dtype=torch.float16)
        seconds = clock(lambda q=q: (q @ x.T).topk(K))
        yield peer_line("torch float16 matmul + topk", rows, sizes.dim, count, seconds)


def time_int8(clock: Clock, rows: int, sizes: Sizes) -> Iterator[dict[str, Any]]:
    import torch

    x = torch.randint(-127, 128, (rows, sizes.dim), device=sizes.place, dtype=torch.int8)
    for count in sizes.queries:
        padded = max(32, count)  # _int_mm needs more than 16 rows
        q = torch.randint(-127, 128, (padded, sizes.dim), device=sizes.place, dtype=torch.int8)
        seconds = clock(lambda q=q: torch._int_mm(q, x.T).topk(K))
        yield peer_line("torch._int_mm + topk", rows, sizes.dim, count, seconds)


def time_faiss(clock: Clock, rows: int, sizes: Sizes, kind: str) -> Iterator[dict[str, Any]]:
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError("this faiss has no GPU support")
    x = np.random.default_rng(3).standard_normal((rows, sizes.dim), np.float32)
    resources = faiss.StandardGpuResources()
    if kind == "Flat float16":
        flat = faiss.GpuIndexFlatConfig()
        flat.useFloat16 = True
        index = faiss.GpuIndexFlatIP(resources, sizes.dim, flat)
    else:
        tables = faiss.GpuIndexIVFPQConfig()
        tables.useFloat16LookupTables = True  # float32 tables exceed the shared memory of a block
        index = faiss.GpuIndexIVFPQ(resources, sizes.dim, 1024, sizes.dim // 16, 8, faiss.METRIC_INNER_PRODUCT, tables)
        index.train(x[:100_000])
    index.add(x)
    for count in sizes.queries:
        seconds = clock(lambda count=count: index.search(x[:count], K))
        yield peer_line(f"faiss {kind}", rows, sizes.dim, count, seconds)


def time_cuvs(clock: Clock, rows: int, sizes: Sizes) -> Iterator[dict[str, Any]]:
    import cupy
    from cuvs.neighbors import brute_force

    x = cupy.random.standard_normal((rows, sizes.dim), dtype=cupy.float32)
    index = brute_force.build(x, metric="inner_product")
    for count in sizes.queries:
        seconds = clock(lambda count=count: brute_force.search(index, x[:count], K))
        yield peer_line("cuVS brute force", rows, sizes.dim, count, seconds)


def torch_peers(clock: Clock, rows: int, sizes: Sizes) -> Iterator[Step]:
    yield Step("torch float16", lambda: time_float16(clock, rows, sizes))
    yield Step("torch int8", lambda: time_int8(clock, rows, sizes))


def index_peers(clock: Clock, rows: int, sizes: Sizes) -> Iterator[Step]:
    for kind in ("Flat float16", "IVFPQ"):
        yield Step(f"faiss {kind}", lambda kind=kind: time_faiss(clock, rows, sizes, kind))
    yield Step("cuVS", lambda: time_cuvs(clock, rows, sizes))


# Checks before anything is timed: a name, the expression of `pytest -k`, and the share of the time that it may take.
CHECKS = (
    ("instructions", "instructions_of or every_half", 0.1),
    ("hash gate", "hash_gate", 0.2),
    ("tests", "not (instructions_of or every_half or hash_gate)", 0.4),
)


def check(emulate: bool, seconds: float) -> Iterator[dict[str, Any]]:
    """Run the checks in order until one fails."""
    root = Path(__file__).parent.parent
    files = [str(path) for path in sorted((root / "tests").glob("test_gpu_*.py"))]
    for name, selection, share in CHECKS[:1] if emulate else CHECKS:
        mark = "not gpu" if emulate else "gpu"
        command = [sys.executable, "-m", "pytest", "-q", "--maxfail=10", "-m", mark, "-k", selection, *files]
        start = time.monotonic()
        try:
            # This script's output is JSON lines, so pytest's output goes to stderr.
            done = subprocess.run(command, cwd=root, check=False, timeout=share * seconds, stdout=sys.stderr)
            passed, how = done.returncode == 0, f"pytest ends with {done.returncode}"
        except subprocess.TimeoutExpired:
            passed, how = False, f"not done after {share * seconds:.0f} s"
        line = {"what": "check", "name": name, "passed": passed, "took": time.monotonic() - start}
        yield line if passed else {**line, "how": how}
        if not passed:
            return


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that the results depend on."""
    names = ("vqindex", "cupy-cuda", "nvidia-cuda-nvrtc", "torch", "faiss", "cuvs")
    installed = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {name: version for name, version in sorted(installed.items()) if name.startswith(names)}


def steps(device: Device, clock: Clock, sizes: Sizes) -> Iterator[Step]:
    """Yield the measurements, the most important first: all of the smallest size, and torch's, come early."""
    speeds: list[float] = []

    def copy() -> Iterator[dict[str, Any]]:
        speeds.append(copy_speed(device, clock, sizes.copied))
        yield {"what": "copy", "bytes_per_second": speeds[0]}

    yield Step("copying", copy)
    speed = speeds[0] if speeds else float("nan")  # if copying failed, times are known but shares are not
    for number, rows in enumerate(sizes.rows):
        yield from searching(device, clock, speed, rows, sizes)
        if number < len(sizes.encoded):
            yield from encoding(device, clock, speed, sizes.encoded[number], sizes.dim)
        if number == 0:
            yield from torch_peers(clock, rows, sizes)
    yield from index_peers(clock, sizes.rows[0], sizes)


def release(emulate: bool) -> None:
    """Free the memory that libraries cache, so that the next step can use it."""
    if emulate:
        return
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def measure(device: Device, sizes: Sizes, emulate: bool, end: float) -> Iterator[dict[str, Any]]:
    clock = Clock(emulate)
    for step in steps(device, clock, sizes):
        if time.monotonic() > end:
            print(f"skipped: {step.name}: the time is over")
            continue
        try:
            for line in step.run():
                yield line
                if time.monotonic() > end:
                    print(f"skipped: the rest of {step.name}: the time is over")
                    break
        except Exception as error:  # of any library: the other steps still run
            print(f"skipped: {step.name}: {type(error).__name__}: {error}")
        release(emulate)


def sizes_of(args: argparse.Namespace) -> Sizes:
    if args.emulate:
        return Sizes(64, (1, 9), (64,), (300,), 2**16, "cpu")
    rows = tuple(sorted(args.rows))
    return Sizes(DIM, QUERIES, rows[:2], rows, 2**31, "cuda")


def find_device(emulate: bool) -> Device:
    if emulate:
        sys.path.append(str(Path(__file__).parent.parent / "tests" / "emulator"))
        from emulated import EmulatedDevice

        return EmulatedDevice()
    from vqindex_gpu.cupy_device import find_devices

    try:
        return find_devices()[0]
    except BackendError as error:
        sys.exit(f"error: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="device", help="name of the results' file")
    parser.add_argument("--minutes", type=float, default=10, help="time for all steps, including the checks")
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    device = find_device(args.emulate)
    path, found = args.out / f"gpu-{args.name}.jsonl", []

    def report(line: dict[str, Any]) -> None:
        found.append({"device": device.name, **line})
        text = json.dumps(found[-1])
        print(text, flush=True)
        if not args.emulate:
            with path.open("w" if len(found) == 1 else "a") as file:
                file.write(text + "\n")

    report({"what": "versions", **versions()})
    if not args.no_tests:
        for line in check(args.emulate, 60 * args.minutes):
            report(line)
        if not found[-1]["passed"]:
            sys.exit("error: a check fails on this device, so nothing is timed")
    for line in measure(device, sizes_of(args), args.emulate, end):
        report(line)
    timed = [line for line in found if "seconds" in line]
    rows = [(line["what"], line.get("bits", ""), line["n"], line.get("queries", ""), line["seconds"]) for line in timed]
    show_table(("what", "bits", "n", "queries", "seconds"), rows)
    if not args.emulate:
        print(path)


if __name__ == "__main__":
    main()
