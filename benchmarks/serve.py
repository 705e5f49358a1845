"""Rate and delay of single searches by HTTP, beside calls of the library in the same run.

    python benchmarks/serve.py [--rows 200000] [--dim 512] [--clients 64] [--rounds 3]

The server runs in a process of its own, with the defaults of `vqindex serve` except for --batch. Clients are coroutines
of this process; each sends one vector as raw bytes over its own connection, waits for the answer, and sends the next. A
round has a turn of the library with batches of 64 queries, one of the library with a query per call, and one of each
server; shares are ratios within a round, so that a disturbance of the machine affects all. Scans have one thread. The
processor time of a query tells what a server costs also on a machine that is busy: that of its process, without the
clients'. Appends a JSON line per server to results/serve.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from peers import mixture

import vqindex
from vqindex_bench.contest import machine, quartiles, turn, versions
from vqindex_cli.output import show_table

F32 = NDArray[np.float32]
K, BATCH = 10, 64


def start(path: Path, batch: int) -> tuple[subprocess.Popen[str], int]:
    """Start a server; return its process and port."""
    command = [
        sys.executable,
        "-m",
        "vqindex",
        "serve",
        str(path),
        "--port",
        "0",
        "--batch",
        str(batch),
        "--threads",
        "1",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    if found is None:
        raise SystemExit(line)
    return process, int(found[1])


async def client(port: int, bodies: list[bytes], stop: float, delays: list[float]) -> None:
    """Send one query after the other until a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.perf_counter() < stop:
        body = bodies[number % len(bodies)]
        number += 1
        begin = time.perf_counter()
        head = f"POST /search?k={K} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer)
        if not answer.startswith(b"HTTP/1.1 200") or length is None:
            raise SystemExit(answer.decode())
        await reader.readexactly(int(length[1]))
        delays.append(time.perf_counter() - begin)
    writer.close()


async def load(port: int, bodies: list[bytes], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Return queries per second, and the delays of all."""
    delays: list[float] = []
    begin = time.perf_counter()
    shares = [bodies[i::clients] for i in range(clients)]
    await asyncio.gather(*(client(port, share, begin + seconds, delays) for share in shares))
    return len(delays) / (time.perf_counter() - begin), delays


def used(process: psutil.Process) -> float:
    """Return the processor time of a process, seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


def library(index: vqindex.VQIndex, blocks: list[F32], seconds: float) -> tuple[float, float]:
    """Return queries per second of calls of the library, and the processor time of a query."""
    wall, cpu = time.perf_counter(), time.process_time()
    rate = turn(lambda q: index.search(q, K, threads=1).ids, blocks, seconds)[0]
    return rate, (time.process_time() - cpu) / (time.perf_counter() - wall) / rate


def measure(args: argparse.Namespace, rows: F32, queries: F32, path: Path) -> list[dict[str, Any]]:
    index = vqindex.VQIndex.load(path, mmap=True)
    batches = [queries[i : i + BATCH] for i in range(0, len(queries), BATCH)]
    singles = [query[None] for query in queries[:200]]
    bodies = [query.astype("<f4").tobytes() for query in queries]
    servers = {batch: start(path, batch) for batch in (BATCH, 1)}
    own: dict[str, list[tuple[float, float]]] = {"batch": [], "single": []}
    found: dict[int, list[tuple[float, list[float], float]]] = {batch: [] for batch in servers}
    try:
        for _, port in servers.values():
            asyncio.run(load(port, bodies, args.clients, 0.5))
        for _ in range(args.rounds):
            for name, blocks in (("batch", batches), ("single", singles)):
                own[name].append(library(index, blocks, args.turn_seconds))
            for batch, (process, port) in servers.items():
                watched = psutil.Process(process.pid)
                before = used(watched)
                rate, delays = asyncio.run(load(port, bodies, args.clients, args.turn_seconds))
                found[batch].append((rate, delays, (used(watched) - before) / len(delays)))
    finally:
        for process, _ in servers.values():
            process.terminate()
            process.wait(60)
    head = {"benchmark": "serve", "n": len(rows), "dim": rows.shape[1], "bits": index.spec.bits, "k": K}
    head |= {"clients": args.clients, "rounds": args.rounds, "library_batch": BATCH, "threads": 1}
    lines = []
    for batch, turns in found.items():
        served, costs = np.array([rate for rate, _, _ in turns]), np.array([cost for _, _, cost in turns])
        delays = np.concatenate([each for _, each, _ in turns])
        line = {**head, "batch": batch, "qps": quartiles(served), "cpu_ms": quartiles(1000 * costs)}
        for name, values in own.items():
            rates, seconds = np.array(values).T
            line[f"library_{name}_qps"] = quartiles(rates)
            line[f"share_of_library_{name}"] = quartiles(served / rates)
            line[f"library_{name}_cpu_ms"] = quartiles(1000 * seconds)
        for percent in (50, 99):
            line[f"p{percent}_ms"] = float(f"{1000 * np.percentile(delays, percent):.4g}")
        lines.append({**line, "versions": versions(), "date": time.strftime("%Y-%m-%d"), **machine()})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--clients", type=int, default=64, help="connections, each with one query at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn-seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if min(args.rows, args.dim, args.clients, args.rounds) < 1:
        parser.error("--rows, --dim, --clients and --rounds start at 1")
    rows, queries = mixture(args.rows, args.dim, 1024, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.vqi"
        index = vqindex.VQIndex(args.dim, args.bits, "cosine")
        index.add(rows)
        index.save(path)
        lines = measure(args, rows, queries, path)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "serve.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    show_table(
        ("batch", "queries/s", "of library's batches", "of single calls", "CPU ms", "library's", "p50, ms", "p99, ms"),
        [
            (line["batch"], line["qps"]["median"], line["share_of_library_batch"]["median"],
             line["share_of_library_single"]["median"], line["cpu_ms"]["median"],
             line["library_batch_cpu_ms"]["median"], line["p50_ms"], line["p99_ms"])
            for line in lines
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
