"""After kill -9 at any moment, the next start resumes and ends with the bytes of a run that was not killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.files import sha256

TRAINING = """
import sys, torch
from pathlib import Path

import pytest
from tasks.training.loop import checkpoint
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import run
from tests.training.small_work import LinearWork, weights
folder = Path(sys.argv[1])
params = LoopParams(steps=300, learning_rate=0.01, precision="fp32", num_threads=1, checkpoint_every=1, log_every=1,
                    device="cpu")
print("ready", flush=True)
work = LinearWork(dropout=0.5)
rows = run(work, params, folder / "checkpoints", "test")
torch.save([weights(work), [tuple(row.values()) for row in rows]], folder / "end.pt")
"""


def train(folder: Path, seconds: float | None) -> int:
    """Train in another process, which is killed after `seconds`. Return its exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAINING, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        if seconds is not None:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        return process.wait()


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    assert train(tmp_path / "whole", None) == 0
    rng = random.Random(0)
    codes = [train(tmp_path / "killed", rng.uniform(0.05, 0.4)) for _ in range(2)]
    assert -signal.SIGKILL in codes
    assert train(tmp_path / "killed", None) == 0
    assert sha256(tmp_path / "whole/end.pt") == sha256(tmp_path / "killed/end.pt")
