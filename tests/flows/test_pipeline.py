"""The two doors of the toy project as a user calls them: what runs, what is said, the exit code, Ctrl-C."""

import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.flows.project import Project

ALL = ["letters", "lines", "total", "words"]


def prefect_runs() -> list[tuple[str, str, bool]]:
    """(name, state, nested) of every flow run."""
    query = "select name, state_type, parent_task_run_id is not null from flow_run"
    with sqlite3.connect(".run/prefect.db") as db:
        return [(name, state, bool(nested)) for name, state, nested in db.execute(query)]


def mlflow_runs(project: Project) -> list[tuple[str, str]]:
    """(name, status) of every run, when all that a busy machine left untold is told."""
    project.run("flows.runtime.tracking")
    with sqlite3.connect("mlflow.db") as db:
        return sorted(db.execute("select name, status from runs"))


@pytest.mark.slow
def test_both_doors_lead_to_the_same_room(project: Project) -> None:
    said = project.run("flows.pipeline")
    assert sorted(project.journal()) == ALL
    assert "whole" in said
    assert sorted(prefect_runs()) == [(name, "COMPLETED", name != "pipeline") for name in sorted([*ALL, "pipeline"])]
    assert mlflow_runs(project) == [(name, "FINISHED") for name in sorted([*ALL, "pipeline"])]
    assert not list(Path(".run/spool").glob("*/note.json"))
    assert project.run("dvc", "repro").count("didn't change") == len(ALL)
    assert "Everything is up to date" in project.run("flows.pipeline")
    assert project.journal() == []

    project.set_params(letters="times: 3")
    project.run("dvc", "repro")
    assert project.journal() == ["letters", "total"]
    assert "Everything is up to date" in project.run("flows.pipeline")
    assert mlflow_runs(project).count(("dvc", "FINISHED")) == 1

    project.set_params(letters="times: 3", lines="times: 3")
    project.run("flows.pipeline")
    assert project.journal() == ["lines"]
    project.set_params()
    assert project.run("flows.pipeline").count("restored") == 3
    assert project.journal() == []


@pytest.mark.slow
def test_each_ending_has_its_message_and_code(project: Project) -> None:
    project.set_params(total="times: 10")
    said = project.run("flows.pipeline", code=2)
    assert said.strip() == ("athanor: params.yaml, line 4: total.times: expected less than or equal to 9, not 10")
    assert project.journal() == []
    for how, code, message in (
        ("user", 3, "athanor: the toy of words is broken; mend it"),
        ("full", 1, "athanor: the disk is full"),
        ("bug", 1, "RuntimeError: a bug in words"),
    ):
        project.set_params(words=f"fail: {how}")
        said = project.run("flows.pipeline", "--to", "words", code=code)
        assert message in said
        assert ("Traceback" in said) == (how == "bug"), said
    project.set_params(words="fail: user")
    assert "athanor: the toy of words is broken; mend it" in project.run("flows.words", code=3)
    assert project.run("dvc", "repro", code=255)


@pytest.mark.slow
def test_a_failed_gate_shows_the_results_and_is_not_recorded_as_done(project: Project) -> None:
    project.set_params(total="fail: gate")
    said = project.run("flows.pipeline", code=6)
    assert said.rstrip().endswith("athanor: total is below its gate")
    assert "mean 0.5" in said
    assert Path("data/total/a.txt").exists()
    assert "total" in project.run("dvc", "status")


def ended_by(sign: signal.Signals, project: Project) -> tuple[int, str]:
    """The exit status, and what was said, of a pipeline that gets a signal in its stage `letters`."""
    project.set_params(letters="wait: 300")
    with project.start("flows.pipeline", "--to", "letters") as process:
        try:
            while "letters" not in (Path("journal").read_text() if Path("journal").exists() else ""):
                time.sleep(0.2)
            process.send_signal(sign)
            code = process.wait(60)
            assert process.stdout
            # The server that a killed process leaves behind keeps the pipe open.
            said = "" if sign == signal.SIGKILL else process.stdout.read()
        finally:
            process.kill()
    return code, said


@pytest.mark.slow
def test_a_killed_run_does_not_run_for_ever_in_prefects_pages(project: Project) -> None:
    assert ended_by(signal.SIGKILL, project)[0] == -signal.SIGKILL
    assert "RUNNING" in {state for _, state, _ in prefect_runs()}
    project.set_params(letters="wait: 0")
    project.run("flows.pipeline", "--to", "letters")
    states = [(name, state) for name, state, _ in prefect_runs()]
    assert {state for _, state in states} == {"COMPLETED", "CRASHED"}
    assert {("pipeline", "CRASHED"), ("letters", "CRASHED"), ("letters", "COMPLETED")} <= set(states)


@pytest.mark.slow
def test_ctrl_c_ends_soon_and_the_next_run_goes_on(project: Project) -> None:
    code, said = ended_by(signal.SIGINT, project)
    assert code == 130, said
    assert ("letters", "CRASHED", True) in prefect_runs()
    assert "the next run goes on" in said
    assert "Traceback" not in said
    project.journal()
    project.set_params(letters="wait: 0")
    project.run("flows.pipeline", "--to", "letters")
    assert project.journal() == ["letters"]
    assert ("letters", "KILLED") in mlflow_runs(project)
