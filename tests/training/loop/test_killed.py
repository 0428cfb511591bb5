"""After kill -9 in a rollout, an update or the writing of a checkpoint, a resumed run ends with the same bytes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.reports import Timings
from tasks.training.loop import checkpoint
from tasks.training.rl.rollout import Collector
from tasks.training.stages import dpo, ppo, reward
from tests.training import tiny

COMMON = {"steps": 12, "warmup_steps": 0, "precision": "fp32", "checkpoint_every": 1, "evaluate_every": 4}
GENERATION = {"max_new_tokens": 4, "guard": {"max_kl": None}}
STAGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "reward": (reward, {"global_batch_size": 8}),
    "dpo": (dpo, {"global_batch_size": 8, **GENERATION}),
    "ppo": (ppo, {"reward_model_weight": 0.0, "reward_functions": {"num_characters": 1.0}, "rollout_size": 8,
                  "num_epochs": 2, **GENERATION}),
}  # fmt: skip


def train(stage: str, data: Path, checkpoints: str) -> bytes:
    """Run the stage once. Return the bytes of its model, its report and its step log."""
    module, settings = STAGES[stage]
    params = module.Params(**COMMON, **settings)
    report = module.train(params, data, data / checkpoints, Timings(stage, data / "timings"))
    report.write(data / "reports")
    files = [data / f"models/{stage}/model.safetensors", data / f"reports/{stage}.json"]
    return b"".join(path.read_bytes() for path in [*files, data / f"reports/{stage}/steps.csv"])


def kill_in_call(owner: Any, name: str, at_call: int, work: Callable[[], object]) -> None:
    """Do `work` in a forked process that is killed when `owner.name` is called for the `at_call`-th time."""
    child = os.fork()
    if child == 0:
        original, calls = getattr(owner, name), 0

        def call_or_die(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, call_or_die)
        try:
            work()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "owner", "name", "at_call"),
    [
        ("reward", reward.RewardWork, "loss", 7),
        ("dpo", dpo.DpoWork, "loss", 7),
        ("dpo", dpo, "add_reference", 2),  # the reference of train is stored, that of validation is not
        ("dpo", checkpoint, "write_json", 5),  # state.pt is written, but neither the manifest nor the final name
        ("ppo", Collector, "_answer", 4),
        ("ppo", Collector, "_advantages", 4),
        ("ppo", ppo.PpoWork, "loss", 8),  # inside the updates of a rollout
        ("ppo", checkpoint, "_write_state", 3),
        ("ppo", checkpoint, "write_json", 3),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, stage: str, owner: Any, name: str, at_call: int
) -> None:
    data = tiny.write_data(tmp_path)
    whole = train(stage, data, "whole")
    kill_in_call(owner, name, at_call, lambda: train(stage, data, "killed"))
    assert train(stage, data, "killed") == whole
