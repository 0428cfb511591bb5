"""The engine on Ray gives what the local one gives. Skipped where the package ray is missing."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.engine import ray_engine
from tasks.engine.engine import Part
from tasks.engine.local_engine import LocalEngine
from tasks.engine.ray_engine import RayEngine
from tasks.errors import BadInput, BadParams
from tests.engine import jobs

NUMBERS = {"a": 1, "b": 2, "c": 3}


def test_without_ray_the_message_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadParams, match=r"pip install -e '\.\[ray\]'"):
        RayEngine(tmp_path).run("squares", ["a"], jobs.square, NUMBERS)


def test_ray_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://host:10001")
    with pytest.raises(BadInput, match="Ray Client is not supported"):
        ray_engine.address_of_environment()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    if "RAY_ADDRESS" in os.environ:  # a cluster that runs already
        ray.init(log_to_driver=False)
    else:
        store = 80 << 20  # the smallest one; nothing is put there
        ray.init(
            num_cpus=2, include_dashboard=False, object_store_memory=store, log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )  # fmt: skip
    yield
    ray.shutdown()


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
def test_faults_on_ray(tmp_path: Path, cluster: None) -> None:
    engine = RayEngine(tmp_path)
    manifest = engine.run("crashes", list(NUMBERS), jobs.crash_if_odd, NUMBERS)
    assert (list(manifest.parts), sorted(manifest.quarantined)) == (["b"], ["a", "c"])
    assert engine.run("once", ["a"], jobs.crash_once, {"a": str(tmp_path / "flag")}).total("square") == 9
    with pytest.raises(BadInput, match="key b is damaged"):
        engine.run("errors", ["b", "a"], jobs.refuse, {"a": 1, "b": 2})
    assert not list(tmp_path.glob("*/*.tmp"))
