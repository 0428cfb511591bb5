"""Old outputs stay until new ones exist: after an error, after a kill, and not after a success."""

import contextlib
from pathlib import Path

import pytest

from flows.versions import previous_outputs
from tasks.errors import GateFailed


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("data/documents/a.txt", "old")
    write("data/reports/ingestion.json", "old")


OUTS = ["data/documents", "data/reports/ingestion.json", "data/new"]


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def test_a_failed_run_leaves_the_outputs_of_the_run_before() -> None:
    previous_outputs.put_aside("ingestion", OUTS)
    assert not Path("data/documents").exists()
    write("data/documents/b.txt", "half")
    assert previous_outputs.stages() == ["ingestion"]  # what the next command sees after a kill
    previous_outputs.put_back("ingestion", OUTS)
    assert {path.name: path.read_text() for path in Path("data/documents").iterdir()} == {"a.txt": "old"}
    assert Path("data/reports/ingestion.json").read_text() == "old"
    assert previous_outputs.stages() == []


@pytest.mark.parametrize(
    ("error", "text"), [(None, "new"), (ValueError, "old"), (KeyboardInterrupt, "old"), (GateFailed, "new")]
)
def test_only_a_run_that_ends_well_replaces_the_outputs(error: type[BaseException] | None, text: str) -> None:
    previous_outputs.put_aside("ingestion", OUTS)
    write("data/documents/a.txt", "half")  # by a run that was killed
    previous_outputs.put_aside("ingestion", OUTS)
    with contextlib.suppress(BaseException), previous_outputs.put_back_on_failure("ingestion", OUTS):
        write("data/documents/a.txt", "new")
        if error:
            raise error
    assert Path("data/documents/a.txt").read_text() == text
    assert previous_outputs.stages() == []


def test_the_outputs_of_a_committed_run_stay() -> None:
    previous_outputs.put_aside("ingestion", OUTS)
    write("data/documents/b.txt", "new")
    previous_outputs.discard("ingestion")
    previous_outputs.put_back("ingestion", OUTS)
    assert {path.name for path in Path("data/documents").iterdir()} == {"b.txt"}
