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
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found["step"] == 30
    assert torch.equal(found["w"]["a"], torch.full((1000,), 30.0))
    assert found["rows"] == [{"step": 30, "loss": 0.5}]


def test_no_folder_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "none") is None


@pytest.mark.parametrize("harm", ["flip", "cut", "no manifest", "empty manifest"])
def test_a_damaged_one_is_named_and_the_last_good_one_used(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1, 2)
    newest = tmp_path / "000000002"
    body = bytearray((newest / STATE).read_bytes())
    if harm == "flip":
        body[len(body) // 2] ^= 1
        (newest / STATE).write_bytes(body)
    elif harm == "cut":
        (newest / STATE).write_bytes(body[: len(body) // 2])
    elif harm == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text("")
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found["step"] == 1
    assert "000000002" in capsys.readouterr().err


def test_a_copy_is_written_beside_while_the_weights_move_on(tmp_path: Path) -> None:
    moving = state(5)
    with Saver(tmp_path, 2, 1) as saver:
        saver.save_async(5, moving)
        moving["w"]["a"].add_(1)
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found["w"]["a"][0] == 5.0


def test_what_a_kill_left_beside_is_removed(tmp_path: Path) -> None:
    (tmp_path / "000000007.tmp").mkdir(parents=True)
    (tmp_path / "000000007.tmp" / STATE).write_bytes(b"half")
    assert checkpoint.load_newest(tmp_path) is None
    save(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["000000001"]


def test_a_full_disk_is_said_and_the_old_one_survives(
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
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found["step"] == 1


def test_without_an_interval_nothing_is_due_at_once(tmp_path: Path) -> None:
    assert not Saver(tmp_path, 2, None).due(1)
    assert Saver(tmp_path, 2, 3).due(6)
    assert not Saver(tmp_path, 2, 3).due(7)
