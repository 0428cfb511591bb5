"""Checkpoints: which ones are kept and loaded, and what damage, kills and full disks do to them."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.training.loop import checkpoint
from tasks.training.loop.checkpoint import STATE, Saver


def state(number: int) -> dict[str, Any]:
    return {"step": number, "w": {"a": torch.full((1000,), float(number))}, "rows": [{"step": number, "loss": 0.5}]}


def save(folder: Path, *steps: int, keep: int = 2) -> None:
    with Saver(folder, keep, 1) as saver:
        for step in steps:
            saver.save(step, state(step))


def test_the_newest_comes_back_and_the_last_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 30)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000002", "000000030"]
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 30
    assert torch.equal(loaded["w"]["a"], torch.full((1000,), 30.0))
    assert loaded["rows"] == [{"step": 30, "loss": 0.5}]


def test_no_folder_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "no manifest", "empty manifest"])
def test_a_damaged_one_is_named_and_the_last_good_one_used(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1, 2)
    newest = tmp_path / "000000002"
    body = bytearray((newest / STATE).read_bytes())
    if damage == "flip":
        body[len(body) // 2] ^= 1
        (newest / STATE).write_bytes(body)
    elif damage == "cut":
        (newest / STATE).write_bytes(body[: len(body) // 2])
    elif damage == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text("")
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 1
    assert "000000002" in capsys.readouterr().err


def test_a_copy_is_written_while_the_weights_change(tmp_path: Path) -> None:
    changing_state = state(5)
    with Saver(tmp_path, 2, 1) as saver:
        saver.save_async(5, changing_state)
        changing_state["w"]["a"].add_(1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded["w"]["a"][0] == 5.0


def test_the_unfinished_folder_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    (tmp_path / "000000007.tmp").mkdir(parents=True)
    (tmp_path / "000000007.tmp" / STATE).write_bytes(b"half")
    assert checkpoint.load_newest(tmp_path) is None
    save(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["000000001"]


def test_a_full_disk_is_reported_and_the_old_one_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)

    def full(self: Any, part: bytes) -> int:
        self.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise self.failure

    monkeypatch.setattr(checkpoint._HashingFile, "write", full)
    with Saver(tmp_path, 2, 1) as saver:
        saver.save(2, state(2))
    assert "No space left on device" in capsys.readouterr().err
    assert saver.failures
    assert [p.name for p in tmp_path.iterdir()] == ["000000001"]
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 1


def test_without_an_interval_nothing_is_due_at_once(tmp_path: Path) -> None:
    assert not Saver(tmp_path, 2, None).due(1)
    assert Saver(tmp_path, 2, 3).due(6)
    assert not Saver(tmp_path, 2, 3).due(7)
