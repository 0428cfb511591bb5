"""Only the manifest decides what is complete; crashes are repeated, and quarantined by name in the end."""

import json
import os
from pathlib import Path

import pytest

from tasks.engine import settings
from tasks.engine.engine import JOURNAL, MANIFEST, check_part, discard_files
from tasks.engine.local_engine import LocalEngine
from tasks.errors import BadInput, BadParams
from tests.engine import jobs

NUMBERS = {"a": 1, "b": 2, "c": 3}


def entries(folder: Path) -> list[str]:
    return sorted(path.name.rsplit(".", 1)[0] for path in folder.glob("part-*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_results_and_files_of_every_key(tmp_path: Path, workers: int) -> None:
    with LocalEngine(tmp_path, workers) as engine:
        manifest = engine.run("squares", list(NUMBERS), jobs.square, NUMBERS)
    assert manifest.total("square") == 1 + 4 + 9
    assert [Path(path).read_text() for path in manifest.paths("square.txt")] == ["1", "4", "9"]
    assert entries(tmp_path / "squares") == ["part-a", "part-b", "part-c"]
    assert list(json.loads((tmp_path / "squares" / MANIFEST).read_text())["parts"]) == ["a", "b", "c"]


def test_nothing_that_is_listed_is_repeated(tmp_path: Path) -> None:
    """After a driver was killed: a cut last line, a part that is not listed, and one that was not renamed."""
    engine = LocalEngine(tmp_path)
    first = engine.run("squares", ["a", "b"], jobs.square, NUMBERS)
    folder = tmp_path / "squares"
    with open(folder / JOURNAL, "a") as journal:
        journal.write('{"key": "c", "na')
    (folder / "part-c.0123").mkdir()
    (folder / "part-c.4567.tmp").mkdir()
    second = engine.run("squares", ["a", "b", "c"], jobs.square, NUMBERS)
    assert second.num_run == 1
    assert second.path("a", "square.txt") == first.path("a", "square.txt")
    assert entries(folder) == ["part-a", "part-b", "part-c"]
    assert engine.run("squares", ["a", "b", "c"], jobs.square, NUMBERS).num_run == 0


def test_a_part_of_another_input_is_made_again(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path)
    engine.run("squares", ["a", "b"], jobs.square, NUMBERS)
    manifest = engine.run("squares", ["a", "b"], jobs.square, {"a": 1, "b": 5})
    assert (manifest.num_run, manifest.total("square")) == (1, 1 + 25)


def test_a_shard_that_crashes_every_time_is_quarantined(tmp_path: Path) -> None:
    with LocalEngine(tmp_path, 2) as engine:
        manifest = engine.run("squares", list(NUMBERS), jobs.crash_if_odd, NUMBERS)
    assert list(manifest.parts) == ["b"]
    assert manifest.quarantined == dict.fromkeys(
        "ac", "its worker process ended with exit code -9, in each of 4 attempts"
    )
    assert entries(tmp_path / "squares") == ["part-b"]  # no half-written folders


def test_a_crash_is_repeated(tmp_path: Path) -> None:
    with LocalEngine(tmp_path, 1) as engine:
        manifest = engine.run("squares", ["a"], jobs.crash_once, {"a": str(tmp_path / "flag")})
    assert (manifest.total("square"), manifest.quarantined) == (9, {})


def test_a_hanging_task_is_ended(tmp_path: Path) -> None:
    with LocalEngine(tmp_path, 1, task_seconds=0.5) as engine:
        manifest = engine.run("squares", ["a"], jobs.hang, {"a": 0})
    assert manifest.quarantined == {"a": "it took longer than 0.5 s, in each of 4 attempts"}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_for_the_user_keeps_its_type_and_what_is_complete(tmp_path: Path, workers: int) -> None:
    with LocalEngine(tmp_path, workers) as engine:
        with pytest.raises(BadInput, match="key b is damaged"):
            engine.run("squares", ["b", "a"], jobs.refuse, {"a": 1, "b": 2})
        assert entries(tmp_path / "squares") == ["part-b"]
        assert engine.run("squares", ["b", "a"], jobs.square, {"a": 1, "b": 2}).total("square") == 1 + 4


def test_an_error_leaves_no_half_written_folders(tmp_path: Path) -> None:
    """The task of c hangs when that of a fails, so that its worker is ended."""
    with LocalEngine(tmp_path, 2) as engine, pytest.raises(BadInput, match="key b is damaged"):
        engine.run("squares", ["hang", "fail"], jobs.hang_or_refuse, {"hang": 0, "fail": 1})
    assert entries(tmp_path / "squares") == []


def test_stages_share_the_workers(tmp_path: Path) -> None:
    with LocalEngine(tmp_path, 1) as engine:
        pids = [engine.run(stage, ["a"], jobs.pid, {"a": 0}).total("pid") for stage in ("one", "two")]
    assert pids[0] == pids[1] != os.getpid()


def test_a_part_without_its_files_is_made_again_unless_they_were_discarded(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path)
    first = engine.run("squares", list(NUMBERS), jobs.square, NUMBERS)
    first.path("a", "square.txt").unlink()
    first.path("b", "square.txt").write_text("")
    second = engine.run("squares", list(NUMBERS), jobs.square, NUMBERS)
    assert (second.num_run, second.path("c", "square.txt")) == (2, first.path("c", "square.txt"))
    discard_files(second)
    assert not second.path("c", "square.txt").exists()
    assert engine.run("squares", list(NUMBERS), jobs.square, NUMBERS).num_run == 0


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    manifest = LocalEngine(tmp_path).run("squares", ["a"], jobs.square, NUMBERS)
    check_part(manifest, "a")
    manifest.path("a", "square.txt").write_text("2")
    with pytest.raises(BadInput, match=r"square\.txt is damaged"):
        check_part(manifest, "a")


def test_keys_are_file_names(tmp_path: Path) -> None:
    for keys in (["a", "a"], ["../a"]):
        with pytest.raises(BadInput, match="different keys"):
            LocalEngine(tmp_path).run("squares", keys, jobs.square, dict.fromkeys(keys, 1))


def test_sizes_of_memory() -> None:
    assert settings.num_bytes("4 GB") == 4 * 10**9
    assert settings.num_bytes("1.5GiB") == 3 << 29
    for size in ("4", "4 apples", "1 MB"):
        with pytest.raises(ValueError, match="expected"):
            settings.num_bytes(size)


def test_the_environment_chooses_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(settings.ENGINE, "spark")
    with pytest.raises(BadParams, match=r"ATHANOR_ENGINE: .*'local' or 'ray'"):
        settings.make_engine(tmp_path, 1)
    monkeypatch.delenv(settings.ENGINE)
    assert isinstance(settings.make_engine(tmp_path, 1), LocalEngine)
