"""Which reports a name stands for: a folder, an alias or version of promotion, an MLflow run or model, a revision.

The reports of a run in MLflow or of a revision of git are copied into a temporary folder.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.runtime import arguments, tracked_runs
from flows.versions import contents
from tasks import comparison, promotion
from tasks.comparison import Subject
from tasks.errors import BadInput
from tasks.files import read_json

RUN_ID = re.compile(r"[0-9a-f]{32}")
REGISTERED = re.compile(r"(?:models:/)?(?P<name>[\w -]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))")
FORMS = (
    "a folder with reports, a model folder or stage, champion, candidate, a version of `python -m flows.promotion`, "
    "an MLflow run id, a registered model (NAME/3, NAME@champion), the name of a `dvc exp`, or a git revision; "
    "`:MODEL` after it chooses one of its models"
)


@contextmanager
def opened(names: Sequence[str], data: Path) -> Iterator[list[Subject]]:
    """The subjects that `names` stand for; copies of reports last as long as the block. Raises BadArgument."""
    with TemporaryDirectory(prefix="athanor-comparison-") as copies:
        with arguments.naming_input():
            result = [find(name, data, Path(copies, str(index))) for index, name in enumerate(names)]
        yield result


def find(name: str, data: Path, copies: Path) -> Subject:
    """The subject that `name` stands for; what has to be copied goes below `copies`. Raises BadInput."""
    is_whole = Path(name).exists() or name.startswith("models:/")
    plain, _, model = (name, "", "") if is_whole else name.partition(":")
    if not plain:
        raise BadInput(f"{name!r} names no run. Expected {FORMS}.")
    folder, own_model = reports_of(plain, data, copies)
    return comparison.read(name, folder, model or own_model)


def reports_of(name: str, data: Path, copies: Path) -> tuple[Path, str | None]:
    """The folder of the reports that `name` stands for, and the model if it is one. Raises BadInput."""
    if (data / "models" / name).is_dir() and not Path(name).exists():
        return _of_model_folder(data / "models" / name)
    if Path(name).exists():
        return _of_path(Path(name))
    if name.isdigit() and int(name) in promotion.status(data).versions:
        version = promotion.read_version(promotion.root_of(data), int(name))
        return promotion.subject(promotion.root_of(data), version).folder, version.stage
    if RUN_ID.fullmatch(name):
        return tracked_runs.copy_reports(name, copies)
    match = REGISTERED.fullmatch(name)
    if match and tracked_runs.is_registered(match["name"]):
        return tracked_runs.copy_reports(
            tracked_runs.run_of_version(match["name"], match["version"], match["alias"]), copies
        )
    if contents.copy_of_revision(name, ("data/reports",), copies):
        return copies / "data" / "reports", None
    raise BadInput(f"{name!r} is neither a run nor a model that is known here. Expected {FORMS}.")


def data_of(name: str, data: Path, copies: Path) -> Path:
    """The folder like data/ that `name` stands for: a folder, or a revision whose data are copied. Raises BadInput."""
    path = Path(name)
    for folder in (path, path / "data"):
        if (folder / "curated").is_dir():
            return folder
    if contents.copy_of_revision(name, (f"{data}/curated", f"{data}/dropped"), copies):
        return copies / data
    raise BadInput(f"{name!r} is neither a folder with curated/ in it nor a revision of git or `dvc exp`")


def _of_path(path: Path) -> tuple[Path, str | None]:
    if path.name == comparison.REPORT:
        return path.parent, None
    for folder in (path, path / "reports", path / "data" / "reports"):
        if (folder / comparison.REPORT).is_file():
            return folder, None
    if (path / "config.json").is_file():
        return _of_model_folder(path)
    raise BadInput(f"{path} contains neither {comparison.REPORT} nor a model. Expected {FORMS}.")


def _of_model_folder(path: Path) -> tuple[Path, str]:
    """The reports beside data/models/<stage>, or those of a version of promotion."""
    about = path.resolve().parent / "version.json"
    if about.is_file():
        return about.parent / "reports", str(read_json(about)["stage"])
    return path.parent.parent / "reports", path.name


def hardware() -> str:
    """The processor, its cores and the GPUs of this machine in words."""
    import os

    from flows.runtime.spool import gpus

    name = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=False).stdout.strip()
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8")) if info.is_file() else []
    devices = [device for _, device, *_ in gpus()]
    return ", ".join([f"{os.cpu_count()} cores of {models[0] if models else name}", *devices])
