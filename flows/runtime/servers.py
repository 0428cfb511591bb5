"""make up: a Prefect server, an MLflow server and a worker on loopback, and what prefect.yaml deploys; make down."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import psutil

from flows.runtime import command, environment, tracking
from tasks.errors import BadInput, BadParams
from tasks.files import write_json

FOLDER = environment.SERVERS
POOL = "athanor"
START_SECONDS = 180.0
STOP_SECONDS = 15.0


def up() -> None:
    """Start what does not run yet, deploy, and print the addresses. Raises BadInput where a server does not start."""
    prefect = f"http://127.0.0.1:{os.environ.get('PREFECT_PORT', '4200')}"
    mlflow = f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', '5000')}"
    served = {
        **os.environ,
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_UI_API_URL": f"{prefect}/api",
        "MLFLOW_TRACKING_URI": mlflow,
        "ATHANOR_HOME": str(environment.home()),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
    database, artifacts = environment.defaults()["MLFLOW_TRACKING_URI"], str(environment.home() / "mlruns")
    own_store = os.environ["MLFLOW_TRACKING_URI"]
    database = own_store if own_store.startswith(("sqlite:", "postgresql", "mysql")) else database
    tracking.make_database(database)
    _start("prefect", ["prefect", "server", "start", *_at(prefect)], served, {"url": f"{prefect}/api"})
    store = ["--backend-store-uri", database, "--artifacts-destination", artifacts, "--workers", "1"]
    _start("mlflow", ["mlflow", "server", *_at(mlflow), *store], served, {"url": mlflow})
    _await("prefect", f"{prefect}/api/health")
    _call(["prefect", "--no-prompt", "work-pool", "create", POOL, "--type", "process", "--overwrite"], served)
    _call(["prefect", "--no-prompt", "deploy", "--all"], served)
    _start("worker", ["prefect", "worker", "start", "--pool", POOL], served, {})
    _await("mlflow", f"{mlflow}/health")
    print(f"Prefect  {prefect}\nMLflow   {mlflow}/#/experiments\nlogs     {FOLDER}\nmake down stops them.")


def down() -> None:
    """Stop what `up` has started; the worker first, so that it can hand back what it runs."""
    for name in ("worker", "mlflow", "prefect"):
        process = environment.server(name)
        if process is not None:
            family = [process, *process.children(recursive=True)]
            process.terminate()
            _, alive = psutil.wait_procs(family, STOP_SECONDS)
            for late in alive:
                late.kill()
            print(f"stopped {name}")
        (FOLDER / f"{name}.json").unlink(missing_ok=True)


def _at(url: str) -> list[str]:
    _, host, port = url.replace("/", "").split(":")
    return ["--host", host, "--port", port]


def _start(name: str, arguments: list[str], served: Mapping[str, str], known: Mapping[str, Any]) -> None:
    if environment.server(name) is not None:
        return
    if "url" in known and _answers(str(known["url"])):
        raise BadInput(
            f"something else answers at {known['url']}. Choose another port: make up {name.upper()}_PORT=..."
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / f"{name}.log", "w", encoding="utf-8") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(served), start_new_session=True,
        )  # fmt: skip
    body = {"pid": started.pid, "created": psutil.Process(started.pid).create_time(), **known}
    write_json(FOLDER / f"{name}.json", body)


def _await(name: str, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url):
        if environment.server(name) is None or time.monotonic() > deadline:
            raise BadInput(f"{name} did not start; {FOLDER / name}.log says why. `make down` stops the rest.")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _call(arguments: list[str], served: Mapping[str, str]) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], env=dict(served), capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """`python -m flows.runtime.servers up | down`."""
    verbs = {"up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        raise BadParams("python -m flows.runtime.servers up | down")
    verbs[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(command.guarded(main))
