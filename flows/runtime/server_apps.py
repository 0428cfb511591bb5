"""The applications of the Prefect server and the MLflow server, behind `RequestGuard`, for uvicorn's --factory.

Prefect and MLflow answer to any Host by default, Prefect to every Origin, MLflow to every Origin of this machine.
"""

import os
from typing import Any

from flows.runtime import environment, processes
from flows.runtime.request_guard import RequestGuard, hosts

ARTIFACTS = ("/api/2.0/mlflow-artifacts/artifacts", "/ajax-api/2.0/mlflow-artifacts/artifacts")
# MLflow's assistant starts programs, and its jobs and gateway call other servers; Athanor needs none of them.
SWITCHED_OFF = (
    *("/ajax-api/3.0/mlflow/assistant", "/api/3.0/mlflow/assistant", "/ajax-api/3.0/jobs", "/api/3.0/jobs", "/gateway"),
    *("/ajax-api/3.0/mlflow/gateway", "/api/3.0/mlflow/gateway", "/ajax-api/2.0/mlflow/gateway-proxy"),
)


def prefect_app() -> Any:
    """Return the Prefect server; its pages may call the API from its own address only."""
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(f"http://{host}" for host in hosts())
    # The server keeps the leases of slots there. Its settings stay those of the user's profile.
    os.environ.setdefault("PREFECT_PROFILES_PATH", str(environment.profiles()))
    folder = environment.home() / environment.SERVERS / "prefect"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # Prefect itself makes no parents
    os.environ["PREFECT_HOME"] = str(folder)
    from prefect.server.api.server import create_app

    return RequestGuard(create_app(), hosts())


def embedded_app() -> Any:
    """Return the Prefect server of one command, which ends when the command does."""
    processes.end_with_parent()
    return prefect_app()


def mlflow_app() -> Any:
    """Return the MLflow server, whose database and folder the environment states (see flows/runtime/servers.py)."""
    origins = ",".join(f"http://{host}" for host in hosts())
    os.environ |= {"MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts()), "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": origins}
    from mlflow.server.fastapi_app import app

    return RequestGuard(app, hosts(), ARTIFACTS, SWITCHED_OFF)
