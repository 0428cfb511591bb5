"""The engine on Ray gives what the local one gives. Skipped where the package ray is missing."""

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from tasks.curation import text_files
from tasks.curation.duplicates import minhash, out_of_core
from tasks.engine import ray_engine, settings
from tasks.engine.engine import Part
from tasks.engine.local_engine import LocalEngine
from tasks.engine.ray_engine import RayEngine
from tasks.errors import BadInput, BadParams
from tasks.ingestion.division import file_stage
from tests.curation.duplicates.test_out_of_core import corpus
from tests.engine import jobs
from tests.ingestion.division.test_file_stage import contents, make_files, sources
from tests.ingestion.test_tasks import ingest

NUMBERS = {"a": 1, "b": 2, "c": 3}


def test_without_ray_the_message_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadParams, match=r"pip install -e '\.\[ray\]'"):
        RayEngine(tmp_path).run("squares", ["a"], jobs.square, NUMBERS)


def test_ray_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://host:10001")
    with pytest.raises(BadInput, match="Ray Client is not supported"):
        ray_engine.address_of_environment()


def test_an_address_without_a_cluster_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(BadParams, match=f"no Ray cluster answers at 127.0.0.1:{closed.getsockname()[1]}"):
            ray_engine.connect(f"127.0.0.1:{closed.getsockname()[1]}")


def published(parts: dict[str, Part]) -> dict[str, tuple[object, object]]:
    return {key: (part.result, part.files) for key, part in parts.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_publishes_what_the_local_engine_publishes(tmp_path: Path, cluster: None) -> None:
    local = LocalEngine(tmp_path / "local").run("squares", list(NUMBERS), jobs.square, NUMBERS)
    remote = RayEngine(tmp_path / "ray").run("squares", list(NUMBERS), jobs.square, NUMBERS)
    assert published(local.parts) == published(remote.parts)
    assert RayEngine(tmp_path / "ray").run("squares", list(NUMBERS), jobs.square, NUMBERS).num_run == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tasks_that_want_a_gpu_run_in_one_process_for_each_gpu(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "MAX_ATTEMPTS", 2)
    engine = RayEngine(tmp_path)
    parts = engine.run("pids", list(NUMBERS), jobs.pid, NUMBERS, wants_gpu=True).parts
    assert len({part.result["pid"] for part in parts.values()}) == 1
    crashed = engine.run("crashes", ["a", "b"], jobs.crash_if_odd, {"a": 1, "b": 2}, wants_gpu=True)
    assert (list(crashed.parts), list(crashed.quarantined)) == (["b"], ["a"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_faults_on_ray(tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "MAX_ATTEMPTS", 2)  # each attempt starts a worker process
    engine = RayEngine(tmp_path, task_seconds=1)
    manifest = engine.run("crashes", ["a", "b"], jobs.crash_if_odd, {"a": 1, "b": 2})
    assert (list(manifest.parts), list(manifest.quarantined)) == (["b"], ["a"])
    assert engine.run("once", ["a"], jobs.crash_once, {"a": str(tmp_path / "flag")}).total("square") == 9
    hanging = engine.run("hanging", ["a"], jobs.hang, {"a": 0}).quarantined["a"]
    assert "took longer than 1 s, in each of 2 attempts" in hanging
    with pytest.raises(BadInput, match="key b is damaged"):
        engine.run("errors", ["hang", "fail"], jobs.hang_or_refuse, {"hang": 0, "fail": 1})
    assert not list(tmp_path.glob("*/*.tmp"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_near_duplicates_on_ray_are_those_of_memory(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of the texts is relative to the folder of the driver."""
    monkeypatch.chdir(tmp_path)
    array, params = pa.array(corpus(), pa.large_string()), minhash.Params.model_validate({})
    texts = text_files.write(Path("texts.arrow"), [array.slice(0, 20), array.slice(20)])
    priority = np.zeros(len(array), np.int64)
    monkeypatch.setenv(settings.ENGINE, "ray")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    remote = out_of_core.duplicates(texts, Path("texts.arrow"), params, priority, None, 2)[0]
    assert remote.tolist() == minhash.duplicates(array, params, priority)[0].tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ingestion_on_ray_writes_the_same_bytes(tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path / "raw")
    ingest(sources(), Path("local"))
    monkeypatch.setenv(settings.ENGINE, "ray")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(file_stage, "TASK_BYTES", 300)
    ingest(sources(), Path("ray"))
    assert contents(Path("ray")) == contents(Path("local"))
