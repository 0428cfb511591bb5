"""Faults in tracking, versioning, scheduling, deliveries, and in whole pipelines."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks import fault_injection as injection
from benchmarks.fault_injection import DEAD_RUN, DOUBLED, LOST, SURVIVED, WRONG, Tally
from flows.runtime import artifact_checks, processes, sender, spool, versioning
from flows.versions import contents
from tasks.deliveries import ledger
from tasks.errors import UserError
from tasks.files import write_json
from tests.flows.project import Project, make_project

NUM_STEPS = 5
CALLS = ("log_batch", "log_artifact", "log_artifacts", "create_run", "update_run", "set_terminated", "log_inputs",
         "create_registered_model", "create_model_version", "set_tag")  # fmt: skip


def write_records(home: Path, database: Path) -> None:
    """Make a project whose spool has one finished run of a stage, and MLflow's empty database."""
    home.mkdir()
    os.chdir(home)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{home}/mlflow.db"
    shutil.copyfile(database, home / "mlflow.db")
    write_json(Path("data/reports/sft.json"), {"loss": {"value": 0.5, "low": 0.4, "n": 3}})
    write_json(Path("data/models/sft/config.json"), {})
    Path("steps.csv").write_text("step,loss\n" + "".join(f"{i},{1 / (i + 1)}\n" for i in range(NUM_STEPS)))
    session = spool.Session("pipeline")
    with session.closing(dict), session.recording("sft", {"a": 1}, {"t": "1"}, Path("steps.csv")) as record:
        pass
    record.write("finished")


def points_of(home: Path) -> Counter[tuple[str, int]]:
    """Return how often each point of the runs is in MLflow's database, by metric and step."""
    query = "select key, step from metrics where key = 'loss' and step >= 0"
    with sqlite3.connect(home / "mlflow.db") as database:
        runs = database.execute("select count(*) from runs").fetchone()[0]
        states = {status for (status,) in database.execute("select status from runs")}
        points = Counter((str(key), int(step)) for key, step in database.execute(query))
    points["runs", runs] += 1
    points[f"states {sorted(states)}", 0] += 1
    return points


def break_tracking(tally: Tally, scratch: Path, number: int) -> None:
    """Kill the sender at its n-th call, or let MLflow refuse the connection, hang until the timeout, or fail once."""
    database = scratch / "empty.db"
    assert injection.run_forked(lambda: sender.make_database(f"sqlite:///{database}")) == 0
    expected: Counter[tuple[str, int]] = Counter()
    for kind in ("none", "killed", "refuses", "hangs", "unstable"):
        for at_call in range(1, 2 if kind == "none" else number + 1):
            home = scratch / f"tracking-{kind}-{at_call}"
            assert injection.run_forked(partial(write_records, home, database)) == 0
            injection.run_forked(partial(send, home, kind, at_call))
            code = injection.run_forked(partial(send, home, "none", 0))
            points = points_of(home)
            if kind == "none":
                expected = points
                continue
            is_empty = not list((home / ".run/spool").glob("*/record.json"))
            outcome = LOST if expected - points else DOUBLED if points - expected else SURVIVED
            tally.add("tracking", f"{kind} at call {at_call}", outcome if code == 0 and is_empty else LOST)


def send(home: Path, kind: str, at_call: int) -> None:
    """Send what waits in the spool, with a fault at the n-th call of MLflow's client."""
    os.chdir(home)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{home}/mlflow.db"
    from mlflow import MlflowClient

    remaining = [at_call]

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*arguments: Any, **named: Any) -> Any:
            remaining[0] -= 1
            if kind == "killed" and remaining[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "refuses" and remaining[0] <= 0:
                raise ConnectionRefusedError(111, "Connection refused")
            if kind == "hangs" and remaining[0] == 0:
                call(*arguments, **named)  # the server did the work, and its answer was too late
                raise TimeoutError("Read timed out")
            if kind == "unstable" and remaining[0] % 2 == 0:
                raise ConnectionResetError(104, "Connection reset by peer")
            return call(*arguments, **named)

        return faulty

    for name in CALLS if kind != "none" else ():
        if hasattr(MlflowClient, name):
            setattr(MlflowClient, name, wrap(getattr(MlflowClient, name)))
    sender.Sender().send_all()


def make_toy(root: Path) -> Project:
    """Make the project of toy stages and run it once."""
    root.mkdir()
    names = ("PREFECT_", "MLFLOW_", "DVC_", "ATHANOR_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    project = make_project(root, environment)
    project.run("flows.pipeline")
    return project


def damage_versions(tally: Tally, project: Project, scratch: Path, number: int) -> None:
    """Damage inputs, outputs, reports, dvc.lock and DVC's cache: noticed, and restored where an intact copy exists."""
    rng = random.Random(2)
    checks: dict[str, tuple[str, Callable[[bytes], None]]] = {
        "input": ("data/words/a.txt", check_input),
        "output": ("data/total/a.txt", partial(check_stale, "total")),
        "report": ("data/reports/lines.json", partial(check_stale, "lines")),
        "model": ("data/models/total/config.json", partial(check_stale, "total")),
        "dvc.lock": ("dvc.lock", check_lock),
        "cache object": ("", check_cache),
    }
    for name, (path, check) in checks.items():
        for index in range(number):
            root = injection.fresh(scratch / "damaged-toy", project.root)
            kind = ("flip", "truncation", "empty", "zeros")[index % 4]
            file = root / path if path else cached_object(root, "letters")
            before = file.read_bytes()
            injection.damage(file, kind, rng)
            if file.read_bytes() == before:
                file.write_bytes(b"x" + before)
            code = injection.run_forked(partial(in_folder, root, partial(check, before)))
            tally.add("versioning", f"{name}: {kind}", WRONG if code else SURVIVED)


def in_folder(root: Path, work: Callable[[], None]) -> None:
    """Do `work` in a folder."""
    os.chdir(root)
    work()


def check_input(before: bytes) -> None:
    """The damaged input of `letters` is restored, or the stage is refused."""
    try:
        with versioning.current("letters") as versions:
            versions.verify_inputs()
    except UserError:
        return
    is_new_content = "words" in versioning.stale()  # DVC has seen that the file was written: the stage runs again
    assert Path("data/words/a.txt").read_bytes() == before or is_new_content


def check_stale(stage: str, before: bytes) -> None:
    """A damaged output makes its stage stale."""
    assert stage in versioning.stale()


def check_lock(before: bytes) -> None:
    """A damaged dvc.lock is refused, makes stages stale, or still states the same hashes."""
    try:
        stale = versioning.stale()
    except (UserError, ValueError, yaml.YAMLError):
        return
    if not stale:
        present = artifact_checks.locked_outs(Path("dvc.lock"))
        Path("before.lock").write_bytes(before)
        assert present == artifact_checks.locked_outs(Path("before.lock"))


def cached_object(root: Path, stage: str) -> Path:
    """Return the object of a stage's text file in DVC's cache."""
    text = (root / f"data/{stage}/a.txt").read_bytes()
    objects = (path for path in (root / ".dvc/cache/files/md5").rglob("*") if path.is_file())
    return next(path for path in objects if path.read_bytes() == text)


def check_cache(before: bytes) -> None:
    """A damaged object of the cache is never taken as an output."""
    for stage in ("words", "letters", "total"):
        shutil.rmtree(f"data/{stage}")
    try:
        contents.bring_back(["letters"])
    except UserError:
        return
    assert Path("data/letters/a.txt").read_bytes() == before


def kill_deliveries(tally: Tally, scratch: Path, number: int) -> None:
    """Kill the receipt of a delivery at its n-th write; afterwards, every file is in exactly one delivery."""
    start = scratch / "delivery-start"
    for name in ("a", "b", "sub/c"):
        path = start / "incoming" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (start / "data/raw").mkdir(parents=True)
    work = lambda root: in_folder(root, receive)  # noqa: E731
    total = injection.count_writes(partial(work, injection.fresh(scratch / "delivery", start)))
    for at_write in injection.spread(total, number):
        root = injection.fresh(scratch / "delivery", start)
        injection.run_forked(injection.killed_at(at_write, partial(work, root)))
        code = injection.run_forked(partial(work, root))
        names = Counter(path.name for path in (root / "data/raw").rglob("*.txt") if ".delivery" not in str(path))
        expected = Counter(["a.txt", "b.txt", "c.txt"])
        outcome = LOST if code or expected - names else DOUBLED if names - expected else SURVIVED
        tally.add("deliveries", f"kill at write {at_write} of {total}", outcome)


def receive() -> None:
    """Receive new files as the flow does, without DVC."""
    ledger.receive(Path("incoming"), 0.0, lambda paths: "", lambda folder: "md5")


def kill_scheduled_runs(tally: Tally, scratch: Path, number: int) -> None:
    """Kill processes that run a flow run: each is recognized as dead, and no living one is."""
    (scratch / "schedule").mkdir()
    os.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    try:
        for index in range(number):
            child = subprocess.Popen(
                [sys.executable, "-c", RECORDING, f"run-{index}"], cwd=scratch / "schedule",
                env={**os.environ, "PYTHONPATH": str(Path.cwd())}, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert child.stdout is not None
            child.stdout.readline()
            is_alive = f"run-{index}" not in dead_runs(scratch / "schedule")
            child.kill()
            child.wait()
            is_dead = f"run-{index}" in dead_runs(scratch / "schedule")
            tally.add("scheduling", "kill of a process with a flow run", SURVIVED if is_alive and is_dead else DEAD_RUN)
    finally:
        del os.environ["PREFECT_API_URL"]


RECORDING = """
import sys, time
from flows.runtime import processes
from flows.versions import contents
processes.record(sys.argv[1])
print("ready", flush=True)
time.sleep(600)
"""


def dead_runs(folder: Path) -> list[str]:
    """Return the flow runs of a project whose process has ended."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return [name for name, _ in processes.dead_runs()]
    finally:
        os.chdir(before)


def kill_pipelines(tally: Tally, project: Project, number: int) -> None:
    """Kill `python -m flows.pipeline` inside a stage; the next one ends with the right bytes, and no run is running."""
    for index in range(number):
        times, stage = 2 + index % 7, ("words", "letters", "lines", "total")[index % 4]
        project.set_params(**{"words": f"times: {times}", stage: f"times: {times}, wait: 600"})
        project.journal()
        with project.start("flows.pipeline") as process:
            deadline = time.monotonic() + 900
            journal = project.root / "journal"
            while stage not in (journal.read_text() if journal.is_file() else "") and time.monotonic() < deadline:
                time.sleep(0.1)
            process.kill()
        project.set_params(words=f"times: {times}")
        project.run("flows.pipeline")
        project.run("flows.runtime.tracking")
        running = [*states(project.root / ".run/prefect.db", "select state_type from flow_run"),
                   *states(project.root / "mlflow.db", "select status from runs")]  # fmt: skip
        outcome = SURVIVED if (project.root / "data/total/a.txt").read_text() == "one two" * times else WRONG
        tally.add("pipeline", f"kill in {stage}", DEAD_RUN if "RUNNING" in running else outcome)


def states(database: Path, query: str) -> list[str]:
    """Return the first column of a query."""
    with sqlite3.connect(database) as connection:
        return [str(row[0]) for row in connection.execute(query)]
