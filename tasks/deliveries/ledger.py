"""The list of deliveries: new files in a watched folder become one delivery, which is stored in data/raw.

A delivery is the folder data/raw/delivery-<number>, kept by its hash in DVC's cache. One that is set aside or removed
is no longer in data/raw, so that ingestion does not read it; its .dvc file, and with it the data, stay until it is
removed.
"""

import datetime
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from tasks.errors import BadInput, BadParams
from tasks.files import read_json, sha256, write_json

FILE = Path("data/deliveries.json")
RAW, ASIDE = Path("data/raw"), Path("data/set_aside")
PREFIX = "delivery-"
State = Literal["active", "set aside", "removed", "refused", "duplicate"]
Keep = Callable[[str], str]
BringBack = Callable[[list[str]], None]


class File(BaseModel):
    """One file of a delivery."""

    name: str = Field(description="Its path below the watched folder.")
    sha256: str = Field(description="The hash of its bytes.")
    num_bytes: int = Field(description="Its size in bytes.")


class Delivery(BaseModel):
    """The files that were new at one look into the watched folder, and what became of them."""

    number: int = Field(description="Its position in time, from 1.")
    time: str = Field(description="When it was received, in UTC.")
    state: State = Field(description="`active` if ingestion reads it.")
    reason: str = Field("", description="Why it was refused, or which delivery it repeats.")
    files: list[File] = Field(description="Its files.")
    md5: str = Field("", description="The hash of its folder in DVC's cache.")
    counts: dict[str, int] = Field(default_factory=dict, description="Records by outcome after its curation.")

    @property
    def folder(self) -> Path:
        """The folder that ingestion reads."""
        return RAW / f"{PREFIX}{self.number:04d}"


class Ledger(BaseModel):
    """All deliveries, and how many records the last training saw."""

    deliveries: list[Delivery] = Field(default_factory=list, description="By number.")
    trained: dict[str, int] = Field(default_factory=dict, description="Curated records at the last training, by kind.")
    training_began: bool = Field(False, description="Whether a training began that has not ended; it is continued.")

    def active(self) -> set[int]:
        """Return the numbers of the deliveries that ingestion reads."""
        return {delivery.number for delivery in self.deliveries if delivery.state == "active"}

    def get(self, number: int) -> Delivery:
        """Return a delivery by its number. Raises BadParams."""
        for delivery in self.deliveries:
            if delivery.number == number:
                return delivery
        raise BadParams(f"there is no delivery {number}; there are {len(self.deliveries)}")


def read() -> Ledger:
    """Return the list; an empty one if there is none. Raises BadInput if the file is damaged."""
    if not FILE.is_file():
        return Ledger()
    try:
        return Ledger.model_validate(read_json(FILE))
    except ValueError as error:
        raise BadInput(f"{FILE} is not a list of deliveries: {error}. Restore it from an experiment.") from None


def write(ledger: Ledger) -> None:
    """Write the list."""
    write_json(FILE, ledger.model_dump())


def new_files(folder: Path, ledger: Ledger, min_age: float) -> list[tuple[Path, File]]:
    """Return the files of the watched folder that no delivery has, and that nobody changed for `min_age` seconds.

    A file with an equal name and hash was received before. Hidden files and links to nothing are left out.
    """
    known = {(file.name, file.sha256) for delivery in ledger.deliveries for file in delivery.files}
    files = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or any(part.startswith(".") for part in Path(name).parts):
            continue
        if time.time() - path.stat().st_mtime >= min_age:
            file = File(name=name, sha256=sha256(path), num_bytes=path.stat().st_size)
            if (file.name, file.sha256) not in known:
                files.append((path, file))
    return files


def receive(
    folder: Path, min_age: float, check: Callable[[list[Path]], str], keep: Keep
) -> tuple[Ledger, list[Delivery]]:
    """Make deliveries of the new files: one of those that can be read, and one for each reason not to read others.

    check: returns why files cannot be read, or an empty string. keep: stores a folder by its hash, which it returns.
    The files stay in the watched folder. Returns the list and the new deliveries; the list is already written.
    """
    ledger = read()
    by_hash = {
        file.sha256: delivery.number
        for delivery in ledger.deliveries
        if delivery.state in ("active", "set aside")
        for file in delivery.files
    }
    accepted, others = list[tuple[Path, File]](), dict[tuple[State, str], list[File]]()
    for path, file in new_files(folder, ledger, min_age):
        if file.sha256 in by_hash:
            origin = by_hash[file.sha256]
            reason = f"equal to a file of delivery {origin or len(ledger.deliveries) + 1}"
            others.setdefault(("duplicate", reason), []).append(file)
        elif reason := check([path]):
            others.setdefault(("refused", reason), []).append(file)
        else:
            accepted.append((path, file))
            by_hash[file.sha256] = 0
    new = list[Delivery]()
    if accepted:
        delivery = _delivery(len(ledger.deliveries) + 1, "active", [file for _, file in accepted])
        _copy(accepted, delivery.folder)
        delivery.md5 = keep(str(delivery.folder))
        new.append(delivery)
    for number, ((state, reason), files) in enumerate(others.items(), len(ledger.deliveries) + len(new) + 1):
        new.append(_delivery(number, state, files, reason))
    ledger.deliveries += new
    if new:
        write(ledger)
    return ledger, new


def activate(ledger: Ledger, numbers: set[int], bring_back: BringBack) -> None:
    """Make exactly the deliveries `numbers` those that ingestion reads; the others that it read are set aside.

    Raises BadInput if one of them was removed.
    """
    for number in sorted(numbers):
        if ledger.get(number).state not in ("active", "set aside"):
            raise BadInput(f"delivery {number} was {ledger.get(number).state}; its files cannot be restored")
    for delivery in ledger.deliveries:
        if delivery.state == "active" and delivery.number not in numbers:
            _move_dvc_file(delivery, RAW, ASIDE)
            shutil.rmtree(delivery.folder, ignore_errors=True)
            delivery.state = "set aside"
        elif delivery.state == "set aside" and delivery.number in numbers:
            _move_dvc_file(delivery, ASIDE, RAW)
            bring_back([f"{delivery.folder}.dvc"])
            delivery.state = "active"
        write(ledger)


def copy_dvc_files(ledger: Ledger, numbers: set[int], root: Path) -> list[str]:
    """Copy the .dvc files of deliveries into data/raw below `root`; return their paths there. Raises BadInput."""
    paths = []
    for number in sorted(numbers):
        path = ledger.get(number).folder.with_suffix(".dvc")
        sources = [folder / path.name for folder in (RAW, ASIDE) if (folder / path.name).is_file()]
        if not sources:
            raise BadInput(f"delivery {number} was {ledger.get(number).state}; its files cannot be restored")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources[0], root / path)
        paths.append(str(path))
    return paths


def remove(ledger: Ledger, number: int) -> None:
    """Remove a delivery: ingestion no longer reads it, and `dvc gc` may delete its data. The entry stays."""
    delivery = ledger.get(number)
    shutil.rmtree(delivery.folder, ignore_errors=True)
    for folder in (RAW, ASIDE):
        (folder / f"{delivery.folder.name}.dvc").unlink(missing_ok=True)
    delivery.state = "removed"
    write(ledger)


def _delivery(number: int, state: State, files: list[File], reason: str = "") -> Delivery:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return Delivery(number=number, time=now, state=state, reason=reason, files=files)


def _copy(files: list[tuple[Path, File]], folder: Path) -> None:
    """Copy files into a new folder, whose name appears only when it is complete. Raises BadInput if one changed."""
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    for path, file in files:
        target = temporary / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if sha256(target) != file.sha256:
            raise BadInput(f"{path} was changed while it was received. Run the command again when it is complete.")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before it wrote the list
    temporary.replace(folder)


def _move_dvc_file(delivery: Delivery, source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    name = f"{delivery.folder.name}.dvc"
    if (source / name).is_file():
        (source / name).replace(target / name)


def as_dict(delivery: Delivery) -> dict[str, Any]:
    """Return a delivery as a JSON object."""
    return delivery.model_dump()
