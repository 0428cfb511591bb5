"""Proxies: smaller models of the section pretrain, and work that is done only once, however often it is called for."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.runtime import params
from tasks.files import MANIFEST, locked, read_json, write_json
from tasks.ladder import tasks as ladders
from tasks.reports import Report, Timings
from tasks.training import tasks as training

RESULT = "result.json"  # written last: a folder that has it is complete
SHAPE = ("num_layers", "width", "num_heads")


@contextmanager
def exclusive(folder: Path, name: str) -> Iterator[None]:
    """Raise BadInput if another process runs `name` in `folder`: both would write the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", refusal=f"another process runs {name} in this project. Wait for its end."):
        yield


def once(folder: Path, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Call `work`, which writes into `folder`, unless an earlier call was complete; return its result and seconds."""
    if not (folder / RESULT).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        body = dict(work())
        write_json(folder / RESULT, {"seconds": round(time.perf_counter() - start, 2), **body})
    return dict(read_json(folder / RESULT))


def link(target: Path, place: Path) -> None:
    """Make `place` a link to the folder or file `target`, unless it is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink() and not place.exists():
        place.symlink_to(target.absolute())


def train(stage: str, stage_params: Any, folder: Path) -> Report:
    """Train a stage in `folder`, which has tokens/ and the models that it needs. Checkpoints are in it, too."""
    report: Report = training.train(
        stage, stage_params, folder, folder / "checkpoints", Timings(stage, folder / "timings")
    )
    return report


def plan(section: Mapping[str, Any], place: str, data: Path, count: int, budgets: int) -> ladders.Plan:
    """The rungs below the model of a section of pretrain: their shapes and numbers of steps. Raises BadParams.

    data: the folder with tokens/, whose vocabulary is that of the models.
    """
    target: Any = params.section("pretrain", section, place)
    shape = {key: getattr(target.model, key) for key in SHAPE}
    shapes = ladders.shapes(shape, count)
    weights = {
        name: num_weights({**section, "model": {**section.get("model", {}), **one}}, place, data)
        for name, one in shapes.items()
    }
    weights["target"] = num_weights(section, place, data)
    per_step = target.global_batch_size * target.sequence_length
    facts = {"model": shape, "tokens": target.steps * per_step, "tokens_per_step": per_step}
    rungs = ladders.plan({**facts, "warmup_steps": target.num_warmup_steps}, weights, count, budgets)
    return ladders.Plan(rungs, weights["target"], float(facts["tokens"]))


def without_size(section: Mapping[str, Any], target: Any) -> dict[str, Any]:
    """A section of pretrain, whose Params are `target`, with the values that its `size` stands for instead of it."""
    body = {key: value for key, value in section.items() if key != "size"}
    body |= {key: getattr(target, key) for key in ("sequence_length", "global_batch_size", "steps")}
    if not section.get("from_scratch"):
        body["learning_rate"] = target.learning_rate
    shape = {key: getattr(target.model, key) for key in SHAPE}
    return {**body, "model": {**(section.get("model") or {}), **shape}}


def num_weights(section: Mapping[str, Any], place: str, data: Path) -> float:
    """All weights of the model of a section of pretrain."""
    vocab_size = int(read_json(data / "tokens" / MANIFEST)["vocab_size"])
    return float(training.num_weights(params.section("pretrain", section, place), vocab_size))
