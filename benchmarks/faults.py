"""Injected faults in every part: does the work end with the same bytes, and is nothing lost, doubled, wrong or dead?

    make bench NAME=faults

Processes are killed (SIGKILL) just before their n-th write, rename or removal, and are started again; artifacts of
every kind get flipped bits, or are cut, emptied or filled with zeros; disks are full; MLflow refuses or hangs; the
server is killed while votes are written.
`survived`: the end is equal to a run without the fault, or the damage is refused by name. `lost`, `doubled`, `wrong`:
records or bytes that are missing, twice there, or different without notice. `dead_runs`: runs shown as running without
a process. With --quick, a selection without whole pipelines.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}

# Imported before the first fork, so that no forked process has to import them.
import dvc.repo.reproduce
import mlflow
import mlflow.store.tracking.sqlalchemy_store
import torch
import transformers

import flows.curation
import flows.ingestion
import tasks.curation.tasks
import tasks.tokenization.tasks
from benchmarks import faults_in_stages as stages
from benchmarks import faults_in_tools as tools
from benchmarks import faults_in_votes as votes
from benchmarks.fault_injection import Tally, fresh

IMPORTED = (dvc, mlflow, torch, transformers, flows, tasks)


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    is_quick = "--quick" in sys.argv
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        inject_into_stages(tally, Path(folder), is_quick)
        inject_into_tools(tally, Path(folder), is_quick)
    for (area, outcome), number in sorted(tally.by_area.items()):
        print(f"{area:<14}{outcome:<12}{number:>5}")
    print(json.dumps(tally.body()))


def inject_into_stages(tally: Tally, scratch: Path, is_quick: bool) -> None:
    """Kill each kind of stage at several writes, damage each kind of artifact, and fill disks."""
    num_kills, num_damages = (2, 2) if is_quick else (8, 12)
    stages.fill_disk(tally)
    stages.write_raw(scratch / "start")
    ingested = stages.kill_stage(tally, "ingestion", stages.ingest, scratch / "start", scratch, num_kills)
    show(tally)
    curated = stages.kill_stage(tally, "curation", stages.curate, ingested, scratch, num_kills)
    show(tally)
    trained = stages.kill_training(tally, scratch, ("pretrain",) if is_quick else ("pretrain", "sft"), num_kills // 2)
    show(tally)
    artifacts = fresh(scratch / "artifacts", trained)
    for name in ("curated", "conversations/curated"):
        fresh(artifacts / name, curated / name)
    stages.damage_artifacts(tally, artifacts, scratch, num_damages)
    show(tally)


def inject_into_tools(tally: Tally, scratch: Path, is_quick: bool) -> None:
    """Break votes, tracking, deliveries and scheduling; unless quick, also servers, versions and whole pipelines."""
    votes.break_votes(tally, scratch, 2 if is_quick else 6)
    show(tally)
    tools.kill_deliveries(tally, scratch, 2 if is_quick else 12)
    tools.kill_scheduled_runs(tally, scratch, 1 if is_quick else 4)
    show(tally)
    tools.break_tracking(tally, scratch, 1 if is_quick else 4)
    show(tally)
    if not is_quick:
        votes.kill_servers(tally, scratch, 3)
        show(tally)
        project = tools.make_toy(scratch / "toy")
        tools.damage_versions(tally, project, scratch, 4)
        show(tally)
        tools.kill_pipelines(tally, project, 2)


def show(tally: Tally) -> None:
    """Print the outcomes so far on stderr."""
    print(tally.body(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
