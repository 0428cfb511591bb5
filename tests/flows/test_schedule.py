"""`make up` with real servers: a schedule fires, and other sites' pages reach nothing.

Newer releases of the dependencies break the schedule without an error.
"""

import base64
import json
import socket
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from flows.runtime import environment
from tests.flows.project import ROOT, Project


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def post(url: str, body: dict[str, Any], **headers: str) -> Any:
    all_headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, json.dumps(body).encode(), all_headers)
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
        key = (project.root / environment.KEY_FILE).read_text(encoding="utf-8")
        authorization = f"Basic {base64.b64encode(key.encode()).decode()}"
        runs: list[Any] = []
        while not {"words", "pipeline"} <= {run["name"].split()[0] for run in runs if run["state_type"] == "COMPLETED"}:
            time.sleep(1)
            runs = post(f"{api}/flow_runs/filter", {}, Authorization=authorization)
            assert not any(run["state_type"] in ("FAILED", "CRASHED") for run in runs), worker_log(project)
        assert any(run["name"] == "pipeline" and run["auto_scheduled"] for run in runs)
        refuse_attacks(api, mlflow, authorization)
        while not (mlflow_runs := post(f"{mlflow}/runs/search", {"experiment_ids": ["0", "1"]}).get("runs", [])):
            time.sleep(1)
        assert {run["info"]["run_name"].split()[0] for run in mlflow_runs} <= {"pipeline", "words"}
        assert "MLflow" in project.run("flows.runtime.servers", "up")  # a second call changes nothing
        assert not Path("executed").exists()
        for path in (environment.KEY_FILE, Path(".run/prefect.db"), Path("mlflow.db")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    finally:
        output = project.run("flows.runtime.servers", "down")
    assert all(f"stopped {name}" in output for name in ("worker", "mlflow", "prefect")), output
    assert not list((project.root / ".run/servers").glob("*.json"))
    assert "Everything is up to date" in project.run("flows.pipeline", "--to", "words")


def get(url: str, authorization: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": authorization})) as response:
        return json.load(response)


def refuse_attacks(api: str, mlflow: str, authorization: str) -> None:
    """Requests of a page of another site get 403, those without the key 401; a run cannot choose its command."""
    search = {"experiment_ids": ["0"]}
    for url, body in ((f"{api}/flow_runs/filter", {}), (f"{mlflow}/runs/search", search)):
        for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Content-Type": "text/plain"}):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                post(url, body, Authorization=authorization, **header)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post(f"{api}/flow_runs/filter", {})
    deployment = post(f"{api}/deployments/filter", {}, Authorization=authorization)[0]["id"]
    command = {"command": "touch executed", "working_dir": "/tmp", "env": {"PYTHONSTARTUP": "/tmp/x.py"}}
    new_run = {"job_variables": command, "parameters": {"to": "words"}}
    run = post(f"{api}/deployments/{deployment}/create_flow_run", new_run, Authorization=authorization)
    while run["state_type"] in ("SCHEDULED", "PENDING", "RUNNING"):
        time.sleep(1)
        run = get(f"{api}/flow_runs/{run['id']}", authorization)


def worker_log(project: Project) -> str:
    return Path(project.root / ".run/servers/worker.log").read_text(encoding="utf-8")
