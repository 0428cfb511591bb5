"""The whole curation stage, Parquet to Parquet: MB per CPU-second, beside datatrove, and on two cores.

    make bench NAME=curation

All steps are on: language, spam, Gopher, FineWeb, exact and near-duplicates, contamination, personal data and
the report; each run starts without stored signals. CPU seconds count after imports and compilation. A run on one core
is pinned to it. Of several runs the fastest counts, because the machine may do other work. The limit of two cores is
measured by two runs at once, each on its own core, that share only the machine.
"""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import corpora, filters, peers
from benchmarks.minhash import PEERS
from tasks import documents, tables
from tasks.conversations import CONVERSATIONS, PREFERENCES

BYTES, PEER_BYTES, RUNS = 384 << 20, 3 << 20, 4


def texts(max_bytes: int) -> list[str]:
    """A third pages, books, answers; a tenth Chinese; the rest documentation in pieces; shuffled."""
    texts = corpora.english(max_bytes // 3) + corpora.chinese(max_bytes // 10)
    size = sum(len(text.encode()) for text in texts)
    for document in corpora.documentation(max_bytes * 2):
        texts.extend(filters.pieces(document))
        size += len(document.encode())
        if size > max_bytes:
            break
    random.Random(0).shuffle(texts)
    return texts


def deliver(data: Path, some: list[str]) -> int:
    """Write what ingestion would; the bytes of text."""
    with tables.Writer(data / "documents", documents.SCHEMA) as writer:
        for i, text in enumerate(some):
            split = "test" if i % 100 == 0 else "train"
            writer.add_row(documents.Document(f"{i:08d}", text, group=str(i)).row("bench", split))
    tables.write(data / "conversations" / "raw", CONVERSATIONS, [])
    tables.write(data / "preferences" / "raw", PREFERENCES, [])
    return sum(len(text.encode()) for text in some)


def curate(data: Path, num_cores: int) -> dict[str, float]:
    """CPU and wall seconds of one run of the stage in a process of its own, and how many documents it kept."""
    return ended(start(data, 0, num_cores))


def start(data: Path, first_core: int, num_cores: int) -> "subprocess.Popen[str]":
    """A run of the stage in a process of its own, on some of the cores."""
    shutil.rmtree(data / "run", ignore_errors=True)
    cores = dict.fromkeys(peers.ONE_CORE, str(num_cores))
    command = [sys.executable, "-m", "benchmarks.curation", str(data), str(first_core), str(num_cores)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | cores)


def ended(process: "subprocess.Popen[str]") -> dict[str, float]:
    """What a run says at its end."""
    output = process.communicate()[0]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return dict(json.loads(output.strip().splitlines()[-1]))


def side_by_side(data: Path, copy: Path) -> float:
    """Wall seconds of the slower one of two runs at once, each on a core of its own."""
    runs = [start(data, 0, 1), start(copy, 1, 1)]
    return max(ended(run)["wall"] for run in runs)


def quickest(runs: list[dict[str, float]]) -> dict[str, float]:
    """The least of each number."""
    return {name: min(run[name] for run in runs) for name in runs[0]}


def stage(data: Path, first_core: int, num_cores: int) -> None:
    """One run; prints what `curate` gives back."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[first_core:][:num_cores])
    from tasks.curation import tasks
    from tasks.reports import Timings

    params, timings = tasks.Params(num_threads=num_cores), Timings("curation", data / "timings")
    wall, start = time.perf_counter(), used()
    corpus = tasks.filter_documents.fn(params, data, timings, data / "run")
    tasks.deduplicate.fn(corpus, params, timings)
    tasks.remove_repeated_passages.fn(corpus, params, timings)
    held_out = tasks.decontaminate.fn(corpus, params, data, timings)
    tasks.rehydrate.fn(corpus, params, data, timings)
    tasks.write_documents.fn(corpus, params, data, timings)
    tasks.curate_records.fn(held_out, params, data, timings)
    body: dict[str, Any] = {"seconds": used() - start, "wall": time.perf_counter() - wall, **timings.values}
    print(json.dumps(body | {"kept": int(corpus.kept.sum())}))


def used() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print a table, and the results as one line of JSON last."""
    print(corpora.source())
    with tempfile.TemporaryDirectory() as folder:
        data, copy, few = Path(folder) / "all", Path(folder) / "copy", Path(folder) / "few"
        some = texts(BYTES)
        megabytes = deliver(data, some) / 1e6
        shutil.copytree(data, copy)
        deliver(few, some[:: max(1, BYTES // PEER_BYTES)])
        curate(few, 1)  # compiles, where nothing is compiled yet
        rounds = [(curate(data, 1), curate(data, 2), {"wall": side_by_side(data, copy)}) for _ in range(RUNS)]
        one, two, separate = (quickest(list(runs)) for runs in zip(*rounds, strict=True))
        document = next((few / "documents").glob("*.parquet"))
        workspace = Path(folder) / "datatrove"
        peer = peers.run(peers.python("curation", PEERS), Path("benchmarks/curation_peers.py"), document, workspace)
    rate = megabytes / one["seconds"]
    peer_rate = peer["bytes"] / 1e6 / peer["seconds"]
    for name in one:
        print(f"{name:>16} {one[name]:>10.2f} {two[name]:>10.2f}")
    print(f"datatrove: {peer_rate:.2f} MB per CPU-second on {peer['bytes'] / 1e6:.1f} MB")
    body = {
        "mb_per_cpu_s": rate,
        "vs_datatrove": rate / peer_rate,
        "two_core_speedup": one["wall"] / two["wall"],
        "two_core_limit": 2 * one["wall"] / separate["wall"],
        "cpu_s_on_two_cores": two["seconds"],
        "cpu_s_on_one_core": one["seconds"],
        "documents": len(some),
        "megabytes": megabytes,
    }
    print(json.dumps(body))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        stage(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
