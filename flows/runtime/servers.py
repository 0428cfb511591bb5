"""Start or stop a Prefect server, an MLflow server and a worker on 127.0.0.1 (`make up` and `make down`).

`up` also deploys the flows of prefect.yaml, whose schedules the worker then runs.
The variables PREFECT_PORT (4200) and MLFLOW_PORT (5000) choose other ports.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import psutil

from flows.runtime import arguments, command, environment, tracking
from tasks.errors import BadInput
from tasks.files import write_json

FOLDER = environment.SERVERS
POOL = "athanor"
START_SECONDS = 180.0
STOP_SECONDS = 15.0


def up() -> None:
    """Start the servers that do not run yet, deploy, and print the addresses. Raises BadInput if one does not start."""
    prefect = f"http://127.0.0.1:{os.environ.get('PREFECT_PORT', '4200')}"
    mlflow = f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', '5000')}"
    variables = {
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
    environment.make_folder()
    tracking.make_database(database)
    _start("prefect", ["prefect", "server", "start", *_address(prefect)], variables, {"url": f"{prefect}/api"})
    store = ["--backend-store-uri", database, "--artifacts-destination", artifacts, "--workers", "1"]
    _start("mlflow", ["mlflow", "server", *_address(mlflow), *store], variables, {"url": mlflow})
    _await_answer("prefect", f"{prefect}/api/health")
    _call(["prefect", "--no-prompt", "work-pool", "create", POOL, "--type", "process", "--overwrite"], variables)
    _call(["prefect", "--no-prompt", "deploy", "--all"], variables)
    _start("worker", ["prefect", "worker", "start", "--pool", POOL], variables, {})
    _await_answer("mlflow", f"{mlflow}/health")
    print(f"Prefect  {prefect}\nMLflow   {mlflow}/#/experiments\nlogs     {FOLDER}\n`make down` stops the servers.")


def down() -> None:
    """Stop what `up` has started; the worker first, so that it can return its unfinished runs to the server."""
    for name in ("worker", "mlflow", "prefect"):
        process = environment.server(name)
        if process is not None:
            processes = [process, *process.children(recursive=True)]
            process.terminate()
            _, alive = psutil.wait_procs(processes, STOP_SECONDS)
            for survivor in alive:
                survivor.kill()
            print(f"stopped {name}")
        (FOLDER / f"{name}.json").unlink(missing_ok=True)


def _address(url: str) -> list[str]:
    _, host, port = url.replace("/", "").split(":")
    return ["--host", host, "--port", port]


def _start(name: str, arguments: list[str], variables: Mapping[str, str], record: Mapping[str, Any]) -> None:
    if environment.server(name) is not None:
        return
    if "url" in record and _answers(str(record["url"])):
        raise BadInput(
            f"cannot start {name}: another program answers at {record['url']}. "
            f"Choose another port: make up {name.upper()}_PORT=..."
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / f"{name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(variables), start_new_session=True,
        )  # fmt: skip
    body = {"pid": process.pid, "created": psutil.Process(process.pid).create_time(), **record}
    write_json(FOLDER / f"{name}.json", body)


def _await_answer(name: str, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url):
        if environment.server(name) is None or time.monotonic() > deadline:
            raise BadInput(
                f"the server {name} did not answer at {url} within {START_SECONDS:.0f} s; its log is "
                f"{FOLDER / name}.log. `make down` stops the other servers."
            )
        time.sleep(0.2)


def _answers(url: str) -> bool:
    """Whether a program answers at `url`, be it with an error."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _call(arguments: list[str], variables: Mapping[str, str]) -> None:
    process = subprocess.run([sys.executable, "-m", *arguments], env=dict(variables), capture_output=True, text=True)
    if process.returncode:
        output = f"{process.stdout}{process.stderr}"
        raise BadInput(f"`{' '.join(arguments)}` ended with exit code {process.returncode}:\n{output}")


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.runtime.servers", __doc__)
    parser.add_argument("action", choices=("up", "down"), help="start or stop the servers")
    action = {"up": up, "down": down}[parser.parse_args().action]
    return command.guarded(action)


if __name__ == "__main__":
    sys.exit(main())
