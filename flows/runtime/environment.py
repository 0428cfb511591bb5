"""Default settings of Prefect, MLflow and DVC where the user has set none: everything embedded, in the project, quiet.

Set when `flows` is imported, because Prefect reads its settings when it is imported.
"""

import contextlib
import os
import secrets
from pathlib import Path

import psutil

from flows.runtime import thread_waits
from tasks.files import read_json

DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
RUN = Path(".run")
SERVERS = RUN / "servers"  # process id, address and log of each server that `make up` has started
KEY_FILE = SERVERS / "prefect.key"  # what the API of that Prefect server asks for
ANSWERS_KEY_FILE = RUN / "answers.key"
EMBEDDED_KEY = f"athanor:{secrets.token_urlsafe(32)}"  # the same for the embedded server of this process
CLIENT_KEY, SERVER_KEY = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
# DVC runs `dvc exp run --temp` and `--queue` in a copy below this folder; the runs there belong to the project.
COPIES = f"{os.sep}.dvc{os.sep}tmp{os.sep}exps{os.sep}"


def home() -> Path:
    """Return the folder of the project, also inside a copy that DVC made for an experiment."""
    return Path(str(Path.cwd()).split(COPIES)[0])


def server(name: str) -> psutil.Process | None:
    """Return the process of a server that `make up` has started; None if it does not run."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        record = read_json(home() / SERVERS / f"{name}.json")
        process = psutil.Process(record["pid"])
        # The system may have given the number to another process since then; the time of its start tells them apart.
        if process.create_time() == record["created"] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def defaults() -> dict[str, str]:
    """Return the default settings: the servers of `make up` where they run, otherwise the embedded tools."""
    root = home()
    values = {
        DATABASE: f"sqlite+aiosqlite:///{root / RUN / 'prefect.db'}",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 is too short on a loaded machine
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the API receives every record anyway
        "MLFLOW_TRACKING_URI": mlflow_database(),  # MLflow's own default depends on the folder
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines per run in the logs
        "DVC_NO_ANALYTICS": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # "Writing model shards: 100 %" for files of a few MB
        "DO_NOT_TRACK": "1",
        thread_waits.SETTING: thread_waits.default(),
        # torch's matrix products on a CPU are compiled for each shape and kept. Rows of packed texts have ever new
        # shapes, of which the default number, 1024, takes gigabytes.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    }
    if server("prefect") is not None or "PREFECT_API_URL" in os.environ:
        # Of one call, waiting twice as long each time: 4 minutes in all, in which a server can be started again.
        values["PREFECT_CLIENT_MAX_RETRIES"] = "7"
    for name, setting in (("prefect", "PREFECT_API_URL"), ("mlflow", "MLFLOW_TRACKING_URI")):
        if server(name) is not None:
            values[setting] = str(read_json(root / SERVERS / f"{name}.json")["url"])
    return values


def mlflow_database() -> str:
    """Return the address of MLflow's database where the user has chosen none."""
    return f"sqlite:///{home() / 'mlflow.db'}"


def set_defaults() -> None:
    """Set the default settings in os.environ; what the user has set stays."""
    values = defaults()
    # A server of the user has a key of its own, or none.
    if os.environ.get("PREFECT_API_URL", values.get("PREFECT_API_URL")) == values.get("PREFECT_API_URL"):
        values |= _keys()
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _keys() -> dict[str, str]:
    """Return the key of the Prefect server of `make up`, or the one that the embedded server will ask for."""
    if server("prefect") is not None:
        return {CLIENT_KEY: server_key()}
    with contextlib.suppress(OSError, ValueError):
        if "PREFECT_API_URL" in profiles().read_text(encoding="utf-8"):
            return {}
    return {CLIENT_KEY: EMBEDDED_KEY}


def profiles() -> Path:
    """Return the file with the user's own settings of Prefect."""
    folder = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    return Path(os.environ.get("PREFECT_PROFILES_PATH", folder / "profiles.toml"))


def server_key() -> str:
    """Return what Prefect's server of `make up` asks for."""
    return _stored_key(home() / KEY_FILE, EMBEDDED_KEY)


def answers_key() -> str:
    """Return the key with which servers of this project sign the answers that people may vote about."""
    return _stored_key(home() / ANSWERS_KEY_FILE, secrets.token_urlsafe(32))


def _stored_key(path: Path, new: str) -> str:
    """Return the key in a file, which is `new` the first time. Only this user can read the file."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(temporary, path)
        temporary.unlink()
    path.chmod(0o600)
    return path.read_text(encoding="utf-8").strip()


def make_folder() -> None:
    """Make the folder for databases, records and checkpoints, because SQLite makes no folder for its file.

    Only this user can read it: parameters of runs and answers of models are in there.
    """
    folder = home() / RUN
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):  # another user's folder
        folder.chmod(0o700)
        for database in (folder / "prefect.db", home() / "mlflow.db"):
            if database.is_file():
                database.chmod(0o600)
