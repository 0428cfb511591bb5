"""Records in the spool are sent to MLflow once and complete, also after a server was dead or hung."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import lineage
from flows.runtime import sender as sender_module
from flows.runtime import servers, session_results, spool, tracked_runs, tracking
from tasks.errors import BadInput
from tasks.files import write_json

ROOT = str(Path(__file__).parents[3])
TAGS = {
    "dvc.dep.data/tokens": "aaa",
    "dvc.dep.tasks/x.py": "ccc",
    "dvc.out.data/models/sft": "bbb",
    "git.dirty": "false",
}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow database without runs; making its tables takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracking.make_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def home(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    spool.folder().mkdir(parents=True)
    return tmp_path


def record_run(session: spool.Session, stage: str = "sft", tags: dict[str, str] = TAGS) -> None:
    """A stage run with three steps, a report and a model."""
    write_json(Path(f"data/reports/{stage}.json"), {"loss": {"value": 0.5, "low": 0.4, "n": 3}, "counts": {"rows": 7}})
    write_json(Path(f".run/timings/{stage}.json"), {"train": 1.5})
    write_json(Path(f"data/models/{stage}/config.json"), {})
    Path(f"data/reports/{stage}").mkdir(exist_ok=True)
    steps = "step,loss,note\n" + "".join(f"{i},{1 / (i + 1)},x\n" for i in range(3))
    Path(f"data/reports/{stage}/steps.csv").write_text(steps)
    Path(f"data/reports/{stage}/samples.csv").write_text("step,prompt,answer\n0,2+2,5\n9,2+2,4\n")
    with session.recording(stage, {"a.b": 1}, tags, Path("steps.csv")) as record:
        pass
    record.write("finished")


def runs() -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name.split()[0]: run for run in runs}


@contextlib.contextmanager
def hanging_server() -> Iterator[str]:
    """Yield the address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closing = threading.Event()
        thread = threading.Thread(target=closing.wait)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        closing.set()
        thread.join()


@pytest.mark.slow
def test_a_run_is_sent_with_everything_it_has(home: Path) -> None:
    session = spool.Session("pipeline")
    with session.closing(lambda: {"dvc.experiment": "eee"}):
        record_run(session)
    tracking.Sender().send_all()
    sft, parent = runs()["sft"], runs()["pipeline"]
    assert (sft.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert sft.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert sft.data.tags["dvc.experiment"] == parent.data.tags["dvc.experiment"] == "eee"
    assert sft.data.params == {"a.b": "1"}
    assert TAGS.items() <= sft.data.tags.items()
    expected = {"loss/low": 0.4, "loss/n": 3, "counts/rows": 7, "timings/train": 1.5}
    assert expected.items() <= sft.data.metrics.items()
    assert "system/process_memory_usage_megabytes" in sft.data.metrics
    assert [(d.dataset.name, d.dataset.digest) for d in sft.inputs.dataset_inputs] == [("data/tokens", "aaa")]
    assert not list(spool.folder().glob("*/record.json"))
    points = client().get_metric_history(sft.info.run_id, "loss")
    assert {(0, 1.0), (1, 0.5), (2, 1 / 3)} <= {(point.step, point.value) for point in points}
    assert [file.path for file in client().list_artifacts(sft.info.run_id, "report")] == [
        "report/samples.csv",
        "report/steps.csv",
    ]
    assert samples(sft) == [["0", "2+2", "5"], ["9", "2+2", "4"]]
    version = client().search_model_versions("name = 'sft'")[0]
    assert (version.run_id, version.tags["dvc.out.data/models/sft"]) == (sft.info.run_id, "bbb")


def samples(run: Any) -> Any:
    return json.loads(Path(client().download_artifacts(run.info.run_id, "samples.json")).read_text())["data"]


def client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient()


@pytest.mark.slow
def test_a_database_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while MLflow creates its tables leaves no database that lacks some of them."""
    database = f"sqlite:///{tmp_path}/mlflow.db"
    code = f"from flows.runtime import tracking; tracking.make_database({database!r})"
    for seconds in (4, 600):
        command = [sys.executable, "-c", code]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=seconds, cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": ROOT})
        if (tmp_path / "mlflow.db").exists():
            monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
            assert [experiment.name for experiment in client().search_experiments()] == ["Default"]
    assert (tmp_path / "mlflow.db").exists()
    before = (tmp_path / "mlflow.db").read_bytes()
    tracking.make_database(database)
    tracking.make_database("http://127.0.0.1:9")
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_sending_twice_changes_nothing(home: Path) -> None:
    record_run(spool.Session("pipeline"))
    shutil.copytree(spool.folder(), home / "again")
    tracking.Sender().send_all()
    once = {name: run.to_dictionary() for name, run in runs().items()}
    shutil.copytree(home / "again", spool.folder(), dirs_exist_ok=True)
    tracking.Sender().send_all()
    assert {name: run.to_dictionary() for name, run in runs().items()} == once
    assert len(client().get_metric_history(runs()["sft"].info.run_id, "loss")) == 4
    assert len(client().search_model_versions("name = 'sft'")) == 1
    assert len(samples(runs()["sft"])) == 2


@pytest.mark.slow
def test_a_dead_server_costs_a_message_and_the_next_run_sends(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as dead:
        dead.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with tracking.following():
            record_run(spool.Session("pipeline"))
    output = capfd.readouterr().err
    assert "not all records could be sent to MLflow at http://127.0.0.1:9" in output
    assert "python -m flows.runtime.tracking" in output
    assert len(list(spool.folder().glob("*/record.json"))) == 1
    with tracking.following(patience=300):  # MLflow creates its tables meanwhile
        pass
    assert runs()["sft"].info.status == "FINISHED"


def test_a_hung_server_is_given_up_after_the_patience(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with hanging_server() as url, monkeypatch.context() as hung:
        hung.setenv("MLFLOW_TRACKING_URI", url)
        with tracking.following(patience=0.5):
            record_run(spool.Session("pipeline"))
    assert "(no answer)" in capfd.readouterr().err
    assert len(list(spool.folder().glob("*/record.json"))) == 1


def test_a_sender_that_computes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes for longer than the patience, and writes no progress."""
    monkeypatch.setattr(tracking, "PROGRESS_CPU_SECONDS", 0.01)
    code = "import time; end = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    tracking._await_end(process, patience=1.0)
    assert process.returncode == 0


def test_ctrl_c_ends_the_run_and_not_its_sender(home: Path) -> None:
    """The terminal sends SIGINT to the whole process group, here while the sender still starts."""
    code = (
        "import os, signal\n"
        "from flows.runtime import tracking\n"
        "tracking.INTERRUPTED_PATIENCE_SECONDS = 300\n"
        "with tracking.following():\n"
        "    os.killpg(0, signal.SIGINT)\n"
    )
    record_run(spool.Session("pipeline"))
    run = subprocess.run([sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True)
    assert (run.returncode, run.stderr.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    assert "warning" not in run.stderr
    assert runs()["sft"].info.status == "FINISHED"
    assert not list(spool.folder().glob("*/record.json"))


def test_steps_are_sent_while_the_stage_runs_and_a_killed_run_is_closed(home: Path) -> None:
    record = spool.Session().new_record("ppo", {}, {}, Path("live.csv"))
    Path("live.csv").write_text("step,loss\n0,2.0\n")
    record.write("running")
    sender = tracking.Sender()
    sender.send_all()
    assert (runs()["ppo"].info.status, runs()["ppo"].data.metrics) == ("RUNNING", {"loss": 2.0})
    Path("live.csv").write_text("step,loss\n0,2.0\n1,1.0\n")
    sender.send_all()
    assert runs()["ppo"].data.metrics == {"loss": 1.0}
    record.body["pid"] = 2**22 + 1  # no process has this id
    record.write("running")
    sender.send_all()
    assert runs()["ppo"].info.status == "KILLED"


def test_a_refused_record_is_put_aside_and_the_rest_is_sent(home: Path) -> None:
    record_run(spool.Session(), "sft")
    (folder,) = spool.folder().glob("*-sft-*")
    (folder / spool.RECORD).write_text("{", encoding="utf-8")
    record_run(spool.Session(), "dpo")
    sender = tracking.Sender()
    for _ in range(4):
        sender.send_all()
    assert set(runs()) == {"dpo"}
    assert [text.split(":")[0] for text in sender.put_aside] == [folder.name]
    (refused,) = sender_module.refused_folder().iterdir()
    assert "record.json is damaged" in (refused / "reason.txt").read_text(encoding="utf-8")
    assert not sender.has_refused_records


def test_names_that_mlflow_refuses_are_converted(home: Path) -> None:
    write_json(Path("data/reports/curation.json"), {"kept": {"a|b": 0.5, "更好（更完整）": 0.7}})
    with spool.Session().recording("curation", {"sources.a|b": 1}, {"It's": "x"}, Path("steps.csv")) as record:
        pass
    record.write("finished")
    tracking.Sender().send_all()
    run = runs()["curation"]
    assert {0.5, 0.7} <= set(run.data.metrics.values())
    originals = {value for key, value in run.data.tags.items() if key.startswith("name.")}
    assert originals == {"kept/a|b", "kept/更好（更完整）", "sources.a|b", "It's"}


def test_a_killed_session_is_closed_with_its_real_duration(home: Path) -> None:
    session = spool.Session("pipeline", start=spool.now() - 60_000)
    session._write({"status": "running", "pid": 2**22 + 1})
    tracking.Sender().send_all()
    parent = runs()["pipeline"]
    assert parent.info.status == "KILLED"
    assert parent.info.end_time - parent.info.start_time >= 60_000
    assert not list(spool.folder().glob("*/record.json"))


def test_a_session_that_continues_has_one_run(home: Path) -> None:
    """As that of a round: it is shown as killed, as running when it continues, and as finished at its end."""
    start = spool.now() - 60_000
    spool.Session("001", "an id", start)._write({"status": "running", "pid": 2**22 + 1})
    statuses = []
    tracking.Sender().send_all()
    statuses.append(runs()["001"].info.status)
    with spool.Session("001", "an id", start).closing(dict):
        tracking.Sender().send_all()
        statuses.append(runs()["001"].info.status)
    tracking.Sender().send_all()
    statuses.append(runs()["001"].info.status)
    assert statuses == ["KILLED", "RUNNING", "FINISHED"]
    assert len(runs()) == 1
    assert runs()["001"].info.start_time == start


def test_the_run_of_a_pipeline_is_readable_at_a_glance(home: Path) -> None:
    session = spool.Session("pipeline")
    results = {"title": "sft to ppo 2026-11-29 21:05", "metrics": {"gold/ppo": 0.9}}
    tags = {"verdict": "8 of 8 gates passed", "promotion": "version 2 (ppo) is the champion", "data": "abc"}
    with session.closing(lambda: session_results.described(tags), lambda: results):
        record_run(session)
    tracking.Sender().send_all()
    (parent,) = [run for run in client().search_runs(["1"]) if "athanor.session" in run.data.tags]
    assert parent.info.run_name == results["title"]
    expected = "- Gates: 8 of 8 gates passed\n- Promotion: version 2 (ppo) is the champion\n- Tokens: abc"
    assert parent.data.tags["mlflow.note.content"] == expected
    assert [(data.dataset.name, data.dataset.digest) for data in parent.inputs.dataset_inputs] == [
        ("data/tokens", "abc")
    ]
    assert parent.data.metrics == {"gold/ppo": 0.9}
    assert parent.data.tags["verdict"] == "8 of 8 gates passed"
    experiment = client().get_experiment(parent.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "perplexity" in experiment.tags["mlflow.sharedViewState.athanor"]
    assert str(client().get_model_version_by_alias("sft", "newest").version) == "1"


def test_the_spool_is_private_and_what_cannot_be_spooled_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_run(spool.Session())
    files = [path for path in spool.folder().rglob("*") if path.is_file() and path.name != spool.SYSTEM]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        record_run(spool.Session())


def test_a_failing_stage_is_recorded_with_its_error(home: Path) -> None:
    with pytest.raises(BadInput), spool.Session().recording("sft", {}, {}, Path("x")):
        raise BadInput("no such file")
    tracking.Sender().send_all()
    assert (runs()["sft"].info.status, runs()["sft"].data.tags["error"]) == ("FAILED", "BadInput: no such file")


@pytest.mark.slow
def test_lineage_goes_back_to_the_raw_data(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = spool.Session("pipeline")
    with session.closing(lambda: {"dvc.experiment": "e" * 40}):
        record_run(session, "tokenization", {"dvc.dep.data/raw": "rrr", "dvc.out.data/tokens": "aaa"})
        record_run(session)
    tracking.Sender().send_all()
    lineage.show(lineage.trace("sft"))
    output = capsys.readouterr().out
    assert "sft version 1" in output
    assert (
        output.index("data/tokens  md5 aaa") < output.index("\n  tokenization  run") < output.index("data/raw  md5 rrr")
    )
    assert "data/raw  md5 rrr  <- not written by a run" in output
    assert f"git worktree add --detach ../{home.name}-eeeeeeee {'e' * 40}" in output
    with pytest.raises(BadInput, match=r"no model 'sfd' in MLflow at .*; there are: sft"):
        lineage.trace("sfd")
    with pytest.raises(BadInput, match=r"model 'sft' has no version 7 in MLflow at .*; it has 1"):
        lineage.trace("sft/7")


def test_numbers_are_named_by_their_path() -> None:
    body = {"a": 1, "b": {"value": 0.5, "low": 0.4}, "c": {"d": {"value": 2}}, "notes": ["x"], "ok": True}
    assert spool.numbers(body) == {"a": 1.0, "b": 0.5, "b/low": 0.4, "c/d": 2.0, "ok": 1.0}


def test_old_runs_are_deleted_except_those_of_registered_models(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four old runs and a new one: a pipeline with a registered model and its other stage stay, a failed one goes."""
    experiment, tracker = "0", client()

    def make(end_time: int, parent: str = "") -> str:
        tags = {"mlflow.parentRunId": parent} if parent else {}
        run = tracker.create_run(experiment, start_time=1, tags=tags)
        tracker.set_terminated(run.info.run_id, end_time=end_time)
        return str(run.info.run_id)

    pipeline = make(100)
    training, other_stage, failed, new = make(90, pipeline), make(80, pipeline), make(95), make(1_000)
    tracker.create_registered_model("sft")
    tracker.create_model_version("sft", str(home / "models"), training)
    assert tracked_runs.delete_old_runs(500) == 1
    assert {run.info.run_id for run in tracker.search_runs([experiment])} == {pipeline, training, other_stage, new}
    assert tracker.get_run(failed).info.lifecycle_stage == "deleted"
    assert tracked_runs.delete_old_runs(500) == 0
    for text in ("0", "ninety"):
        monkeypatch.setenv(servers.RETENTION_DAYS, text)
        with pytest.raises(BadInput, match="at least 1"):
            servers.retention_days()
