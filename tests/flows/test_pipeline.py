"""`python -m flows.pipeline` and `dvc repro` on a toy project: which stages run, messages, exit codes, Ctrl-C."""

import json
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.flows.project import Project

ALL = ["letters", "lines", "total", "words"]


def prefect_runs() -> list[tuple[str, str, bool]]:
    """Return (flow, state, whether it is nested) of every flow run."""
    query = "select name, state_type, parent_task_run_id is not null from flow_run"
    with sqlite3.connect(".run/prefect.db") as db:
        return [(name.split()[0], state, bool(nested)) for name, state, nested in db.execute(query)]


def mlflow_runs(project: Project) -> list[tuple[str, str]]:
    """Return (stage or `pipeline`, status) of every run, after records that wait on a busy machine are sent."""
    project.run("flows.runtime.tracking")
    kind = "select value from tags where tags.run_uuid = runs.run_uuid and key = 'athanor.kind'"
    with sqlite3.connect("mlflow.db") as db:
        runs = db.execute(f"select coalesce(({kind}), name), status from runs")
        return sorted((name.split()[0], status) for name, status in runs)


@pytest.mark.slow
def test_pipeline_and_dvc_repro_run_the_same_stages(project: Project) -> None:
    output = project.run("flows.pipeline")
    assert sorted(project.journal()) == ALL
    assert "total" in output
    assert sorted(prefect_runs()) == [(name, "COMPLETED", name != "pipeline") for name in sorted([*ALL, "pipeline"])]
    assert mlflow_runs(project) == [(name, "FINISHED") for name in sorted([*ALL, "pipeline"])]
    assert not list(Path(".run/spool").glob("*/record.json"))
    assert project.run("dvc", "repro").count("didn't change") == len(ALL)
    assert "Everything is up to date" in project.run("flows.pipeline")
    results = json.loads(project.run("flows.pipeline", "--json"))
    assert sorted(results["stages"]) == ALL
    assert results["stages"]["total"]["state"] == "up to date"
    assert results["stages"]["total"]["scores"] == {"mean": 0.5}
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
    output = project.run("flows.pipeline", code=2)
    assert output.strip() == ("athanor: params.yaml, line 4: total.times: expected less than or equal to 9, not 10")
    assert project.journal() == []
    for failure, code, message in (
        ("user", 3, "athanor: the toy stage words is broken; repair it"),
        ("full", 1, "athanor: the disk is full"),
        ("bug", 1, "RuntimeError: a bug in words"),
    ):
        project.set_params(words=f"fail: {failure}")
        output = project.run("flows.pipeline", "--to", "words", code=code)
        assert message in output
        assert ("Traceback" in output) == (failure == "bug"), output
    project.set_params(words="fail: user")
    project.write("data/words/old.txt", "of the run before")
    assert "athanor: the toy stage words is broken; repair it" in project.run("flows.words", code=3)
    assert Path("data/words/old.txt").is_file()
    assert project.run("dvc", "repro", code=255)


@pytest.mark.slow
def test_a_failed_gate_shows_the_results_and_is_not_recorded_as_done(project: Project) -> None:
    project.set_params(total="fail: gate")
    output = project.run("flows.pipeline", code=6)
    assert output.rstrip().endswith("athanor: total is below its gate")
    assert "mean 0.5" in output
    assert Path("data/total/a.txt").exists()
    assert "total" in project.run("dvc", "status")


def stop_with(signal_number: signal.Signals, project: Project) -> tuple[int, str]:
    """Send a signal to a pipeline that is in the stage `letters`; return its exit status and output."""
    project.set_params(letters="wait: 300")
    with project.start("flows.pipeline", "--to", "letters") as process:
        try:
            while "letters" not in (Path("journal").read_text() if Path("journal").exists() else ""):
                time.sleep(0.2)
            process.send_signal(signal_number)
            code = process.wait(60)
            assert process.stdout
            # The server that a killed process leaves behind keeps the pipe open.
            output = "" if signal_number == signal.SIGKILL else process.stdout.read()
        finally:
            process.kill()
    return code, output


@pytest.mark.slow
def test_prefect_shows_a_killed_run_as_crashed(project: Project) -> None:
    assert stop_with(signal.SIGKILL, project)[0] == -signal.SIGKILL
    assert "RUNNING" in {state for _, state, _ in prefect_runs()}
    project.set_params(letters="wait: 0")
    project.run("flows.pipeline", "--to", "letters")
    states = [(name, state) for name, state, _ in prefect_runs()]
    assert {state for _, state in states} == {"COMPLETED", "CRASHED"}
    assert {("pipeline", "CRASHED"), ("letters", "CRASHED"), ("letters", "COMPLETED")} <= set(states)


@pytest.mark.slow
def test_ctrl_c_ends_the_run_and_the_next_run_continues(project: Project) -> None:
    code, output = stop_with(signal.SIGINT, project)
    assert code == 130, output
    assert ("letters", "CRASHED", True) in prefect_runs()
    assert "the next run continues" in output
    assert "Traceback" not in output
    project.journal()
    project.set_params(letters="wait: 0")
    project.run("flows.pipeline", "--to", "letters")
    assert project.journal() == ["letters"]
    assert ("letters", "KILLED") in mlflow_runs(project)
