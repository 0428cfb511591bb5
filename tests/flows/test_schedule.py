"""`make up` with real servers: a schedule fires. Newer releases of the dependencies break this without an error."""

import json
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.flows.project import ROOT, Project


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_scheduled_run_fires_and_reaches_the_servers(project: Project) -> None:
    deployments = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    assert 'cron: "0 3 * * *"' in deployments
    project.write(
        "prefect.yaml",
        deployments.replace('"0 3 * * *"', '"* * * * *"').replace("parameters: {}", "parameters: { to: words }"),
    )
    project.env |= {"PREFECT_PORT": free_port(), "MLFLOW_PORT": free_port()}
    api = f"http://127.0.0.1:{project.env['PREFECT_PORT']}/api"
    mlflow = f"http://127.0.0.1:{project.env['MLFLOW_PORT']}/api/2.0/mlflow"
    try:
        output = project.run("flows.runtime.servers", "up")
        assert f"MLflow   http://127.0.0.1:{project.env['MLFLOW_PORT']}" in output
        runs: list[Any] = []
        while not {"words", "pipeline"} <= {run["name"] for run in runs if run["state_type"] == "COMPLETED"}:
            time.sleep(1)
            runs = post(f"{api}/flow_runs/filter", {})
            assert not any(run["state_type"] in ("FAILED", "CRASHED") for run in runs), worker_log(project)
        assert any(run["name"] == "pipeline" and run["auto_scheduled"] for run in runs)
        while not (mlflow_runs := post(f"{mlflow}/runs/search", {"experiment_ids": ["0", "1"]}).get("runs", [])):
            time.sleep(1)
        assert {run["info"]["run_name"] for run in mlflow_runs} <= {"pipeline", "words"}
        assert "MLflow" in project.run("flows.runtime.servers", "up")  # a second call changes nothing
    finally:
        output = project.run("flows.runtime.servers", "down")
    assert all(f"stopped {name}" in output for name in ("worker", "mlflow", "prefect")), output
    assert not list((project.root / ".run/servers").glob("*.json"))
    assert "Everything is up to date" in project.run("flows.pipeline", "--to", "words")


def worker_log(project: Project) -> str:
    return Path(project.root / ".run/servers/worker.log").read_text(encoding="utf-8")
