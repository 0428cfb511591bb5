"""Start or stop a Prefect server, an MLflow server and a worker on 127.0.0.1 (`make up` and `make down`).

`up` also deploys the flows of prefect.yaml, whose schedules the worker then runs. The variables PREFECT_PORT (4200) and
MLFLOW_PORT (5000) choose other ports. Both servers refuse the requests of other sites' pages, and Prefect's API needs
the key that `up` writes to .run/servers/prefect.key (its page asks for it once). `up` starts `watch` beside them, which
starts ended servers again, closes dead runs and sends what waits for MLflow.
"""

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Set
from typing import Any

import psutil

from flows.runtime import (
    arguments,
    command,
    environment,
    mlflow_names,
    processes,
    request_guard,
    tracked_runs,
    tracking,
)
from tasks.addresses import redact
from tasks.errors import BadInput
from tasks.files import locked, read_json, write_json

FOLDER = environment.SERVERS
POOL = "athanor"
# What a run of a deployment may set: nothing that decides which program the worker starts (Prefect's own template of
# such a pool has `command`, `env` and `working_dir`).
POOL_TEMPLATE = {
    "job_configuration": {"name": "{{ name }}", "stream_output": True},
    "variables": {"type": "object", "properties": {"name": {"type": "string", "title": "Name"}}},
}
START_SECONDS = 180.0
STOP_SECONDS = 15.0
LOOK_SECONDS = 30.0
WATCHED = ("prefect", "mlflow", "worker")
MAX_LOG_BYTES = 10_000_000  # a longer log is emptied when its server starts
RETENTION_DAYS, DEFAULT_RETENTION_DAYS = "ATHANOR_RETENTION_DAYS", 90.0
# Of what Prefect deletes; by default only its events.
RETENTION = "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"
RETENTION_SECONDS = "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"
TRASH_DAYS, DAY = 7, 86_400.0  # MLflow keeps deleted runs so long, so that a mistake can be corrected
# Who holds the slot of a deployment or GPU. In the memory of the server, which is the default, it would be lost when
# the server is started again, and Prefect ends a run that has lost its slot.
LEASES, LEASES_ON_DISK = (
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
    "prefect.server.concurrency.lease_storage.filesystem",
)
# For how long a run holds its slot until its process has started (Prefect's default is 300); on an overloaded machine
# a start takes minutes. The slot of a process that is killed meanwhile is freed by `watch`.
START_LEASE, START_LEASE_SECONDS = "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION", "1800"
PRIVATE = 0o077  # the umask of the servers: only this user reads and writes their databases and logs


def up() -> None:
    """Start the servers that do not run yet, deploy, and print the addresses. Raises BadInput if one does not start."""
    prefect = f"http://127.0.0.1:{os.environ.get('PREFECT_PORT', '4200')}"
    mlflow = f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', '5000')}"
    environment.make_folder()
    variables = _variables(prefect, mlflow)
    tracking.make_database(variables["_MLFLOW_SERVER_FILE_STORE"])
    _start("prefect", _uvicorn("prefect_app", prefect), variables, {"url": f"{prefect}/api"})
    _start("mlflow", _uvicorn("mlflow_app", mlflow), variables, {"url": mlflow})
    _await_answer("prefect", f"{prefect}/api/health")
    write_json(FOLDER / "work-pool.template", POOL_TEMPLATE)
    pool = ["--type", "process", "--base-job-template", str(FOLDER / "work-pool.template"), "--overwrite"]
    _call(["prefect", "--no-prompt", "work-pool", "create", POOL, *pool], variables)
    for name in processes.gpu_limits():  # one training at a time on each GPU
        _call(["prefect", "--no-prompt", "gcl", "create", name, "--limit", "1"], variables, {1})  # 1: it exists
    _call(["prefect", "--no-prompt", "deploy", "--all"], variables)
    _start("worker", ["prefect", "worker", "start", "--pool", POOL], variables, {})
    _start("watch", ["flows.runtime.servers", "watch"], variables, {})
    _await_answer("mlflow", f"{mlflow}/health")
    print(f"Prefect  {prefect}   (its page asks for the key in {environment.KEY_FILE})")
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", mlflow_names.EXPERIMENT)
    print(f"MLflow   {mlflow_names.page(mlflow, experiment)}\nlogs     {FOLDER}")
    print("`make down` stops the servers.")


def down() -> None:
    """Stop what `up` has started; first the watch process, which would start the others again, then the worker.

    The runs of the worker, which end with it, are shown as Crashed while Prefect's server still runs.
    """
    for name in ("watch", *reversed(WATCHED)):
        process = environment.server(name)
        if process is not None:
            family = [process, *process.children(recursive=True)]
            process.terminate()
            _, alive = psutil.wait_procs(family, STOP_SECONDS)
            for survivor in alive:
                survivor.kill()
            psutil.wait_procs(alive, STOP_SECONDS)
            print(f"stopped {name}")
        if name == "worker" and process is not None:
            with contextlib.suppress(Exception):  # otherwise the watch process of the next `up` does it
                processes.close_dead_runs()
        (FOLDER / f"{name}.json").unlink(missing_ok=True)


def watch() -> None:
    """Start ended servers, close dead runs and send what waits for MLflow, every LOOK_SECONDS, without end."""
    from flows import notifications
    from flows.runtime.sender import Sender

    sender: Sender | None = None
    next_deletion = 0.0
    while True:
        for look in ("servers", "Prefect", "retention", "MLflow"):
            try:
                if look == "servers":
                    restart_ended()
                elif look == "Prefect":
                    notifications.notify_of_dead_runs(processes.close_dead_runs())
                elif look == "retention" and time.time() >= next_deletion:
                    next_deletion = time.time() + DAY
                    delete_old_runs()
                elif look == "MLflow":
                    sender = sender or Sender()
                    sender.send_all()
                    while sender.put_aside:
                        _log(f"MLflow refused {sender.put_aside.pop()}")
            except Exception as error:  # a server that is absent comes back
                _log(f"{look}: {type(error).__name__}: {error}")
        time.sleep(LOOK_SECONDS)


def retention_days() -> float:
    """Return for how long both databases keep runs. Raises BadInput."""
    text = os.environ.get(RETENTION_DAYS, str(DEFAULT_RETENTION_DAYS))
    with contextlib.suppress(ValueError):
        if float(text) >= 1:
            return float(text)
    raise BadInput(f"{RETENTION_DAYS} is {text!r}; expected a number of days, at least 1")


def delete_old_runs() -> None:
    """Delete MLflow's old runs, and finally those that were deleted TRASH_DAYS ago, by the user or here."""
    number = tracked_runs.delete_old_runs(round((time.time() - retention_days() * DAY) * 1_000))
    tracked_runs.purge(os.environ["_MLFLOW_SERVER_FILE_STORE"], TRASH_DAYS)
    if number:
        _log(f"MLflow: deleted {number} runs that ended {retention_days():g} days ago or earlier")


def restart_ended() -> None:
    """Start the servers again that `up` has started, that have ended since, and that `down` has not stopped."""
    for name in WATCHED:
        with contextlib.suppress(OSError, ValueError, KeyError):  # `down` has removed the record
            record = read_json(FOLDER / f"{name}.json")
            if environment.server(name) is None:
                _log(f"{name} (process {record['pid']}) has ended and is started again")
                _start(name, record["arguments"], os.environ, {key: record[key] for key in ("url",) if key in record})


def _log(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), redact(text), file=sys.stderr, flush=True)


def _variables(prefect: str, mlflow: str) -> dict[str, str]:
    """Return the environment of the servers and the worker: addresses, the key, the database and folder of MLflow.

    MLflow's database is not passed as an argument, because its URL may contain a password, and arguments are public.
    """
    own_store = os.environ["MLFLOW_TRACKING_URI"]
    is_database = own_store.startswith(("sqlite:", "postgresql", "mysql"))
    key = environment.server_key()
    return {
        RETENTION: "events,flow_runs",
        RETENTION_SECONDS: str(round(retention_days() * DAY)),
        LEASES: LEASES_ON_DISK,
        START_LEASE: START_LEASE_SECONDS,
        **os.environ,
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_UI_API_URL": f"{prefect}/api",
        environment.CLIENT_KEY: key,
        environment.SERVER_KEY: key,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "MLFLOW_TRACKING_URI": mlflow,
        "_MLFLOW_SERVER_FILE_STORE": own_store if is_database else environment.mlflow_database(),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": os.environ.get("ATHANOR_ARTIFACTS", str(environment.home() / "mlruns")),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "ATHANOR_HOME": str(environment.home()),
    }


def _uvicorn(app: str, url: str) -> list[str]:
    _, host, port = url.replace("/", "").split(":")
    factory = f"flows.runtime.server_apps:{app}"
    return ["uvicorn", "--factory", factory, "--host", host, "--port", port, "--log-level", "warning"]


def _start(name: str, arguments: list[str], variables: Mapping[str, str], record: Mapping[str, Any]) -> None:
    """Start a server unless it runs. Raises BadInput if another program answers at its address."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _alone():
        if environment.server(name) is not None:
            return
        if "url" in record and _answers(str(record["url"])):
            raise BadInput(
                f"cannot start {name}: another program answers at {record['url']}. "
                f"Choose another port: make up {name.upper()}_PORT=..."
            )
        if "url" in record:
            hosts = request_guard.hosts_of(str(record["url"]).split(":")[2].split("/")[0])
            variables = {**variables, request_guard.HOSTS: ",".join(hosts)}
        path = FOLDER / f"{name}.log"
        is_long = path.is_file() and path.stat().st_size > MAX_LOG_BYTES
        with open(path, "w" if is_long else "a", encoding="utf-8") as log:
            os.fchmod(log.fileno(), 0o600)
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(variables), start_new_session=True,
                umask=PRIVATE,
            )  # fmt: skip
        identity = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        write_json(FOLDER / f"{name}.json", {**identity, "arguments": arguments, **record})


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one process at a time start a server: `make up` and the watch process may both see that one has ended."""
    with locked(FOLDER / "lock"):
        yield


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


def _call(arguments: list[str], variables: Mapping[str, str], accepted_codes: Set[int] = frozenset()) -> None:
    process = subprocess.run([sys.executable, "-m", *arguments], env=dict(variables), capture_output=True, text=True)
    if process.returncode and process.returncode not in accepted_codes:
        output = f"{process.stdout}{process.stderr}"
        raise BadInput(f"`{' '.join(arguments)}` ended with exit code {process.returncode}:\n{output}")


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.runtime.servers", __doc__)
    parser.add_argument("action", choices=("up", "down", "watch"), help="start, stop or watch the servers")
    action = {"up": up, "down": down, "watch": watch}[parser.parse_args().action]
    return command.guarded(action)


if __name__ == "__main__":
    sys.exit(main())
