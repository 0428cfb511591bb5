"""A small project of three stages that count letters: our flows/, DVC, git and Prefect for real, the work a toy."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# stage, what it reads, what it writes: words -> letters -> total, and lines beside
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
        raise BadInput("the toy of {stage} is broken; mend it")
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
    """The folder and how to call things in it."""

    root: Path
    env: dict[str, str]

    def run(self, *command: str, code: int = 0) -> str:
        """Run `python -m <command>`; what it said. Fails unless it ends with `code`."""
        with self.start(*command) as done:
            try:
                said, _ = done.communicate(timeout=1500)
            finally:
                done.kill()
        assert done.returncode == code, said
        return said

    def start(self, *command: str) -> "subprocess.Popen[str]":
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([sys.executable, "-m", *command], cwd=self.root, env=self.env, text=True, **pipe)

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True).stdout

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def set_params(self, **sections: str) -> None:
        lines = [f"{stage}: {{ {sections.get(stage, '')} }}" for stage in STAGES]
        self.write("params.yaml", "\n".join(lines) + "\n")

    def journal(self) -> list[str]:
        """The flows that ran since the last call."""
        path = self.root / "journal"
        ran = path.read_text().split() if path.is_file() else []
        path.unlink(missing_ok=True)
        return ran


def start_versioning(made: Project) -> None:
    """git and DVC as in the real project."""
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        copy(ROOT / name, made.root / name)
    made.git("init", "--quiet", "--initial-branch=main")
    made.git("config", "user.email", "somebody@example.org")
    made.git("config", "user.name", "Somebody")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message=start")


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
