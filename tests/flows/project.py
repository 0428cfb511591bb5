"""A small project of toy stages that count letters, with the real flows/runtime, DVC, git and Prefect."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# stage -> (folder it reads, folder it writes): words -> letters -> total, and lines independently
STAGES = {
    "words": ("raw", "words"),
    "letters": ("words", "letters"),
    "lines": ("raw", "lines"),
    "total": ("letters", "total"),
}

WORK = """
import os, time
from pathlib import Path
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field
from tasks.errors import GateFailed, BadInput
from tasks.reports import Report, Timings

class Params(BaseModel, frozen=True, extra="forbid"):
    times: int = Field(1, ge=1, le=9)
    wait: float = 0.0
    fail: str = ""

@task(cache_policy=NO_CACHE)
def work(params: Params, data: Path) -> None:
    start = time.monotonic()
    while time.monotonic() - start < params.wait:
        time.sleep(0.05)
    if params.fail == "user":
        raise BadInput("the toy stage {stage} is broken; repair it")
    if params.fail == "bug":
        raise RuntimeError("a bug in {stage}")
    if params.fail == "full":
        raise OSError(28, "No space left on device")
    text = "".join(p.read_text() for p in sorted((data / "{source}").glob("*.txt"))) * params.times
    (data / "{target}").mkdir(parents=True, exist_ok=True)
    (data / "{target}" / "a.txt").write_text(text)
    report = Report("{stage}", counts={{"letters": len(text)}}, scores={{"mean": 0.5}})
    report.tables["steps"] = [{{"step": i, "loss": 1 / (i + 1)}} for i in range(3)]
    report.write(data / "reports")
    if "{stage}" == "total":
        (data / "models" / "total").mkdir(parents=True, exist_ok=True)
        (data / "models" / "total" / "config.json").write_text("{{}}")
    if params.fail == "gate":
        raise GateFailed("total is below its gate")
"""

FLOW = """
from pathlib import Path
from prefect import flow
from tasks.{stage} import tasks

@flow(name="{stage}")
def {stage}(params: tasks.Params, data: Path = Path("data")) -> None:
    with open("journal", "a") as file:
        file.write("{stage}\\n")
    tasks.work(params, data)

if __name__ == "__main__":
    from flows.runtime import command

    command.main({stage})
"""

BLOCK = """
  {stage}:
    cmd: python -m flows.{stage}
    deps: [data/{source}, tasks/{stage}]
    params: [{stage}]
    outs: [{outs}]
    metrics:
      - data/reports/{stage}.json: {{ cache: false }}
"""


@dataclass
class Project:
    """The folder of a project, and functions that run commands in it."""

    root: Path
    env: dict[str, str]

    def run(self, *command: str, code: int = 0) -> str:
        """Run `python -m <command>` and return its output. Fails unless it ends with exit code `code`."""
        with self.start(*command) as process:
            try:
                output, _ = process.communicate(timeout=1500)
            finally:
                process.kill()
        assert process.returncode == code, output
        return output

    def start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.root, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True).stdout

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def set_params(self, **sections: str) -> None:
        lines = [f"{stage}: {{ {sections.get(stage, '')} }}" for stage in STAGES]
        self.write("params.yaml", "\n".join(lines) + "\n")

    def journal(self) -> list[str]:
        """Return the flows that ran since the last call."""
        path = self.root / "journal"
        flows = path.read_text().split() if path.is_file() else []
        path.unlink(missing_ok=True)
        return flows


def make_project(root: Path, env: dict[str, str]) -> Project:
    """Make a project of the toy stages in `root` and commit it to git. env: the environment of its commands."""
    project = Project(root, env)
    for path in (
        ROOT / "flows/__init__.py",
        ROOT / "flows/pipeline.py",
        ROOT / "flows/notifications.py",
        ROOT / "flows/deliveries.py",
        *(ROOT / "flows/runtime").glob("*.py"),
        *(ROOT / "flows/versions").glob("*.py"),
    ):
        copy(path, root / path.relative_to(ROOT))
    for path in (
        *(ROOT / "tasks").glob("*.py"),
        *(ROOT / "tasks/causal").glob("*.py"),
        *(ROOT / "tasks/engine").glob("*.py"),
        *(ROOT / "tasks/pages").glob("*.py"),
        *(ROOT / "tasks/precompilation").glob("*.py"),
    ):
        copy(path, root / path.relative_to(ROOT))
    project.write("tasks/training/__init__.py", "")
    project.write("tasks/training/stages/__init__.py", "")
    blocks = []
    for stage, (source, target) in STAGES.items():
        project.write(f"tasks/{stage}/__init__.py", "")
        project.write(f"tasks/{stage}/tasks.py", WORK.format(stage=stage, source=source, target=target))
        project.write(f"flows/{stage}.py", FLOW.format(stage=stage))
        outs = f"data/{target}, data/reports/{stage}" + (", data/models/total" if stage == "total" else "")
        blocks.append(BLOCK.format(stage=stage, source=source, outs=outs))
    project.write("dvc.yaml", "stages:" + "".join(blocks))
    project.write("data/raw/a.txt", "one two")
    project.set_params()
    start_versioning(project)
    return project


def start_versioning(project: Project) -> None:
    """Set up git and DVC as in the real project."""
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        copy(ROOT / name, project.root / name)
    project.git("init", "--quiet", "--initial-branch=main")
    project.git("config", "user.email", "somebody@example.org")
    project.git("config", "user.name", "Somebody")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=start")


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
