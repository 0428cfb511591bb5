"""Every command explains itself, refuses what it does not know at once, and does nothing then."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.runtime import command
from tasks.errors import BadInput
from tests.sources import ROOT, files

WORKERS = {"tasks.training.parallel.worker", "tasks.engine.worker"}  # started by other commands only
FLOWS = ["ingestion", "curation", "tokenization", "evaluation", "classifier", "training", "pipeline"]


@pytest.fixture(autouse=True)
def _default_settings(plain_env: dict[str, str]) -> None:
    """The commands read the settings from their own folder, not from that of the tests."""


def commands() -> list[str]:
    """Return every module that `python -m` can start."""
    paths = [
        path for path in files("flows", "tasks") if "\nif __name__ ==" in (ROOT / path).read_text(encoding="utf-8")
    ]
    names = {str(path.with_suffix("")).replace("/", ".").removesuffix(".__main__") for path in paths}
    return sorted(names - WORKERS)


def run(folder: Path, module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m module` in a folder that links to the code."""
    for name in ("flows", "tasks", "params.yaml", "dvc.yaml"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, *arguments], cwd=folder, capture_output=True, text=True
    )
    new_files = {path.name for path in folder.iterdir()} - {"flows", "tasks", "params.yaml", "dvc.yaml"}
    assert not new_files, f"{module} has made {new_files}"
    return process


def imported(process: "subprocess.CompletedProcess[str]") -> set[str]:
    """Return the top-level packages that a process has imported."""
    lines = process.stderr.splitlines()
    return {line.split("|")[-1].strip().split(".")[0] for line in lines if line.startswith("import time:")}


@pytest.mark.parametrize("module", commands())
def test_help_explains_the_command_and_runs_nothing(module: str, tmp_path: Path) -> None:
    process = run(tmp_path, module, "--help")
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.startswith(f"usage: python -m {module}")
    assert len(process.stdout.split("\n\n")) >= 3, "usage, description and options"


@pytest.mark.parametrize("module", commands())
def test_an_unknown_argument_is_refused(module: str, tmp_path: Path) -> None:
    assert run(tmp_path, module, "--unknown").returncode == 2


@pytest.mark.parametrize("module", FLOWS)
def test_a_flow_answers_without_importing_what_is_slow(module: str, tmp_path: Path) -> None:
    process = run(tmp_path, f"flows.{module}", "--help")
    assert not imported(process) & {"prefect", "mlflow", "dvc", "torch", "numba", "pyarrow"}


@pytest.mark.parametrize("arguments", [("flows.training", "sff"), ("flows.pipeline", "--to", "sff")])
def test_an_unknown_stage_is_answered_at_once(arguments: tuple[str, ...], tmp_path: Path) -> None:
    process = run(tmp_path, *arguments)
    assert process.returncode == 2
    assert "athanor: no stage 'sff'; did you mean 'sft'? available: " in process.stderr
    assert not imported(process) & {"prefect", "mlflow", "dvc", "torch"}


def test_an_unknown_name_in_params_yaml_is_answered_at_once(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("evaluation: {metrics: {golld: {}}}")
    process = run(tmp_path, "flows.evaluation")
    assert process.returncode == 2
    assert "athanor: params.yaml, line 1: evaluation.metrics.golld: no metric 'golld'" in process.stderr
    assert not imported(process) & {"prefect", "mlflow", "dvc", "torch"}


def test_each_error_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> None:
        raise error

    assert command.guarded(lambda: None) == 0
    assert command.guarded(lambda: fail(BadInput("no such file"))) == BadInput.exit_code
    assert capsys.readouterr().err == "athanor: no such file\n"
    assert command.guarded(lambda: fail(KeyboardInterrupt())) == command.INTERRUPTED
    full = RuntimeError("cannot write")
    full.__cause__ = OSError(28, "No space left on device")
    assert command.guarded(lambda: fail(full)) == 1
    assert "the disk is full" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a bug"):
        command.guarded(lambda: fail(RuntimeError("a bug")))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, command.INTERRUPTED), (signal.SIGTERM, command.TERMINATED)]
)
def test_a_signal_that_arrives_in_a_finalizer_interrupts(number: int, code: int) -> None:
    """Python drops exceptions of finalizers, and would print the traceback."""
    source = (
        "import os, sys, time\nfrom flows.runtime import command\n"
        "class Finalized:\n"
        "    def __del__(self):\n"
        f"        os.kill(os.getpid(), {int(number)}); time.sleep(0.01)\n"
        "def work():\n"
        "    Finalized()\n"
        "    for _ in range(100): time.sleep(0.01)\n"
        "    print('not interrupted')\n"
        "sys.exit(command.guarded(work))\n"
    )
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert process.returncode == code
    assert "interrupted. Completed work is kept" in process.stderr
    assert "Traceback" not in process.stderr
    assert not process.stdout
