"""Two processes on one machine give the losses of one, survive the death of one, and report a user's mistakes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tasks import models, tokens
from tasks.errors import BadInput, BadParams
from tasks.files import MANIFEST, read_json, write_json
from tasks.reports import Timings
from tasks.training.parallel import launch, worker
from tasks.training.stages import pretrain

PARAMS = {"learning_rate": 0.01, "warmup_steps": 2, "global_batch_size": 4, "micro_batch_size": 2, "num_threads": 1,
          "precision": "fp32", "device": "cpu", "log_every": 1, "sequence_length": 32,
          "model": {"width": 32, "num_layers": 2, "num_heads": 2}}  # fmt: skip


def train(data: Path, checkpoints: Path, **changes: Any) -> list[dict[str, Any]]:
    params = pretrain.Params(**{**PARAMS, "steps": 12, **changes})
    rows = launch.train("pretrain", params, data, checkpoints, Timings("pretrain")).tables["steps"]
    models.verify(data / "models/pretrain")
    return rows


def kill_one(checkpoints: Path) -> None:
    """As soon as there is a checkpoint, kill -9 one of the two processes."""
    while not list(checkpoints.glob("0*")):
        time.sleep(0.02)
    for child in psutil.Process(os.getpid()).children(recursive=True):
        if "tasks.training.parallel.worker" in child.cmdline() and "torch.distributed.run" not in child.cmdline():
            child.send_signal(signal.SIGKILL)
            return


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_give_the_losses_of_one_and_survive_a_kill(
    ready: Path, tmp_path: Path, strategy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    one = train(ready, tmp_path / "one", steps=60)
    killer = threading.Thread(target=kill_one, args=(tmp_path / "two",), daemon=True)
    killer.start()
    two = train(ready, tmp_path / "two", steps=60, launch={"processes": 2, "strategy": strategy}, checkpoint_every=5)
    assert "a process died in attempt 1" in capfd.readouterr().err
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-4)
    assert [row["loss"] for row in two][:10] == pytest.approx([row["loss"] for row in one][:10], rel=1e-5)


@pytest.mark.slow
def test_a_mixture_is_the_same_after_a_kill_and_with_another_number_of_processes(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes are killed, and one process continues from their checkpoint: the losses are those of one run."""
    data = tmp_path / "data"
    shutil.copytree(ready, data)
    folder = data / "tokens/documents/train"
    records = tokens.read_records(folder)
    names = ["book" if number % 3 else "web" for number in range(len(records.starts))]
    labels = {"source": names, "language": names}
    tokens.write_records(folder, tokens.make_records(np.array(records.starts), np.array(records.lengths), labels))
    manifest = data / "tokens" / MANIFEST
    write_json(manifest, {**read_json(manifest), tokens.DIGESTS: tokens.digests(data / "tokens")})
    settings = {"steps": 60, "mixture": {"book": 1, "web": 3}, "checkpoint_every": 5}
    whole = train(data, tmp_path / "whole", **settings)
    monkeypatch.setattr(launch, "MAX_ATTEMPTS", 1)
    killer = threading.Thread(target=kill_one, args=(tmp_path / "killed",), daemon=True)
    killer.start()
    with pytest.raises(BadInput, match="lost a process"):
        train(data, tmp_path / "killed", **settings, launch={"processes": 2})
    resumed = train(data, tmp_path / "killed", **settings)
    assert [row["loss"] for row in resumed] == pytest.approx([row["loss"] for row in whole], rel=1e-4)


@pytest.mark.slow
def test_a_users_mistake_crosses_the_border(ready: Path, tmp_path: Path) -> None:
    shutil.copytree(ready / "tokens/tokenizer", tmp_path / "tokens/tokenizer")
    with pytest.raises(BadInput, match="Run tokenization again"):
        train(tmp_path, tmp_path / "checkpoints", launch={"processes": 2})


@pytest.mark.slow
def test_two_nodes_meet_on_one_machine_and_survive_a_kill(
    ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two torchrun agents have one process each, and one of these is killed; the second node joins by the command."""
    one = train(ready, tmp_path / "one", steps=40)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tasks.training.parallel.launch", str(tmp_path / "stage")]
    killer = threading.Thread(target=kill_one, args=(tmp_path / "stage/key",), daemon=True)
    killer.start()
    changes = {"launch": {"nodes": 2, "rendezvous": address, "strategy": "fsdp"}, "checkpoint_every": 5}
    with subprocess.Popen(command) as second:
        two = train(ready, tmp_path / "stage/key", steps=40, **changes)
        assert second.wait(60) == 0
    assert "a process died in attempt 1" in capfd.readouterr().err
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-4)


def test_nodes_that_do_not_know_where_to_meet(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PET_RDZV_ENDPOINT", raising=False)
    with pytest.raises(BadParams, match=r"launch\.rendezvous"):
        train(ready, tmp_path, launch={"nodes": 2})


def test_a_result_has_the_signature_of_its_run(tmp_path: Path) -> None:
    """Every process reads the key from the folder, also one on another node, whose environment is its own."""
    key = launch._make_key(tmp_path)
    worker._write_result(tmp_path, ("error", ("BadParams", "too many processes"), {}))
    with pytest.raises(BadParams, match="too many processes"):
        launch._result(tmp_path / launch.ENDED, key, Timings("sft"))
    assert (tmp_path / launch.KEY).stat().st_mode & 0o077 == 0
    for content in (b"", b"no line", b"0" * 64 + b"\nbody"):
        (tmp_path / launch.ENDED).write_bytes(content)
        with pytest.raises(BadInput, match="not written by a process of this run"):
            launch._result(tmp_path / launch.ENDED, key, Timings("sft"))
