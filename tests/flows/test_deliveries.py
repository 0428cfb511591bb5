"""A delivery starts training only when enough is new, and continues from a copy of the last model where it should."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import deliveries
from flows.versions import contents
from tasks.deliveries import tasks
from tasks.errors import GateFailed
from tasks.files import write_json


@pytest.fixture(name="calls")
def _calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Return the stages at which the pipeline was asked to stop, in an empty project without DVC."""
    monkeypatch.chdir(tmp_path)
    for folder in ("incoming", "data/raw", "data/reports", "data/models/pretrain"):
        Path(folder).mkdir(parents=True)
    Path("params.yaml").write_text(
        "ingestion: {sources: {text: {paths: [data/raw/delivery-*]}}}\n# kept\npretrain: {}\n"
    )
    Path("data/models/pretrain/model.safetensors").write_bytes(b"weights")
    calls: list[str | None] = []

    def pipeline(to: str | None = None) -> dict[str, str]:
        calls.append(to)
        kept = 100 + len(list(Path("data/raw").iterdir()))
        write_json(Path("data/reports/curation.json"), {"schema_version": 1, "counts": {"kept": kept}})
        return {}

    monkeypatch.setattr(deliveries, "pipeline", pipeline)
    monkeypatch.setattr(deliveries, "curation_counts", lambda: {"kept": 100 + len(list(Path("data/raw").iterdir()))})
    monkeypatch.setattr(deliveries, "problem_of", lambda paths: "")
    monkeypatch.setattr(contents, "add", lambda path, push=False: "abc")
    return calls


def test_training_waits_until_enough_is_new(calls: list[str | None]) -> None:
    """The first delivery makes 101 new documents of 101; the second one makes 1 new of 102, which is less than 5 %."""
    assert deliveries.deliveries.fn(min_age=0.0) == {}
    assert calls == []
    Path("incoming/a.txt").write_text("one")
    deliveries.deliveries.fn(min_age=0.0)
    assert calls == ["curation", None]
    assert tasks.read().trained["kept"] == 101
    Path("incoming/b.txt").write_text("two")
    deliveries.deliveries.fn(min_age=0.0)
    assert calls == ["curation", None, "curation"]
    assert tasks.read().deliveries[1].counts == {"kept": 102}


def test_two_runs_do_not_receive_the_same_files(calls: list[str | None], capsys: pytest.CaptureFixture[str]) -> None:
    """A lock that another open file holds is that of another process."""
    Path("incoming/a.txt").write_text("one")
    with deliveries.alone():
        assert deliveries.deliveries.fn(min_age=0.0) == {}
    assert "Another process receives deliveries" in capsys.readouterr().out
    assert (calls, tasks.read().deliveries) == ([], [])
    deliveries.deliveries.fn(min_age=0.0)
    assert len(tasks.read().deliveries) == 1


def test_the_kind_of_record_that_grew_most_starts_training() -> None:
    """100 documents as before; 40 of 50 conversations are new."""
    counts = {"kept": 100, "conversations_kept": 50, "preferences_kept": 0}
    assert deliveries.new_share(counts, {"kept": 100, "conversations_kept": 10}) == 0.8
    assert deliveries.new_share({}, {}) == 0.0


def test_an_interrupted_training_is_continued_and_a_refused_model_is_not_trained_again(
    calls: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., dict[str, str]] = vars(deliveries)["pipeline"]

    def interrupted(to: str | None = None) -> dict[str, str]:
        original(to)
        if to is None:
            raise KeyboardInterrupt
        return {}

    def refused(to: str | None = None) -> dict[str, str]:
        original(to)
        raise GateFailed("below its gate")

    Path("incoming/a.txt").write_text("one")
    monkeypatch.setattr(deliveries, "pipeline", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deliveries.deliveries.fn(min_age=0.0)
    monkeypatch.setattr(deliveries, "pipeline", refused)
    with pytest.raises(GateFailed):
        deliveries.deliveries.fn(min_age=0.0)
    assert calls == ["curation", None, None]
    assert deliveries.deliveries.fn(min_age=0.0) == {}
    assert tasks.read().trained["kept"] == 101


def test_training_continues_from_a_copy_of_the_last_model(calls: list[str | None]) -> None:
    Path("incoming/a.txt").write_text("one")
    deliveries.deliveries.fn(min_age=0.0, training="continue")
    (base,) = deliveries.BASES.iterdir()
    assert (base / "model.safetensors").read_bytes() == b"weights"
    text = Path("params.yaml").read_text()
    assert f"base: {base}" in text
    assert "# kept" in text


def test_restore_and_list(calls: list[str | None], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        Path(f"incoming/{name}.txt").write_text(name)
        deliveries.deliveries.fn(min_age=0.0, training="never")
    deliveries.restore(1)
    deliveries.show(False)
    output = capsys.readouterr().out
    assert "reads the deliveries [1]" in output
    assert "2 deliveries, 1 of them read by ingestion" in output
    assert not Path("data/raw/delivery-0002").exists()
