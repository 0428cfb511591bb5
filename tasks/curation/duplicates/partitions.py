"""Stages of the engine whose tasks read one partition each of the row files of an earlier stage."""

from typing import Any

from tasks.engine import engine
from tasks.engine.engine import Manifest


def keys(bits: int) -> list[str]:
    """Return the key of each of 2^bits partitions."""
    return [f"{partition:05d}" for partition in range(1 << bits)]


def folders(stage: Manifest) -> list[str]:
    """Return the folder of each part of a stage."""
    return [str(stage.folder / part.name) for part in stage.parts.values()]


def inputs(stage: Manifest, bits: int, **shared: Any) -> dict[str, dict[str, Any]]:
    """Return the inputs of a stage that reads one partition of the files of `stage` at a time. shared: of all keys."""
    task = {"folders": folders(stage), "bits": bits, **shared}
    return {key: {**task, "partition": partition} for partition, key in enumerate(keys(bits))}


def complete(stage: Manifest) -> Manifest:
    """Return the stage. Raises BadInput if a task has ended its worker in every attempt."""
    consequence = "near-duplicates cannot be compared"
    advice = "Set `memory` in params.yaml to less, or num_threads of curation to 1, and run it again."
    return engine.complete(stage, consequence, advice)
