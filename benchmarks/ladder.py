"""Forecasts of a scaling ladder: the C4 loss of OLMo 7B and 13B from 16 runs of 190M to 1.3B, with intervals.

    make bench NAME=ladder

The rungs are the final points of `train` runs in ../shared/data/olmo_ladder (arXiv:2412.04403); the fit reads no
target. N counts all weights: the file's count leaves out the input embedding, which is added (vocabulary x width of
OLMo 2); `file_count` is the result without this. Without the file, `error_7b` and `error_13b` are null. `own_error`
is the leave-largest-out error, `inside` states whether both targets are in their 95 % intervals.
"""

import csv
import gzip
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.ladder import forecast
from tasks.ladder.fit import Run

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


def forecasts(runs: Mapping[str, list[Mapping[str, str]]], with_embedding: bool) -> dict[str, Any]:
    """The errors of both targets, the own error and whether the targets are inside their intervals."""
    rungs = list[Run]()
    for rows in runs.values():
        if rows[0]["mode"] == "train":
            last = max((row for row in rows if row[LOSS]), key=lambda row: float(row[TOKENS]))
            rungs.append(Run(weights(last, with_embedding), float(last[TOKENS]), float(last[LOSS])))
    result: dict[str, Any] = {"rungs": len(rungs), "inside": True}
    for name, (run, tokens, _) in TARGETS.items():
        losses = [float(row[LOSS]) for row in runs[run] if row[LOSS]]
        actual = sum(losses) / len(losses)
        predicted = forecast.predict(rungs, weights(runs[run][0], with_embedding), tokens)
        result[f"error_{name}"] = round(predicted["loss"] / actual - 1, 5)
        low, high = predicted["interval_95"]
        result["inside"] &= low <= actual <= high
        result[f"interval_95_{name}"] = [round(low, 3), round(high, 3)]
        result["own_error"], result["law"] = round(predicted["own_error"], 5), predicted["law"]
        print(f"{name}: forecast {predicted['loss']:.4f} [{low:.4f}, {high:.4f}], actual {actual:.4f}", file=sys.stderr)
    return result


def main() -> None:
    """Print one line of JSON."""
    start = time.process_time()
    if not FILE.is_file():
        print(json.dumps({"error_7b": None, "error_13b": None, "note": f"not measured: there is no {FILE}"}))
        return
    runs = read(FILE)
    result = forecasts(runs, True)
    other = forecasts(runs, False)
    result["file_count"] = {key: other[key] for key in ("error_7b", "error_13b", "own_error", "inside")}
    result["passed"] = result["inside"] and all(
        abs(result[f"error_{name}"]) <= limit for name, (_, _, limit) in TARGETS.items()
    )
    print(json.dumps({**result, "cpu_seconds": round(time.process_time() - start, 1)}))


if __name__ == "__main__":
    main()
