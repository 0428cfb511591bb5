"""Clusters of synthetic band keys out of core: equal results, kills, scaling and memory, of the local engine and Ray.

    make bench NAME=scale
    python -m benchmarks.scale --parts cluster --documents 100_000_000 --folder /large/disk

Each document has 14 band keys. A quarter of the documents are copies of an earlier one, and have each of its keys with
a probability of .6. Each run is a process of its own, the driver, whose result is kept in the folder: a second call
with the same folder repeats no run that has ended. The Ray cluster consists of raylets of one CPU on this machine.
Parts: equal (every engine and number of workers), kills (SIGKILL of a worker, raylet, head or driver), speed (overhead
of Ray and two workers, in CPU seconds and in pairs of runs), cluster (the given number of documents), driver (its
memory by documents), text (memory of the whole stage by documents), corpus (the whole stage on 20 GB of text), skew
(one key with 90 % of the rows), empty (tasks that do nothing). What needs Ray says "not measured" without it.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from benchmarks.scale_runs import BANDS
from tasks.curation.duplicates import out_of_core
from tasks.engine.engine import JOURNAL

PARTS = ("equal", "kills", "speed", "driver", "skew", "empty", "text", "corpus", "cluster")
NOT_MEASURED = "not measured"
MEMORY = 4 * 10**9
DOCUMENT_BYTES, DOCUMENT_SENTENCES = 3_200, 27  # of the part `corpus`
PAIRS = 3  # runs of each kind, one after another in turn; the median counts
OBJECT_STORE = 80 << 20  # bytes, the smallest one of Ray
KILL_DOCUMENTS, KILL_SHAPE = 50_000, {"workers": 2, "tasks": 12, "bits": 2}
SECONDS = 900.0  # a run with a kill that takes longer counts as lost
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
HAS_RAY = find_spec("ray") is not None


class RayCluster:
    """Raylets of one CPU on this machine, as children of this process."""

    def __init__(self) -> None:
        self._cluster: Any = None

    @property
    def address(self) -> str:
        """The address of the head."""
        return str(self._cluster.address)

    def resize(self, raylets: int) -> None:
        """Start the head, and end or start raylets until there are so many."""
        from ray.cluster_utils import Cluster

        os.environ[RECONNECT] = "5"  # a driver without its head ends after 5 seconds
        node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
        if self._cluster is not None and len(self._cluster.list_all_nodes()) > raylets:
            self.stop()
        if self._cluster is None:
            self._cluster = Cluster(True, head_node_args={**node, "include_dashboard": False})
        while len(self._cluster.list_all_nodes()) < raylets:
            self._cluster.add_node(**node)

    def kill_raylet(self) -> None:
        """Kill the last raylet, and all of its processes."""
        self._cluster.remove_node(self._cluster.list_all_nodes()[-1], allow_graceful=False)

    def kill_head(self) -> None:
        """Kill the process that holds the state of the cluster."""
        self._cluster.head_node.all_processes["gcs_server"][0].process.kill()

    def workers(self) -> list[psutil.Process]:
        """Return the processes that run tasks."""
        return [each for each in psutil.Process().children(recursive=True) if "ray::_execute" in name_of(each)]

    def stop(self) -> None:
        """End all processes."""
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = None


def name_of(process: psutil.Process) -> str:
    """Return the command line of a process, which Ray sets to the name of the task."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def start(folder: Path, cluster: RayCluster, options: dict[str, Any]) -> "subprocess.Popen[str]":
    """Start a driver."""
    command = [sys.executable, "-m", "benchmarks.scale_runs", "--folder", str(folder)]
    for name, value in options.items():
        if name != "memory":
            command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    if options.get("engine") == "ray":
        cluster.resize(options["workers"])
        command += ["--address", cluster.address, "--root", str(os.getpid())]
    environment = os.environ | {"ATHANOR_MEMORY": str(options.get("memory", "4 GB")), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def result_of(output: str) -> dict[str, Any]:
    """Return what a driver has printed last."""
    return dict(json.loads(output.strip().splitlines()[-1]))


def run(folder: Path, cluster: RayCluster, repeat: int = 0, **options: Any) -> dict[str, Any]:
    """Return what one driver measured, or what an earlier one did with the same options."""
    name = "-".join(f"{key}{value}" for key, value in sorted(options.items())) + f"-{repeat}"
    result = folder / f"{name}.json"
    if not result.is_file():
        process = start(folder / name, cluster, options)
        output = process.communicate()[0]
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
        result.write_text(json.dumps(result_of(output)), encoding="utf-8")
    shutil.rmtree(folder / name, ignore_errors=True)
    body: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    print(f"{name}: {body}", flush=True)
    return body


def part_equal(folder: Path, cluster: RayCluster, documents: int) -> dict[str, Any]:
    """Compare every engine and number of workers, with different numbers of tasks and partitions."""
    kinds = [("local", 0), ("local", 1), ("local", 2), ("local", 4)]
    kinds += [("ray", 1), ("ray", 2), ("ray", 4)] if HAS_RAY else []
    runs = [
        run(folder, cluster, what="cluster", documents=documents, engine=name, workers=n, tasks=8 + n, bits=n)
        for name, n in kinds
    ]
    return {
        "equal": float(len({body["sha256"] for body in runs}) == 1),
        "equal_runs": [f"{name} {n}" for name, n in kinds],
        "shuffle_bytes_per_doc": runs[1]["shuffle_bytes"] / documents,
    }


def part_speed(folder: Path, cluster: RayCluster, documents: int) -> dict[str, Any]:
    """Compare one worker of Ray with a local one, and two with one. CPU seconds do not depend on other processes.

    two_worker_speedup: CPU seconds with one worker / (those of the driver + those of the busier of two workers), which
    is the speedup on two cores that share nothing; `two_worker_wall_speedup` is that of this machine, whose limit is
    `two_core_limit`: two independent runs at once beside one alone.
    """
    shape: dict[str, Any] = {"what": "cluster", "documents": documents, "tasks": 32, "bits": 4}
    ones, twos, rays = [], [], []
    for repeat in range(PAIRS):
        ones.append(run(folder, cluster, repeat, **shape, engine="local", workers=1))
        twos.append(run(folder, cluster, repeat, **shape, engine="local", workers=2))
        if HAS_RAY:
            rays.append(run(folder, cluster, repeat, **shape, engine="ray", workers=1))
    divided = [two["driver_cpu_seconds"] + max(two["worker_cpu_seconds"]) for two in twos]
    body: dict[str, Any] = {
        "two_worker_speedup": statistics.median(
            (one["driver_cpu_seconds"] + sum(one["worker_cpu_seconds"])) / longer
            for one, longer in zip(ones, divided, strict=True)
        ),
        "two_worker_wall_speedup": median_ratio(ones, twos, "seconds"),
        "two_core_limit": part_limit(folder, cluster, shape),
        "overhead": NOT_MEASURED,
    }
    if HAS_RAY:
        body["overhead"] = median_ratio(rays, ones, "cpu_seconds") - 1
        body["overhead_wall"] = median_ratio(rays, ones, "seconds") - 1
        for name in ("start_seconds", "start_cpu_seconds"):
            body[name] = {"local": ones[0][name], "ray": rays[0][name]}
    return body


def median_ratio(above: Sequence[dict[str, Any]], below: Sequence[dict[str, Any]], name: str) -> float:
    """Return the median of the ratios of paired runs."""
    return float(statistics.median(a[name] / b[name] for a, b in zip(above, below, strict=True)))


def part_limit(folder: Path, cluster: RayCluster, shape: dict[str, Any]) -> float:
    """Return twice the time of one run alone / that of two at once: what this machine allows."""
    options = {**shape, "engine": "local", "workers": 0}
    result = folder / "limit.json"
    if not result.is_file():
        seconds = []
        for count in (1, 2):
            drivers = [start(folder / f"limit-{number}", cluster, options) for number in range(count)]
            outputs = [driver.communicate()[0] for driver in drivers]
            seconds.append(max(result_of(output)["seconds"] for output in outputs))
            for number in range(count):
                shutil.rmtree(folder / f"limit-{number}")
        result.write_text(json.dumps(2 * seconds[0] / seconds[1]), encoding="utf-8")
    return float(json.loads(result.read_text(encoding="utf-8")))


def part_kills(folder: Path, cluster: RayCluster, kills: int) -> dict[str, Any]:
    """Kill a process when a random number of parts is listed, run again until it ends, and compare the result."""
    shape: dict[str, Any] = {"what": "cluster", "documents": KILL_DOCUMENTS, **KILL_SHAPE}
    expected = run(folder, cluster, engine="local", **shape)["sha256"]
    local = [("local", "worker"), ("local", "driver")]
    on_ray = [("ray", "worker"), ("ray", "raylet"), ("ray", "head"), ("ray", "driver")] if HAS_RAY else []
    # One of each, then most of the local ones, which take seconds each, then Ray's again.
    victims = [*local, *on_ray, *local * 7, *on_ray * kills]
    bodies = []
    for seed in range(min(kills, len(victims))):
        engine, victim = victims[seed]
        result = folder / f"kill-{seed}.json"
        if not result.is_file():
            body = kill(folder / f"kill-{seed}", cluster, seed, victim, {**shape, "engine": engine})
            result.write_text(json.dumps(body | {"engine": engine, "victim": victim}), encoding="utf-8")
        bodies.append(json.loads(result.read_text(encoding="utf-8")))
        print(f"kill {seed}: {bodies[-1]}", flush=True)
    killed = [body for body in bodies if body["killed"]]
    return {
        "kills": len(killed),
        "kills_of": dict(Counter(f"{body['engine']} {body['victim']}" for body in killed)),
        "kills_in": dict(Counter(body["stage"] for body in killed)),
        "equal_after_kills": sum(body["sha256"] == expected for body in killed),
        "orphans_after_kills": sum(body["orphans"] for body in killed),
        "listed_parts_repeated": sum(body["repeated"] for body in killed),
    }


def kill(place: Path, cluster: RayCluster, seed: int, victim: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run a driver, kill `victim`, and resume until the run ends. Return the result and what was repeated."""
    generator = random.Random(seed)
    shutil.rmtree(place, ignore_errors=True)
    process = start(place, cluster, options)
    wanted, killed, stage = generator.randrange(1, 60), False, ""
    while process.poll() is None and not killed:
        if len(parts := listed(place)) >= wanted:
            killed, stage = kill_one(process, cluster, victim, generator), max(parts, key=lambda part: part[2])[0]
        time.sleep(0.02)
    output, resumed = process.communicate(timeout=SECONDS)[0], 0
    before = {part[:2] for part in listed(place)}
    while process.returncode:
        if options["engine"] == "ray" and victim == "head":
            cluster.stop()
        process, resumed = start(place, cluster, options), resumed + 1
        output = process.communicate(timeout=SECONDS)[0]
        if resumed > 3:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    after = {part[:2] for part in listed(place)}
    folders = {path for path in place.glob("*/part-*") if (path.parent.name, path.name) not in after}
    shutil.rmtree(place)
    return {
        "killed": killed, "stage": stage, "resumed": resumed, "orphans": len(folders),
        "repeated": len(before - after), "sha256": result_of(output)["sha256"],
    }  # fmt: skip


def kill_one(driver: "subprocess.Popen[str]", cluster: RayCluster, victim: str, generator: random.Random) -> bool:
    """Kill one process; whether there was one."""
    if victim == "driver":
        driver.kill()
    elif victim == "raylet":
        cluster.kill_raylet()
    elif victim == "head":
        cluster.kill_head()
    else:
        workers = cluster.workers() or psutil.Process(driver.pid).children()
        if not workers:
            return False
        os.kill(generator.choice(workers).pid, signal.SIGKILL)
    return True


def listed(place: Path) -> list[tuple[str, str, float]]:
    """Return (stage, part, time of the last change) of all parts that the journals below `place` list."""
    return [
        (journal.parent.name, json.loads(line)["name"], journal.stat().st_mtime)
        for journal in place.glob(f"*/{JOURNAL}")
        for line in journal.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]


def part_driver(folder: Path, cluster: RayCluster, documents: int) -> dict[str, Any]:
    """Measure the memory of the driver, which belongs to no file, for three numbers of documents."""
    sizes = [documents // 100, documents // 10, documents]
    runs = {n: run(folder, cluster, **cluster_options(n, 2)) for n in sizes}
    return {"driver_gb": {n: body["driver_gb"] for n, body in runs.items()}}


def cluster_options(documents: int, workers: int) -> dict[str, Any]:
    """Return the options of a large run, with the numbers of tasks and partitions that curation would choose."""
    bits, tasks = out_of_core.partition_bits(documents * BANDS, MEMORY // (4 * workers)), max(8, documents // 250_000)
    shape = {"workers": workers, "tasks": tasks, "bits": bits}
    return {"what": "cluster", "documents": documents, "discard": True, **shape}


def part_cluster(folder: Path, cluster: RayCluster, documents: int, workers: int) -> dict[str, Any]:
    """Cluster many documents."""
    result = run(folder, cluster, **cluster_options(documents, workers))
    names = ("rows", "cpu_seconds", "write_seconds", "rounds")
    seconds = {"cluster_seconds": result["seconds"] - result["write_seconds"], "peak_gb": result["peak_gb"]}
    return {f"cluster_{name}": result[name] for name in names} | seconds


def part_text(folder: Path, cluster: RayCluster, documents: int) -> dict[str, Any]:
    """Curate texts twice; the difference of their peaks is the memory per document, of the stage and of each step.

    A step begins with what those before it have left. The memory is the smallest one, so that near-duplicates of more
    than a million kept documents go through files.
    """
    few, many = (
        run(folder, cluster, what="text", documents=n, workers=1, memory="256 MB") for n in (documents // 3, documents)
    )
    added = many["documents"] - few["documents"]
    return {
        "bytes_per_document": 1e9 * (many["peak_gb"] - few["peak_gb"]) / added,
        "bytes_per_document_of_steps": {
            name: 1e9 * (peak - few["peaks_gb"][name]) / added for name, peak in many["peaks_gb"].items()
        },
        "text_bytes": many["bytes"],
        "text_peak_gb": many["peak_gb"],
        "text_mb_per_cpu_second": many["bytes"] / 1e6 / many["cpu_seconds"],
    }


def part_corpus(folder: Path, cluster: RayCluster, gigabytes: float, workers: int) -> dict[str, Any]:
    """Curate a large corpus of documents of 3.2 kB with the default memory."""
    options = {"documents": round(gigabytes * 1e9 / DOCUMENT_BYTES), "sentences": DOCUMENT_SENTENCES}
    body = run(folder, cluster, what="text", workers=workers, **options)
    names = ("bytes", "documents", "kept", "peak_gb", "cpu_seconds", "seconds", "seconds_by_step")
    return {f"corpus_{name}": body[name] for name in names}


def part_skew(folder: Path, cluster: RayCluster, documents: int) -> dict[str, Any]:
    """Cluster documents 90 % of whose keys are equal."""
    shape: dict[str, Any] = {"what": "cluster", "documents": documents, "workers": 2, "tasks": 16, "bits": 4}
    even, skewed = run(folder, cluster, **shape), run(folder, cluster, **shape, skew=True)
    return {
        "skew_cpu_ratio": skewed["cpu_seconds"] / even["cpu_seconds"],
        "skew_peak_gb": skewed["peak_gb"],
        "even_peak_gb": even["peak_gb"],
    }


def part_empty(folder: Path, cluster: RayCluster, tasks: int) -> dict[str, Any]:
    """Run tasks that do nothing: what the scheduler, the folders and the journal cost."""
    body: dict[str, Any] = {"empty_tasks": tasks}
    for engine in ("local", "ray") if HAS_RAY else ("local",):
        result = run(folder, cluster, what="empty", documents=tasks, engine=engine, workers=2)
        body |= {f"empty_{name}_{engine}": result[name] for name in ("seconds", "cpu_seconds")}
    return body


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the parts; return the keys of the benchmark."""
    documents, cluster, body = options.documents, RayCluster(), dict[str, Any]()
    calls = {
        "equal": lambda: part_equal(folder, cluster, min(documents, 200_000)),
        "kills": lambda: part_kills(folder, cluster, options.kills),
        "speed": lambda: part_speed(folder, cluster, options.speed_documents),
        "driver": lambda: part_driver(folder, cluster, documents),
        "skew": lambda: part_skew(folder, cluster, min(documents, 500_000)),
        "empty": lambda: part_empty(folder, cluster, options.empty),
        "text": lambda: part_text(folder, cluster, min(documents, 1_500_000)),
        "corpus": lambda: part_corpus(folder, cluster, options.gigabytes, options.workers),
        "cluster": lambda: part_cluster(folder, cluster, documents, options.workers),
    }
    try:
        for part in options.parts:
            body |= calls[part]()
            print(json.dumps(body), flush=True)
    finally:
        cluster.stop()
    return body


def main() -> None:
    """Print the results as one line of JSON last."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.scale", description=__doc__, formatter_class=formatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--documents", type=int, default=10_000_000, help="of the largest part (default 10,000,000)")
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--empty", type=int, default=100_000, help="tasks that do nothing (default 100,000)")
    parser.add_argument("--speed-documents", type=int, default=5_000_000, help="of the comparison with Ray")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="of the text of the part corpus (default 20)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where results and files are; the default is a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(options, folder.absolute())))


if __name__ == "__main__":
    main()
