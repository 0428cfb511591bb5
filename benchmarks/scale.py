"""Clusters of synthetic band keys out of core: equal results, kills, scaling, and memory, of the local engine and Ray.

    make bench NAME=scale
    python -m benchmarks.scale --parts cluster --documents 100_000_000 --folder /large/disk

Each document has 14 band keys. A quarter of the documents are copies of an earlier one, and have each of its keys with
a probability of .6. Each run is a process of its own, the driver, whose result is kept in the folder: a second call
with the same folder repeats no run that has ended. Parts: equal (every engine and number of workers), kills (SIGKILL of
a worker or the driver), cluster (the given number of documents), driver (its memory by documents), skew (one key with
90 % of the rows), empty (tasks that do nothing). Parts that need Ray say "not measured" without it.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tasks.curation.arrays import UInt64Array
from tasks.curation.duplicates import out_of_core, stars
from tasks.curation.duplicates.row_files import RowWriter, read_partition
from tasks.engine.engine import Engine, Manifest
from tasks.engine.local_engine import LocalEngine

BANDS, BLOCK = 14, 1 << 16
PARTS = ("equal", "kills", "cluster", "driver", "skew", "empty")
NOT_MEASURED = "not measured"


def mixed(values: UInt64Array) -> UInt64Array:
    """Return a hash of each number (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def synthetic(part: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Write the band keys of the documents [first, last)."""
    with RowWriter(part, stars.EDGES, 2, task["bits"]) as writer:
        for first in range(task["first"], task["last"], BLOCK):
            rows = np.arange(first, min(first + BLOCK, task["last"]), dtype=np.uint64)
            original = np.where(rows % 4 == 3, mixed(rows) % np.maximum(rows, 1), rows)
            for band in range(BANDS):
                draw = mixed(rows * np.uint64(BANDS) + np.uint64(band) + np.uint64(1 << 60))
                source = np.where(draw % np.uint64(10) < 6, original, rows)
                keys = mixed(source * np.uint64(BANDS) + np.uint64(band))
                if task["skew"]:
                    keys[draw % np.uint64(100) < 90] = 1
                writer.add(np.stack([keys, rows], axis=1))
    return {"rows": writer.num_rows}


def nothing(_part: Path, _task: Any) -> dict[str, Any]:
    """Do nothing."""
    return {}


def drive(options: argparse.Namespace) -> dict[str, Any]:
    """Cluster synthetic documents in this process as the driver; return what it measured."""
    engine = make_engine(options.engine, options.folder, options.workers)
    if options.empty:
        start = time.perf_counter()
        keys = [f"{i:06d}" for i in range(options.documents)]
        engine.run("empty", keys, nothing, dict.fromkeys(keys))
        return {"tasks": len(keys), "seconds": time.perf_counter() - start}
    if options.engine == "ray":
        engine.run("warm", ["a"], nothing, {"a": None})
    start, start_cpu = time.perf_counter(), time.process_time()
    size, bits = -(-options.documents // options.tasks), options.bits
    inputs = {
        f"{i:05d}": {
            "first": i * size, "last": min((i + 1) * size, options.documents), "bits": bits, "skew": options.skew
        }
        for i in range(options.tasks)
    }  # fmt: skip
    rows = engine.run("synthetic", list(inputs), synthetic, inputs)
    written = time.perf_counter() - start
    linked = engine.run(
        "buckets", out_of_core.keys(bits), out_of_core.buckets, out_of_core.partition_inputs(rows, bits)
    )
    labels, rounds = stars.components(engine, linked, bits)
    seconds, own_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": rows.total("rows"), "seconds": seconds, "cluster_seconds": seconds - written, "rounds": rounds,
        "shuffle_bytes": sum(size for part in rows.parts.values() for size, _ in part.files.values()),
        "driver_gb": own.ru_maxrss / 1e6, "worker_gb": children.ru_maxrss / 1e6,
        "cpu_seconds": own_cpu + children.ru_utime + children.ru_stime,
        "sha256": digest(labels, bits), "listed": rows.num_run,
    }  # fmt: skip


def make_engine(name: str, folder: Path, workers: int) -> Engine:
    """Return the engine `name`; Ray starts with as many CPUs as workers, and an object store of 80 MB."""
    if name == "local":
        return LocalEngine(folder, workers)
    import ray

    from tasks.engine.ray_engine import RayEngine

    os.environ["PYTHONPATH"] = str(Path.cwd())
    ray.init(
        num_cpus=workers, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    return RayEngine(folder)


def digest(labels: Manifest, bits: int) -> str:
    """Return the sha256 of the (document, component) rows, in order."""
    folders = [str(labels.folder / part.name) for part in labels.parts.values()]
    pieces = [np.empty((0, 2), np.uint64)]
    for partition in range(1 << bits):
        pieces += [rows[rows[:, 0] > rows[:, 1]] for rows in read_partition(folders, stars.EDGES, 2, partition)]
    rows = np.unique(np.concatenate(pieces), axis=0) if sum(map(len, pieces)) < 1 << 24 else np.concatenate(pieces)
    if len(rows) >= 1 << 24:  # the order of the nodes is enough: each has one component
        rows = rows[np.argsort(rows[:, 0])]
    return hashlib.sha256(rows.tobytes()).hexdigest()


def start(folder: Path, **options: Any) -> "subprocess.Popen[str]":
    """Start a driver."""
    command = [sys.executable, "-m", "benchmarks.scale", "--drive", "--folder", str(folder)]
    for name, value in options.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)] if value is not False else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(folder: Path, **options: Any) -> dict[str, Any]:
    """Return what one driver measured, or what an earlier one did with the same options."""
    name = "-".join(f"{key}{value}" for key, value in sorted(options.items()))
    result = folder / f"{name}.json"
    if not result.is_file():
        process = start(folder / name, **options)
        output = process.communicate()[0]
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
        result.write_text(output.strip().splitlines()[-1], encoding="utf-8")
        shutil.rmtree(folder / name)
    body: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    print(f"{name}: {body}", flush=True)
    return body


def part_equal(folder: Path, documents: int, has_ray: bool) -> dict[str, Any]:
    """Compare every engine and number of workers."""
    engines = [("local", 0), ("local", 1), ("local", 2), ("local", 4)]
    engines += [("ray", 1), ("ray", 2), ("ray", 4)] if has_ray else []
    runs = {
        (name, n): run(folder, documents=documents, engine=name, workers=n, tasks=8 + n, bits=n) for name, n in engines
    }
    one, two = (runs["ray" if has_ray else "local", n]["seconds"] for n in (1, 2))
    return {
        "equal": float(len({body["sha256"] for body in runs.values()}) == 1),
        "equal_runs": len(runs),
        "overhead": runs["ray", 1]["seconds"] / runs["local", 1]["seconds"] - 1 if has_ray else NOT_MEASURED,
        "two_worker_speedup": one / two,
        "shuffle_bytes_per_doc": runs["local", 1]["shuffle_bytes"] / documents,
    }


def part_kills(folder: Path, documents: int, kills: int) -> dict[str, Any]:
    """Kill a worker or the driver at a random time, run again until it ends, and compare the result."""
    options = {"documents": documents, "engine": "local", "workers": 2, "tasks": 16, "bits": 3}
    expected = run(folder, **options)
    equal = num_kills = 0
    for seed in range(kills):
        generator, place = random.Random(seed), folder / f"kill-{seed}"
        process = start(place, **options)
        try:
            process.wait(generator.uniform(0.2, 1.0) * expected["seconds"] + 1)
        except subprocess.TimeoutExpired:
            workers = psutil.Process(process.pid).children()
            victim = generator.choice([process.pid, *(worker.pid for worker in workers)])
            os.kill(victim, signal.SIGKILL)
            num_kills += 1
        output = process.communicate()[0]
        if process.returncode:
            output = start(place, **options).communicate()[0]
        orphans = [path for path in place.glob("*/*.tmp") if path.is_dir()]
        equal += json.loads(output.strip().splitlines()[-1])["sha256"] == expected["sha256"] and not orphans
        shutil.rmtree(place)
    return {"kills": num_kills, "equal_after_kills": equal / kills}


def measure(parts: Sequence[str], folder: Path, documents: int, kills: int, workers: int) -> dict[str, Any]:
    """Run the parts; return the keys of the benchmark."""
    has_ray = find_spec("ray") is not None
    body: dict[str, Any] = {"documents": documents}
    shape = {"engine": "local", "workers": workers, "tasks": max(8, documents // 250_000)}
    bits = out_of_core.partition_bits(documents * BANDS, 10**9 // max(1, workers))
    if "equal" in parts:
        body |= part_equal(folder, documents // 10, has_ray)
    if "kills" in parts:
        body |= part_kills(folder, documents // 10, kills)
    if "cluster" in parts:
        result = run(folder, documents=documents, bits=max(4, bits), **shape)
        body |= {"cluster_rows": result["rows"], "cluster_seconds": result["cluster_seconds"]}
        body["peak_gb"] = result["worker_gb"] * workers + result["driver_gb"]
        body["cluster_cpu_seconds"] = result["cpu_seconds"]
    if "driver" in parts:
        sizes = [documents // 100, documents // 10, documents]
        body["driver_gb"] = {n: run(folder, documents=n, bits=4, **shape)["driver_gb"] for n in sizes}
    if "skew" in parts:
        result = run(folder, documents=documents // 10, bits=4, skew=True, **shape)
        body |= {"skew_seconds": result["cluster_seconds"], "skew_worker_gb": result["worker_gb"]}
    if "empty" in parts:
        count = documents // 100
        body["empty_tasks"] = count
        body["empty_seconds_local"] = run(folder, documents=count, engine="local", workers=2, empty=True)["seconds"]
        if has_ray:
            body["empty_seconds_ray"] = run(folder, documents=count, engine="ray", workers=2, empty=True)["seconds"]
    return body


def parse() -> argparse.Namespace:
    """Return the options."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.scale", description=__doc__, formatter_class=formatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--documents", type=int, default=1_000_000, help="of the largest part (default 1,000,000)")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where results and files are; the default is a temporary folder")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=argparse.SUPPRESS)
    parser.add_argument("--tasks", type=int, default=8, help=argparse.SUPPRESS)
    parser.add_argument("--bits", type=int, default=4, help=argparse.SUPPRESS)
    for name in ("skew", "empty", "drive"):
        parser.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run one driver, or print the results as one line of JSON last."""
    options = parse()
    if options.drive:
        print(json.dumps(drive(options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(options.parts, folder, options.documents, options.kills, options.workers)))


if __name__ == "__main__":
    main()
