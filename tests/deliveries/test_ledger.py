"""Three deliveries: a good one, a damaged one and a copy of the first; each is listed with what became of it."""

import hashlib
import shutil
from pathlib import Path

import pytest

from tasks.deliveries import ledger, tasks
from tasks.errors import BadInput, BadParams

CACHE = Path("cache")


def keep(folder: str) -> str:
    """Store a folder as DVC does: a copy in a cache, and a .dvc file beside the folder."""
    shutil.copytree(folder, CACHE / Path(folder).name)
    Path(f"{folder}.dvc").write_text("md5")
    return hashlib.sha256(folder.encode()).hexdigest()


def bring_back(paths: list[str]) -> None:
    for path in paths:
        folder = Path(path.removesuffix(".dvc"))
        shutil.copytree(CACHE / folder.name, folder)


def check(paths: list[Path]) -> str:
    return "not text" if b"\0" in paths[0].read_bytes() else ""


def receive() -> list[ledger.Delivery]:
    return ledger.receive(Path("incoming"), 0.0, check, keep)[1]


@pytest.fixture(autouse=True)
def _in_an_empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("incoming", "data/raw", "cache"):
        Path(folder).mkdir(parents=True)


def test_each_file_is_received_once() -> None:
    Path("incoming/a.txt").write_text("one")
    (first,) = receive()
    assert (first.number, first.state, first.folder.joinpath("a.txt").read_text()) == (1, "active", "one")
    assert receive() == []
    Path("incoming/b.txt").write_bytes(b"\0")
    Path("incoming/c.txt").write_text("one")
    Path("incoming/.part").write_text("half a file")
    Path("incoming/d.txt").write_text("two")
    Path("incoming/e.txt").write_text("one")
    assert [(d.number, d.state, d.reason) for d in receive()] == [
        (2, "active", ""), (3, "refused", "not text"), (4, "duplicate", "equal to a file of delivery 1"),
    ]  # fmt: skip
    assert [file.name for file in ledger.read().deliveries[3].files] == ["c.txt", "e.txt"]
    assert receive() == []
    assert [delivery.state for delivery in ledger.read().deliveries] == ["active", "active", "refused", "duplicate"]


def test_a_file_that_is_being_written_waits() -> None:
    Path("incoming/a.txt").write_text("one")
    assert ledger.receive(Path("incoming"), 60.0, check, keep)[1] == []


def test_an_earlier_state_is_restored_and_left_again() -> None:
    Path("incoming/a.txt").write_text("one")
    receive()
    earlier = ledger.FILE.read_text()
    Path("incoming/b.txt").write_text("two")
    receive()
    tasks.activate(earlier, bring_back)
    assert sorted(path.name for path in ledger.RAW.iterdir()) == ["delivery-0001", "delivery-0001.dvc"]
    assert receive() == []
    tasks.activate_numbers({1, 2}, bring_back)
    assert Path("data/raw/delivery-0002/b.txt").read_text() == "two"
    assert tasks.copy_dvc_files(earlier, Path("scratch")) == ["data/raw/delivery-0001.dvc"]
    assert Path("scratch/data/raw/delivery-0001.dvc").is_file()
    ledger.remove(ledger.read(), 1)
    assert ledger.read().active() == {2}
    with pytest.raises(BadInput, match="delivery 1 was removed"):
        tasks.copy_dvc_files(earlier, Path("scratch"))
    with pytest.raises(BadInput, match="delivery 1 was removed"):
        tasks.activate_numbers({1}, bring_back)
    with pytest.raises(BadParams, match="no delivery 9"):
        ledger.remove(ledger.read(), 9)
