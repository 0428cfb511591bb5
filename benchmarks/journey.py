"""The default run in a copy of the project: seconds, memory, and the share of the processor's peak, by stage.

    make bench NAME=journey

It runs `python -m flows.pipeline` with the params of params.yaml and nothing in the cache. CPU seconds are those of all
processes of the run. `peak_share` is the rate of the training steps by the rate of large matrix products in the same
precision, which is measured here, too: a processor with instructions for matrices in bfloat16 reaches little of it with
a model of two million weights, whose products are small.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import project_copy
from tasks.files import read_json


def run(root: Path) -> tuple[dict[str, Any], float, float]:
    """Run the pipeline; return what it prints as JSON, and its wall and CPU seconds. A failed gate is a result, too."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    code, text = project_copy.run(root, "flows.pipeline", "--json", errors=None)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if not text.strip():
        sys.exit(f"The pipeline ended with code {code} and without results.")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(text), wall, cpu


def peak_shares(root: Path) -> dict[str, float]:
    """Return the share of the peak of matrix products that each training stage reached."""
    shares = {}
    for path in sorted((root / ".run/timings").glob("*.json")):
        timings: dict[str, float] = read_json(path)
        if "peak_share" in timings:
            shares[path.stem] = round(timings["peak_share"], 4)
    return shares


def main() -> None:
    """Print a table, and the results as one line of JSON at the end."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        project_copy.copy_project(root, "params.yaml")
        results, wall, cpu = run(root)
        shares = peak_shares(root)
        scores: dict[str, Any] = read_json(root / "data/reports/evaluation.json")
    stages = {name: row["seconds"] for name, row in results["stages"].items() if row["seconds"] is not None}
    print(f"{'stage':<14}{'seconds':>9}{'peak GB':>9}{'of peak':>9}")
    for name, seconds in stages.items():
        share = f"{shares[name]:.2f}" if name in shares else ""
        print(f"{name:<14}{seconds:>9.1f}{results['stages'][name]['peak_bytes'] / 1e9:>9.2f}{share:>9}")
    body = {
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(wall, 1),
        "peak_share": shares,
        "peak_gb": round(max(row["peak_bytes"] or 0 for row in results["stages"].values()) / 1e9, 3),
        "gates_failed": scores["gates_failed"],
        "seconds_by_stage": {name: round(seconds, 1) for name, seconds in stages.items()},
        "seconds_outside_stages": round(wall - sum(stages.values()), 1),
    }
    print(json.dumps(body))


if __name__ == "__main__":
    main()
