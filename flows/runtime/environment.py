"""Defaults for the tools' own settings, for whoever has set none: everything embedded, inside the project, quiet.

Runs when `flows` is imported, because Prefect reads its settings when it is imported itself.
"""

import contextlib
import os
from pathlib import Path

import psutil

from tasks.files import read_json

DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
RUN = Path(".run")
SERVERS = RUN / "servers"  # pid, address and log of each server that `make up` has started
# DVC runs `dvc exp run --temp` and `--queue` in a copy below this folder; what is tracked there belongs to the project.
COPIES = f"{os.sep}.dvc{os.sep}tmp{os.sep}exps{os.sep}"


def home() -> Path:
    """The folder of the project, also from within a copy that DVC made for an experiment."""
    return Path(str(Path.cwd()).split(COPIES)[0])


def server(name: str) -> psutil.Process | None:
    """The process of a server that `make up` has started, if it is alive."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        started = read_json(home() / SERVERS / f"{name}.json")
        process = psutil.Process(started["pid"])
        if process.create_time() == started["created"] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def defaults() -> dict[str, str]:
    """What is set where the user has set nothing: the servers of `make up` where they run, else the embedded tools."""
    root = home()
    values = {
        DATABASE: f"sqlite+aiosqlite:///{root / RUN / 'prefect.db'}",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 is too short on a loaded machine
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the API gets every record all the same
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",  # MLflow's own default depends on the folder
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # "Writing model shards: 100 %" of files of a few MB
        "DO_NOT_TRACK": "1",
        # torch's threads wait by spinning, which on a machine with other work makes every step many times slower
        "GOMP_SPINCOUNT": "1000",
    }
    for name, setting in (("prefect", "PREFECT_API_URL"), ("mlflow", "MLFLOW_TRACKING_URI")):
        if server(name) is not None:
            values[setting] = str(read_json(root / SERVERS / f"{name}.json")["url"])
    return values


def prepare() -> None:
    """Set the defaults in os.environ."""
    (home() / RUN).mkdir(exist_ok=True)  # SQLite makes no folders
    for name, value in defaults().items():
        os.environ.setdefault(name, value)
