"""The GPU engine on a device: first whether it is right, then how fast it is beside its floors and other libraries.

    python benchmarks/gpu.py [--name h200] [--minutes 10] [--rows 1000000 10000000 100000000] [--no-tests]

1. `pytest -m gpu`: every instruction that the emulator imitates, all kernels against the reference, the hash gate.
2. Encoding of rows that are on the device, as a share of the time in which a copy moves as many bytes.
3. Searches (k = 10) of random codes of 1, 2 and 4 bits: seconds, and as a share of the time in which a copy reads the
   codes once. At confidence 1, and at the default with its bound.
4. Beside it on the same device, where they can be imported: torch float16 matmul + topk, torch._int_mm + topk,
   faiss-gpu (Flat float16, IVFPQ) and cuVS (brute force).

Writes one JSON line per measurement to results/gpu-<name>.jsonl, with the device's name. What does not fit, is not
installed, or comes after the time given is left out with a message. `--emulate` runs steps 2 and 3 on the emulator
in tiny sizes, to see that the script works; its times mean nothing and are not written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vqindex.backend import Queries
from vqindex.codec import Codec
from vqindex.errors import BackendError
from vqindex.spec import IndexSpec
from vqindex_cli.output import show_table
from vqindex_gpu.device import Device
from vqindex_gpu.engine import Engine
from vqindex_gpu.mirror import SEGMENT_ROWS, Segment

DIM = 1536
K = 10
QUERIES = (1, 8, 64, 1024)
BITS = (1, 2, 4)
DEFAULT_CONFIDENCE = 0.995
_PATTERN_ROWS = 2**14  # random rows made on the host, repeated on the device


class Clock:
    """Median seconds of some work on the device, by CUDA events; by the wall clock on the emulator."""

    def __init__(self, emulated: bool) -> None:
        self._emulated = emulated

    def __call__(self, work: Callable[[], Any], repeats: int = 5) -> float:
        """Run the work, once more at first to compile and warm up."""
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
        return float(np.median(taken))


def copy_speed(device: Device, clock: Clock, size: int) -> float:
    """Bytes read and written a second by a copy on the device."""
    source, target = (device.empty((size,), np.uint8) for _ in range(2))
    device.fill(source, 1)
    return 2 * size / clock(lambda: device.copy(target, source))


def repeated(device: Device, rows: int, width: int, dtype: Any, make: Callable[[int], np.ndarray]) -> Any:
    """Return a device array of rows * width values: a pattern made on the host, again and again."""
    out = device.empty((rows * width,), dtype)
    pattern = device.upload(np.ascontiguousarray(make(min(rows, _PATTERN_ROWS) * width), dtype))
    for start in range(0, out.size, pattern.size):
        stop = min(out.size, start + pattern.size)
        device.copy(out[start:stop], pattern[: stop - start])
    return out


def random_segments(device: Device, engine: Engine, rows: int, seed: int = 0) -> list[Segment]:
    """Rows of random codes; no two segments have the same factors."""
    rng, segments = np.random.default_rng(seed), []
    words = engine.layout.tile_words // 64
    for start in range(0, rows, SEGMENT_ROWS):
        capacity = -(-min(SEGMENT_ROWS, rows - start) // 64) * 64
        codes = repeated(device, capacity, words, np.uint64, lambda n: rng.integers(0, 2**64, n, dtype=np.uint64))
        lead, norm = (
            repeated(device, capacity, 1, np.float32, lambda n: 1 + rng.random(n, np.float32)) for _ in range(2)
        )
        segments.append(Segment(codes, lead, None, norm, capacity, min(SEGMENT_ROWS, rows - start)))
    return segments


def time_encoding(device: Device, clock: Clock, speed: float, rows: int, dim: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(1)
    vectors = repeated(device, rows, dim, np.float32, lambda n: rng.standard_normal(n, np.float32)).reshape(rows, dim)
    for codec in ("turboquant-prod", "trellis"):
        for bits in BITS:
            some = vectors if codec != "trellis" else vectors[: max(1, rows // 16)]
            engine = Engine(device, Codec(IndexSpec(dim, bits, codec=codec)))
            seconds = clock(lambda engine=engine, some=some: engine.encode(some))
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


def search_all(engine: Engine, segments: list[Segment], queries: Queries, confidence: float) -> None:
    at_once = engine.batch(segments, K)
    for start in range(0, queries.lead.shape[0], at_once):
        engine.search(segments, queries.take(slice(start, start + at_once)), K, confidence)


def time_search(
    device: Device, clock: Clock, speed: float, rows: int, dim: int, queries: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    for bits in BITS:
        engine = Engine(device, Codec(IndexSpec(dim, bits)))
        row_bytes = engine.layout.tile_words // 8 + 8
        if rows * row_bytes > 0.8 * device.free_bytes():
            print(f"{rows} rows of {row_bytes} bytes do not fit {device.free_bytes()} bytes: left out")
            continue
        segments = random_segments(device, engine, rows)
        for count in queries:
            prepared = engine.prepare(device.upload(np.random.default_rng(2).standard_normal((count, dim), np.float32)))
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


def time_torch(clock: Clock, rows: int, queries: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    import torch

    half = torch.randn(rows, DIM, device="cuda", dtype=torch.float16)
    whole = torch.randint(-127, 128, (rows, DIM), device="cuda", dtype=torch.int8)
    for count in queries:
        q16 = torch.randn(count, DIM, device="cuda", dtype=torch.float16)
        q8 = torch.randint(-127, 128, (max(32, count), DIM), device="cuda", dtype=torch.int8)  # _int_mm wants 17 rows
        work = {
            "torch float16 matmul + topk": lambda q=q16: (q @ half.T).topk(K),
            "torch._int_mm + topk": lambda q=q8: torch._int_mm(q, whole.T).topk(K),
        }
        for name, run in work.items():
            seconds = clock(run)
            yield {"what": name, "n": rows, "dim": DIM, "k": K, "queries": count, "seconds": seconds}


def time_faiss(clock: Clock, rows: int, queries: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError("this faiss has no GPU support")
    x = np.random.default_rng(3).standard_normal((rows, DIM), np.float32)
    resources, flat = faiss.StandardGpuResources(), faiss.GpuIndexFlatConfig()
    flat.useFloat16 = True
    indexes = {
        "faiss Flat float16": faiss.GpuIndexFlatIP(resources, DIM, flat),
        "faiss IVFPQ": faiss.GpuIndexIVFPQ(resources, DIM, 1024, DIM // 16, 8, faiss.METRIC_INNER_PRODUCT),
    }
    for name, index in indexes.items():
        index.train(x[:100_000])
        index.add(x)
        for count in queries:
            seconds = clock(lambda index=index, count=count: index.search(x[:count], K))
            yield {"what": name, "n": rows, "dim": DIM, "k": K, "queries": count, "seconds": seconds}


def time_cuvs(clock: Clock, rows: int, queries: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    import cupy
    from cuvs.neighbors import brute_force

    x = cupy.random.standard_normal((rows, DIM), dtype=cupy.float32)
    index = brute_force.build(x, metric="inner_product")
    for count in queries:
        seconds = clock(lambda count=count: brute_force.search(index, x[:count], K))
        yield {"what": "cuVS brute force", "n": rows, "dim": DIM, "k": K, "queries": count, "seconds": seconds}


def tests_pass() -> bool:
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    return subprocess.run(command, cwd=root, check=False).returncode == 0


def steps(device: Device, clock: Clock, args: argparse.Namespace) -> Iterator[Callable[[], Iterator[dict[str, Any]]]]:
    """Yield what is to be measured, the most important first."""
    emulated = args.emulate
    dim, queries = (64, (1, 9)) if emulated else (DIM, QUERIES)
    speed = copy_speed(device, clock, 2**16 if emulated else 2**31)
    yield lambda: iter([{"what": "copy", "bytes_per_second": speed}])
    yield lambda: time_encoding(device, clock, speed, 64 if emulated else 10**6, dim)
    for rows in [300] if emulated else sorted(args.rows):
        yield lambda rows=rows: time_search(device, clock, speed, rows, dim, queries)
    if not emulated:
        for peer in (time_torch, time_faiss, time_cuvs):
            yield lambda peer=peer: peer(clock, 10**6, queries)


def measure(device: Device, args: argparse.Namespace) -> list[dict[str, Any]]:
    end, found = time.monotonic() + 60 * args.minutes, []
    clock = Clock(args.emulate)
    for step in steps(device, clock, args):
        try:
            for line in step():
                found.append({"device": device.name, **line})
                print(json.dumps(found[-1]), flush=True)
                if time.monotonic() > end:
                    print(f"{args.minutes} minutes are over: the rest is left out")
                    return found
        except (ImportError, BackendError, MemoryError, RuntimeError) as error:  # noqa: PERF203
            print(f"left out: {error or type(error).__name__}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="device", help="of the results' file")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if args.emulate:
        sys.path.append(str(Path(__file__).parent.parent / "tests" / "emulator"))
        from emulated import EmulatedDevice

        device: Device = EmulatedDevice()
    else:
        from vqindex_gpu.launch import find_devices

        try:
            device = find_devices()[0]
        except BackendError as error:
            sys.exit(f"error: {error}")
        if not args.no_tests and not tests_pass():
            sys.exit("error: the tests fail on this device; what is wrong needs no timing")
    found = measure(device, args)
    timed = [line for line in found if "seconds" in line]
    rows = [(line["what"], line.get("bits", ""), line["n"], line.get("queries", ""), line["seconds"]) for line in timed]
    show_table(("what", "bits", "n", "queries", "seconds"), rows)
    if not args.emulate:
        path = args.out / f"gpu-{args.name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in found))
        print(path)


if __name__ == "__main__":
    main()
