"""Answers and likelihoods of a model: computed in this process, or one batch per task on the cluster.

The cluster makes the batches that this process would make, so that the numbers are the same, as far as a model on
another machine gives the same numbers.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks import generation, tokens
from tasks.answers import batches_by_length
from tasks.engine import settings
from tasks.engine.engine import Function, check_part, complete
from tasks.evaluation import continuations, loading
from tasks.evaluation.continuations import Likelihood, Pair
from tasks.files import MANIFEST, read_json, sha256, write_json

RUN = Path(".run/evaluation")
RESULTS = "results.json"
MAX_IDS = 1 << 31  # the files of prompts do not depend on a vocabulary


@dataclass(frozen=True, slots=True)
class Source:
    """A model, and the folder from which workers load it. max_length: of a prompt with its answer."""

    model: Any
    folder: Path
    max_length: int | None


def generate(
    source: Source, prompts: Sequence[list[int]], *, max_new_tokens: int, end_ids: Sequence[int], pad_id: int,
    batch_size: int, temperature: float = 0.0, seed: int = 0, on_answers: Callable[[int], object] | None = None,
) -> tuple[list[list[int]], list[bool]]:  # fmt: skip
    """The answers to prompts, and whether each has an end token. The params are those of tasks/generation.py."""
    options: dict[str, Any] = {
        "end_ids": list(end_ids),
        "pad_id": pad_id,
        "batch_size": batch_size,
        "temperature": temperature,
    }
    if settings.current().engine == "local" or not prompts:
        generator = torch.Generator().manual_seed(seed)
        generated = generation.generate(
            source.model, prompts, max_new_tokens=max_new_tokens, generator=generator, on_answers=on_answers, **options
        )
        return generated.answers, generated.finished
    batches = list(batches_by_length([len(prompt) for prompt in prompts], batch_size, max_new_tokens))
    options |= {"max_new_tokens": max_new_tokens}
    shared = {"options": options, "seed": seed, "num_prompts": len(prompts)}
    tasks = [{**shared, "numbers": numbers} for numbers in batches]
    results = _on_engine(source, generate_batch, {"prompts": prompts}, tasks, on_answers)
    answers, finished = zip(*(results[number] for number in range(len(prompts))), strict=True)
    return list(answers), list(finished)


def likelihoods(source: Source, pairs: Sequence[Pair], batch_size: int) -> list[Likelihood]:
    """The likelihood of each pair, in their order; as `continuations.likelihoods`."""
    if settings.current().engine == "local" or not pairs:
        return continuations.likelihoods(source.model, pairs, batch_size)
    lists = {"prompts": [pair.prompt for pair in pairs], "continuations": [pair.continuation for pair in pairs]}
    tasks = [
        {**asdict(part), "batch_size": batch_size} for part in continuations.parts(source.model, pairs, batch_size)
    ]
    results = _on_engine(source, score_batch, lists, tasks)
    nothing: Any = ([], True)  # of a pair without a continuation, which no task reads
    scored = (results.get(number, nothing) for number in range(len(pairs)))
    return [Likelihood(np.array(log_probs, np.float64), is_greedy) for log_probs, is_greedy in scored]


def generate_batch(part: Path, task: Mapping[str, Any]) -> dict[str, int]:
    """Answer the prompts of one batch; write the answers and whether each has an end token."""
    options, numbers = task["options"], task["numbers"]
    prompts = tokens.read_ragged(Path(task["lists"]) / "prompts")
    random_numbers = None
    if options["temperature"] > 0:  # those that one process would draw for these prompts
        size, generator = (task["num_prompts"], options["max_new_tokens"]), torch.Generator().manual_seed(task["seed"])
        random_numbers = torch.rand(size, generator=generator)[numbers]
    generated = generation.generate(
        _model(task), [prompts[number].tolist() for number in numbers], random_numbers=random_numbers, **options
    )
    write_json(part / RESULTS, list(zip(numbers, generated.answers, generated.finished, strict=True)))
    return {"rows": len(numbers)}


def score_batch(part: Path, task: Mapping[str, Any]) -> dict[str, int]:
    """Compute the likelihoods of the pairs of one part, and write them."""
    prompts, following = (tokens.read_ragged(Path(task["lists"]) / name) for name in ("prompts", "continuations"))
    numbers, batch_size = task["numbers"], task["batch_size"]
    pairs = [Pair(prompts[number].tolist(), following[number].tolist()) for number in numbers]
    one_part = continuations.Part(numbers, task["start"], task["rows"])
    scored = list(continuations.score_part(_model(task), pairs, one_part, batch_size))
    write_json(part / RESULTS, [[number, one.log_probs.tolist(), one.is_greedy] for number, one in scored])
    return {"rows": len(scored)}


def _model(task: Mapping[str, Any]) -> Any:
    return _loaded(task["model"], task["digest"], task["max_length"])


@lru_cache(1)
def _loaded(folder: str, _digest: str, max_length: int | None) -> Any:
    """Return the model of a folder; a worker keeps it from one task to the next. digest: that of its manifest."""
    return loading.load_causal(Path(folder), max_length)[0]


def _on_engine(
    source: Source, function: Function, lists: Mapping[str, Sequence[list[int]]], tasks: Sequence[Mapping[str, Any]],
    on_rows: Callable[[int], object] | None = None,
) -> dict[int, Any]:  # fmt: skip
    """Call a function for each of `tasks`, which reads `lists`. Return what it writes of each number.

    A task that a run which was killed has completed is not repeated. Raises BadInput if a task has ended its worker in
    every attempt.
    """
    manifest = sha256(source.folder / MANIFEST)
    shared = {"model": str(source.folder.absolute()), "digest": manifest, "max_length": source.max_length}
    work = json.dumps([function.__qualname__, shared, tasks, lists], sort_keys=True)
    folder = (RUN / hashlib.sha256(work.encode()).hexdigest()[:16]).absolute()
    for name, values in lists.items():
        tokens.write_ragged(folder / name, values, MAX_IDS)
    inputs = {f"{n:05d}": {**shared, **task, "lists": str(folder)} for n, task in enumerate(tasks)}

    def on_result(_: str, result: Mapping[str, Any]) -> None:
        if on_rows is not None:
            on_rows(result["rows"])

    with settings.make_engine(folder, 0) as engine:
        done = engine.run("batches", list(inputs), function, inputs, on_result, wants_gpu=True)
    complete(done, "scores would be missing", "Lower evaluation.batch_size, or give the workers more memory.")
    results = dict[int, Any]()
    for key in done.parts:
        check_part(done, key)
        results |= {number: value for number, *value in read_json(done.path(key, RESULTS))}
    shutil.rmtree(folder)
    return results
