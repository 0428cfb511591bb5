"""Forecasts of a scaling ladder: the C4 loss of OLMo 7B and 13B from 16 runs of 190M to 1.3B, with intervals.

    make bench NAME=ladder

The rungs are the final points of `train` runs in ../shared/data/olmo_ladder (arXiv:2412.04403); the fit reads no
target. N counts all weights: the file's count leaves out the input embedding, which is added (vocabulary x width of
OLMo 2); `file_count` is the result without this. Without the file, `error_7b` and `error_13b` are null.
`leave_largest_out` is the error at the largest rung, `olmo_inside` states whether both targets are in their intervals.

Then `python -m flows.ladder` trains rungs on the default data, and a run with 10 times the compute of the top rung is
forecast and trained. `own_error` is the error of its bits per byte, `inside` whether the result is in the 95 %
interval. An interrupted benchmark continues.
"""

import csv
import gzip
import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.project_copy import copy_project, run
from flows.proxies import runs
from flows.runtime import params
from tasks.files import MANIFEST, read_json
from tasks.ladder import forecast
from tasks.ladder import tasks as ladders
from tasks.ladder.fit import Run

WORK = Path(".bench/ladder/project")
# Of the model below which the rungs are, and of the documentation that they read: five times the steps of the default
# run and four times its bytes, so that the rungs are no shorter than a few hundred steps.
STEPS, DOCUMENT_BYTES = 1500, 10_000_000
MAX_OWN_ERROR = 0.05  # leave-largest-out; by default, 1 % is the limit of what is forecast
TIMES = 10  # the compute of the target, in that of the top rung
SHAPE = {"width": 192, "num_heads": 3}  # of the target: about three times the weights of the top rung
FILE = Path("../shared/data/olmo_ladder/runs.csv.gz")
LOSS, TOKENS = "eval/c4_en-validation/CrossEntropyLoss", "throughput/total_tokens"
VOCABULARY = 100_352
WIDTHS = {190_354_176: 768, 371_262_464: 1024, 758_220_288: 1536, 1_279_395_840: 2048, 6_887_575_552: 4096,
          13_202_396_160: 5120}  # fmt: skip
# The file states no tokens for 13B; its name is 13B-5T.
TARGETS = {"7b": ("peteish7_eval_anneal", 3.945e12, 0.01), "13b": ("peteish13_eval_final", 5e12, 0.02)}


def read(file: Path) -> dict[str, list[Mapping[str, str]]]:
    """The rows of each run."""
    runs: dict[str, list[Mapping[str, str]]] = {}
    with gzip.open(file, "rt", encoding="utf-8") as text:
        for row in csv.DictReader(text):
            runs.setdefault(row["run"], []).append(row)
    return runs


def weights(row: Mapping[str, str], with_embedding: bool) -> float:
    """The weights of the model of a row."""
    count = int(row["n"])
    return count + VOCABULARY * WIDTHS[count] * with_embedding


def forecasts(rows_by_run: Mapping[str, list[Mapping[str, str]]], with_embedding: bool) -> dict[str, Any]:
    """The errors of both targets, the own error and whether the targets are inside their intervals."""
    rungs = list[Run]()
    for rows in rows_by_run.values():
        if rows[0]["mode"] == "train":
            last = max((row for row in rows if row[LOSS]), key=lambda row: float(row[TOKENS]))
            rungs.append(Run(weights(last, with_embedding), float(last[TOKENS]), float(last[LOSS])))
    result: dict[str, Any] = {"rungs": len(rungs), "olmo_inside": True}
    for name, (name_of_run, tokens, _) in TARGETS.items():
        losses = [float(row[LOSS]) for row in rows_by_run[name_of_run] if row[LOSS]]
        actual = sum(losses) / len(losses)
        predicted = forecast.predict(rungs, weights(rows_by_run[name_of_run][0], with_embedding), tokens)
        result[f"error_{name}"] = round(predicted["loss"] / actual - 1, 5)
        low, high = predicted["interval_95"]
        result["olmo_inside"] &= low <= actual <= high
        result[f"interval_95_{name}"] = [round(low, 3), round(high, 3)]
        result["leave_largest_out"], result["law"] = round(predicted["own_error"], 5), predicted["law"]
        print(f"{name}: forecast {predicted['loss']:.4f} [{low:.4f}, {high:.4f}], actual {actual:.4f}", file=sys.stderr)
    return result


def olmo() -> dict[str, Any]:
    """The errors at OLMo 7B and 13B; without the file, they are null."""
    if not FILE.is_file():
        return {"error_7b": None, "error_13b": None, "note": f"not measured: there is no {FILE}"}
    rows = read(FILE)
    result = forecasts(rows, True)
    other = forecasts(rows, False)
    result["file_count"] = {key: other[key] for key in ("error_7b", "error_13b", "leave_largest_out", "olmo_inside")}
    result["olmo_passed"] = result["olmo_inside"] and all(
        abs(result[f"error_{name}"]) <= limit for name, (_, _, limit) in TARGETS.items()
    )
    return result


def own(root: Path) -> dict[str, Any]:
    """Forecast and train a run with TIMES the compute of the top rung of a ladder on the default data in `root`."""
    if not (root / "params.yaml").is_file():
        copy_project(root, "params.yaml")
        write_params(root / "params.yaml")
    section = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["pretrain"]
    call(root, "flows.pipeline", "--to", "tokenization")
    if not (root / "data" / ladders.FILE).is_file():
        # The target is trained in any case, so that its error is known also where a forecast would be refused.
        call(root, "flows.ladder", "--target", f"steps={STEPS}", "--max-own-error", str(MAX_OWN_ERROR))
    rungs = [Run(**rung) for rung in read_json(root / "data" / ladders.FILE)["rungs"]]
    flops = TIMES * max(forecast.compute(run.weights, run.tokens) for run in rungs)
    target = {**section, "model": {**section["model"], **SHAPE}}
    num_weights = runs.num_weights(target, "the target of the benchmark", root / "data")
    per_step = section["global_batch_size"] * section["sequence_length"]
    target["steps"] = round(flops / forecast.compute(num_weights, per_step))
    target["evaluate_every"] = target["steps"]
    trained: Any = params.section("pretrain", target, "the target of the benchmark")
    work = root / ".run/target"
    runs.link(root / "data/tokens", work / "tokens")

    def train() -> dict[str, float]:
        return {"nats": float(runs.train("pretrain", trained, work).scores["validation_loss"])}

    nats = runs.once(work, train)["nats"]
    counts = read_json(root / "data/tokens" / MANIFEST)["documents"]["validation"]
    result = nats / math.log(2) * counts["num_tokens"] / counts["num_bytes"]
    predicted = forecast.predict(rungs, num_weights, float(target["steps"] * per_step), MAX_OWN_ERROR)
    low, high = predicted["interval_95"]
    print(f"own: forecast {predicted['loss']:.4f} [{low:.4f}, {high:.4f}], actual {result:.4f}", file=sys.stderr)
    return {
        "own_error": round(predicted["loss"] / result - 1, 5), "inside": low <= result <= high,
        "own_weights": round(num_weights), "own_tokens": target["steps"] * per_step, "own_bits_per_byte": result,
        "own_leave_largest_out": round(predicted["own_error"], 5), "own_rungs": len(rungs),
    }  # fmt: skip


def write_params(file: Path) -> None:
    """Read more documents than the default run."""
    body = yaml.safe_load(file.read_text(encoding="utf-8"))
    body["ingestion"]["sources"]["environment"]["max_bytes"] = DOCUMENT_BYTES
    file.write_text(yaml.safe_dump(body, allow_unicode=True, sort_keys=False), encoding="utf-8")


def call(root: Path, *command: str) -> None:
    """Run a command of the project in `root`. Raises RuntimeError with its output if it fails."""
    code, output = run(root, *command)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {code}:\n{output[-3000:]}")


def main() -> None:
    """Print one line of JSON."""
    start = time.process_time()
    result = olmo() | own(WORK)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() - start + usage.ru_utime + usage.ru_stime
    print(json.dumps({**result, "cpu_seconds": round(seconds, 1)}))
    shutil.rmtree(WORK)  # the next call measures again


if __name__ == "__main__":
    main()
