"""Kills, damaged files and full disks in ingestion, curation, tokenization and training, on tiny data and models."""

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import fault_injection as injection
from benchmarks import resume
from benchmarks.fault_injection import DOUBLED, LOST, SURVIVED, WRONG, Tally
from flows.runtime import embedded
from tasks import models, tables, tokens
from tasks.documents import SCHEMA
from tasks.errors import UserError
from tasks.files import sha256
from tasks.training.loop import checkpoint

NUM_RECORDS = 40
DAMAGES = ("flip", "truncation", "empty", "zeros")
TABLES = ("documents", "conversations/raw", "curated", "dropped/documents", "conversations/curated")


def write_raw(data: Path) -> None:
    """Write a file of documents and one of conversations."""
    (data / "raw").mkdir(parents=True)
    with open(data / "raw/documents.jsonl", "w", encoding="utf-8") as file:
        for number in range(NUM_RECORDS):
            text = f"Document {number} tells the story of the river and of the {number} people who live by it. " * 4
            file.write(json.dumps({"id": str(number), "text": text}) + "\n")
    with open(data / "raw/chats.jsonl", "w", encoding="utf-8") as file:
        for number in range(NUM_RECORDS):
            messages = [
                {"role": "user", "content": f"Say {number}"},
                {"role": "assistant", "content": f"It is {number}."},
            ]
            file.write(json.dumps({"id": str(number), "messages": messages}) + "\n")


def ingest(data: Path) -> None:
    """Run ingestion as its flow does, without Prefect's server."""
    from flows.ingestion import ingestion
    from tasks.ingestion import tasks

    sources = {
        "docs": {"source": "jsonl", "paths": ["raw/documents.jsonl"]},
        "chats": {"source": "jsonl", "paths": ["raw/chats.jsonl"], "kind": "conversations"},
    }
    os.chdir(data)  # ids of records contain the paths of their files
    with embedded.without_server():
        ingestion.fn(tasks.Params.model_validate({"sources": sources}), data)


def curate(data: Path) -> None:
    """Run curation as its flow does, without Prefect's server."""
    from flows.curation import curation
    from tasks.curation import tasks

    os.chdir(data)  # its scratch folder is .run
    with embedded.without_server():
        curation.fn(tasks.Params.model_validate({"filters": []}), data)


def digest(data: Path, folders: Iterable[str] = TABLES) -> str:
    """Return a hash of all shards and manifests."""
    files = [path for name in folders for path in sorted((data / name).rglob("*")) if path.is_file()]
    return "".join(f"{path.relative_to(data)} {sha256(path)}\n" for path in files)


def ids(data: Path, folders: Iterable[str]) -> Counter[str]:
    """Return how often each record is in the tables."""
    complete = [data / name for name in folders if (data / name / "manifest.json").is_file()]
    return Counter(row for folder in complete for row in tables.read(folder, ["id"])["id"].to_pylist())


def compare(data: Path, reference: Path, folders: Iterable[str] = TABLES) -> str:
    """Return the outcome of a fault after which the work was repeated: equal bytes, or what is wrong."""
    actual, expected = ids(data, folders), ids(reference, folders)
    if expected - actual:
        return LOST
    if actual - expected:
        return DOUBLED
    return SURVIVED if digest(data, folders) == digest(reference, folders) else WRONG


def kill_stage(tally: Tally, area: str, work: Callable[[Path], None], start: Path, scratch: Path, number: int) -> Path:
    """Kill a stage at up to `number` of its writes, repeat it, and compare. Return the data without a fault."""
    reference = injection.fresh(scratch / f"{area}-reference", start)
    total = injection.count_writes(partial(work, reference))
    for at_write in injection.spread(total, number):
        data = injection.fresh(scratch / f"{area}-killed", start)
        injection.run_forked(injection.killed_at(at_write, partial(work, data)))
        code = injection.run_forked(partial(work, data))
        tally.add(area, f"kill at write {at_write} of {total}", WRONG if code else compare(data, reference))
    return reference


def kill_training(tally: Tally, scratch: Path, stages: Iterable[str], number: int) -> Path:
    """Kill training at up to `number` writes of each stage; resume; compare. Return the data without a fault."""
    data = scratch / "training"
    assert injection.run_forked(partial(resume.prepare, data)) == 0, "tokenization failed"
    for stage in stages:
        assert injection.run_forked(partial(resume.train, stage, data)) == 0, f"{stage} failed"
        expected = resume.digest(stage, data)
        folder = scratch / f"{stage}-count"
        resume.link_inputs(folder, data, stage)
        total = injection.count_writes(partial(resume.train, stage, folder))
        for at_write in injection.spread(total, number):
            folder = scratch / f"{stage}-{at_write}"
            resume.link_inputs(folder, data, stage)
            injection.run_forked(injection.killed_at(at_write, partial(resume.train, stage, folder)))
            code = injection.run_forked(partial(resume.train, stage, folder))
            is_equal = code == 0 and resume.digest(stage, folder) == expected
            tally.add("training", f"{stage}, kill at write {at_write} of {total}", SURVIVED if is_equal else WRONG)
    return data


def damage_artifacts(tally: Tally, data: Path, scratch: Path, number: int) -> None:
    """Damage shards, token files, model folders and checkpoints: reading must name the damage, or be equal."""
    rng = random.Random(1)
    save_checkpoint(scratch / "checkpoints")
    readers: dict[str, tuple[Path, Callable[[Path], str]]] = {
        "shard": (data / "curated", lambda folder: str(tables.read(folder).to_pylist())),
        "batches": (
            data / "conversations/curated",
            lambda folder: str([b.to_pylist() for b in tables.batches(folder)]),
        ),
        "tokens": (data / "tokens", read_tokens),
        "model": (data / "models/pretrain", lambda folder: json.dumps(models.verify(folder), sort_keys=True)),
        "checkpoint": (scratch / "checkpoints", lambda folder: str(checkpoint.load_newest(folder, "same"))),
    }
    for name, (source, read) in readers.items():
        expected = read(source)
        for index in range(number):
            kind = DAMAGES[index % len(DAMAGES)]
            folder = injection.fresh(scratch / "damaged", source)
            files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0)
            files = [path for path in files if path.name != "manifest.json"]
            files = [path for path in files if "documents/train" in str(path)] or files
            path = files[index % len(files)]
            injection.damage(path, kind, rng)
            tally.add("artifacts", f"{name}: {kind} of {path.name}", outcome_of_reading(read, folder, expected))


def read_tokens(folder: Path) -> str:
    """Return the content of a token stream."""
    stream = tokens.read_stream(folder / "documents/train")
    return str([np.asarray(getattr(stream, name)).tolist() for name in ("ids", "lengths") if hasattr(stream, name)])


def outcome_of_reading(read: Callable[[Path], str], folder: Path, expected: str) -> str:
    """Return whether reading a damaged folder is refused or gives what was written."""
    try:
        content = read(folder)
    except (UserError, OSError, ValueError):
        return SURVIVED
    return SURVIVED if content in (expected, "None") else WRONG  # None: the checkpoint is not used


def save_checkpoint(folder: Path) -> None:
    """Write one checkpoint."""
    import torch

    with checkpoint.Saver(folder, 2, None, "same") as saver:
        saver.save_async(1, {"weights": {"a": torch.arange(2_000, dtype=torch.float32)}})


def fill_disk(tally: Tally) -> None:
    """Write tables, JSON, checkpoints and token files to a full disk: an error, and the earlier files stay."""
    import pyarrow as pa

    from tasks.files import write_json

    origin = {"source": "s", "group": "g", "split": "train", "metadata": ""}
    rows = [{"id": str(number), "text": os.urandom(3_000).hex(), **origin} for number in range(40)]
    ids_of_stream = np.arange(100_000, dtype=np.uint32)
    writers: dict[str, Callable[[Path], object]] = {
        "table": lambda folder: tables.write(folder / "table", SCHEMA, [pa.Table.from_pylist(rows, SCHEMA)]),
        "json": lambda folder: write_json(folder / "report.json", {"text": "x" * 200_000}),
        "tokens": lambda folder: np.save(folder / "ids.npy", ids_of_stream),
        "checkpoint": lambda folder: save_large_checkpoint(folder),
    }
    for name, write in writers.items():
        try:
            with injection.full_disk() as disk:
                write_json(disk / "report.json", {"old": 1})
                save_small_checkpoint(disk)
                code = injection.run_forked(partial(write, disk))
                is_intact = (disk / "report.json").read_text().split() == ["{", '"old":', "1", "}"]
                is_complete = (disk / "table" / "manifest.json").is_file()
                still_there = checkpoint.load_newest(disk / "checkpoints", "same") is not None
            is_refused = code != 0 or name == "checkpoint"  # a checkpoint that cannot be written is only reported
            is_right = is_refused and is_intact and not is_complete and still_there
            tally.add("full disk", name, SURVIVED if is_right else WRONG)
        except PermissionError as error:
            print(f"full disk: not measured, because {error}", file=sys.stderr)
            return


def save_small_checkpoint(disk: Path) -> None:
    """Write a checkpoint that fits."""
    import torch

    with checkpoint.Saver(disk / "checkpoints", 2, None, "same") as saver:
        saver.save_async(1, {"weights": {"a": torch.arange(10)}})


def save_large_checkpoint(disk: Path) -> None:
    """Write a checkpoint that does not fit."""
    import torch

    with checkpoint.Saver(disk / "checkpoints", 2, None, "same") as saver:
        saver.save_async(2, {"weights": {"a": torch.arange(100_000)}})
