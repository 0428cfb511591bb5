"""The runs that `benchmarks/scale.py` measures, each in a process of its own, which prints one line of JSON."""

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tasks.curation.arrays import UInt64Array
from tasks.curation.duplicates import out_of_core, partitions, stars
from tasks.curation.duplicates.row_files import RowWriter, read_partition
from tasks.engine.engine import Engine, Manifest, discard_files
from tasks.engine.local_engine import LocalEngine
from tasks.engine.ray_engine import RayEngine

BANDS, BLOCK = 14, 1 << 16
SAMPLE_SECONDS, STEP_SECONDS = 0.2, 0.02  # between two samples of memory, in clusters and in the steps of curation
COPIED = 10_000  # documents of `write_texts` that have copies
SEED = np.uint64(0x9E3779B97F4A7C15)


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


def digest(_part: Path, task: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of (document, smaller one of its component) rows of a partition, and two sums of their hashes.

    The sums do not depend on the partitions or on the order of the rows.
    """
    pieces = [
        rows[rows[:, 0] > rows[:, 1]] for rows in read_partition(task["folders"], stars.EDGES, 2, task["partition"])
    ]
    rows = np.unique(np.concatenate([np.empty((0, 2), np.uint64), *pieces]), axis=0)
    hashes = mixed(mixed(rows[:, 0]) + rows[:, 1])
    return {"rows": len(rows), "first": int(hashes.sum()), "second": int(mixed(hashes ^ SEED).sum())}


def nothing(_part: Path, _task: Any) -> dict[str, Any]:
    """Do nothing."""
    return {}


def cpu_seconds(root: int) -> float:
    """Return the CPU seconds of a process and its descendants, also of those that have ended."""
    total, process = 0.0, psutil.Process(root)
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


class Memory(threading.Thread):
    """Samples the memory of this process and its descendants that belongs to no file; `peak` is in bytes."""

    def __init__(self, descendants: bool, seconds: float = SAMPLE_SECONDS) -> None:
        super().__init__(daemon=True)
        self.peak, self._descendants, self._process = 0, descendants, psutil.Process()
        self._seconds = seconds

    def run(self) -> None:
        """Sample until the process ends."""
        while True:
            children = self._process.children(recursive=True) if self._descendants else []
            self.peak = max(self.peak, sum(map(anonymous_bytes, [self._process.pid, *(each.pid for each in children)])))
            time.sleep(self._seconds)


def anonymous_bytes(pid: int) -> int:
    """Return the resident memory of a process without mapped files."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(match[1]) if match else 0


def make_engine(options: argparse.Namespace) -> Engine:
    """Return the engine of the options. address: of the Ray cluster."""
    if options.engine == "local":
        return LocalEngine(options.folder, options.workers)
    return RayEngine(options.folder, options.address)


def cluster(options: argparse.Namespace) -> dict[str, Any]:
    """Cluster synthetic documents in this process as the driver; return what it measured.

    CPU seconds are those of the process `root` and its descendants, after the workers have loaded their code. What came
    before, the connection to Ray included, is start_seconds and start_cpu_seconds.
    """
    driver, every, root = Memory(False), Memory(True), options.root or os.getpid()
    begin, begin_cpu = time.perf_counter(), cpu_seconds(root)
    with make_engine(options) as engine:
        if options.what == "cluster":
            warm = {str(i): {"first": 0, "last": 1, "bits": 0, "skew": False} for i in range(4 * options.workers)}
            engine.run("warm", list(warm), synthetic, warm)
        driver.start()
        every.start()
        workers = psutil.Process().children()
        start_workers = [sum(each.cpu_times()[:2]) for each in workers]
        start, start_cpu, start_own = time.perf_counter(), cpu_seconds(root), time.process_time()
        if options.what == "empty":
            keys = [f"{i:06d}" for i in range(options.documents)]
            engine.run("empty", keys, nothing, dict.fromkeys(keys))
            body: dict[str, Any] = {"tasks": len(keys)}
        else:
            body = components(engine, options)
        return body | {
            "seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds(root) - start_cpu,
            "start_seconds": start - begin, "start_cpu_seconds": start_cpu - begin_cpu,
            "driver_cpu_seconds": time.process_time() - start_own, "driver_gb": driver.peak / 1e9,
            "peak_gb": every.peak / 1e9,
            "worker_cpu_seconds": [
                sum(each.cpu_times()[:2]) - before for each, before in zip(workers, start_workers, strict=True)
            ],
        }  # fmt: skip


def components(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """Write the band keys of the documents and connect those with equal keys."""
    bits, size = options.bits, -(-options.documents // options.tasks)
    tasks = {
        f"{i:05d}": {
            "first": i * size, "last": min((i + 1) * size, options.documents), "bits": bits, "skew": options.skew
        }
        for i in range(options.tasks)
    }  # fmt: skip
    start = time.perf_counter()
    rows = engine.run("synthetic", list(tasks), synthetic, tasks)
    written = time.perf_counter() - start
    inputs = partitions.inputs(rows, bits)
    linked = engine.run("buckets", list(inputs), out_of_core.buckets, inputs)
    if options.discard:  # `duplicates` keeps the keys until its end; without them, a larger run fits on the disk
        discard_files(rows)
    labels, rounds = stars.components(engine, linked, bits)
    inputs = partitions.inputs(labels, bits)
    sums = engine.run("digest", list(inputs), digest, inputs)
    totals = [sums.total(name) % 2**64 for name in ("rows", "first", "second")]
    return {
        "rows": rows.total("rows"), "rounds": rounds, "write_seconds": written, "copies": totals[0],
        "shuffle_bytes": num_bytes(rows), "sha256": hashlib.sha256(json.dumps(totals).encode()).hexdigest(),
    }  # fmt: skip


def num_bytes(stage: Manifest) -> int:
    """Return the bytes of the files of a stage."""
    return sum(size for part in stage.parts.values() for size, _ in part.files.values())


def write_texts(options: argparse.Namespace) -> dict[str, Any]:
    """Write the tables of a stage: documents of random sentences, of which one in ten is a copy with another end."""
    from benchmarks import corpora
    from tasks import documents, tables
    from tasks.conversations import CONVERSATIONS, PREFERENCES

    sentences = [
        sentence
        for text in corpora.english(16 << 20)
        for sentence in re.split(r"(?<=[.!?])\s+", text)
        if 40 < len(sentence) < 400
    ]
    generator, data, size, earlier = random.Random(0), options.folder / "data", 0, list[list[str]]()
    with tables.Writer(data / "documents", documents.SCHEMA) as writer:
        for i in range(options.documents):
            chosen = generator.choices(sentences, k=options.sentences)
            if i % 10 == 9:
                chosen = [*generator.choice(earlier)[:-1], chosen[-1]]
            elif len(earlier) < COPIED:
                earlier.append(chosen)
            text = " ".join(chosen)
            size += len(text.encode())
            split = "test" if i % 1000 == 0 else "train"
            writer.add_row(documents.Document(f"{i:08d}", text, group=str(i)).row("bench", split))
    tables.write(data / "conversations" / "raw", CONVERSATIONS, [])
    tables.write(data / "preferences" / "raw", PREFERENCES, [])
    return {"bytes": size}


def text(options: argparse.Namespace) -> dict[str, Any]:
    """Run the whole stage on synthetic texts with the default params; return the peak of memory in each step."""
    from tasks.curation import tasks
    from tasks.reports import Timings

    data, params = options.folder / "data", tasks.Params(num_threads=options.workers)
    # In a process of its own, so that this one has no free memory from it.
    command = [sys.executable, "-m", "benchmarks.scale_runs", "--what", "write"]
    command += ["--folder", str(options.folder), "--documents", str(options.documents)]
    command += ["--sentences", str(options.sentences)]
    written = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    memory, timings = Memory(options.workers > 1, STEP_SECONDS), Timings("curation", data / "timings")
    run = options.folder / "run"
    before, start, peaks = anonymous_bytes(os.getpid()), cpu_seconds(os.getpid()), dict[str, float]()
    seconds = dict[str, float]()
    memory.start()

    def step(name: str, function: Any, *arguments: Any) -> Any:
        memory.peak, begin = 0, time.perf_counter()
        result = function.fn(*arguments)
        peaks[name] = max(memory.peak, anonymous_bytes(os.getpid())) / 1e9
        seconds[name] = time.perf_counter() - begin
        print(f"{name}: {seconds[name]:.0f} s, {peaks[name]:.2f} GB", file=sys.stderr, flush=True)
        return result

    corpus = step("filter", tasks.filter_documents, params, data, timings, run)
    step("duplicates", tasks.deduplicate, corpus, params, timings)
    comparison = step("contamination", tasks.decontaminate, corpus, params, data, timings)
    masked = step("write", tasks.write_documents, corpus, params, data, timings)
    records = step("records", tasks.curate_records, comparison, params, data, timings, run)
    step("report", tasks.write_report, corpus, comparison, masked, records, params, data, timings)
    return {
        **written, "documents": options.documents, "kept": int(corpus.kept.sum()), "before_gb": before / 1e9,
        "peak_gb": max(peaks.values()), "peaks_gb": peaks, "cpu_seconds": cpu_seconds(os.getpid()) - start,
        "seconds": sum(seconds.values()), "seconds_by_step": seconds,
    }  # fmt: skip


WHAT = {"cluster": cluster, "empty": cluster, "text": text, "write": write_texts}


def main() -> None:
    """Run one driver; the results are one line of JSON, the last one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=WHAT, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--documents", type=int, required=True)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--address", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--root", type=int)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--sentences", type=int, default=5, help="of a synthetic text, 118 bytes each")
    parser.add_argument("--skew", action="store_true")
    parser.add_argument("--discard", action="store_true")
    options = parser.parse_args()
    print(json.dumps(WHAT[options.what](options)))


if __name__ == "__main__":
    main()
