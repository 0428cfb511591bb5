"""Reward model, DPO and PPO beside TRL: speed at equal precision, model and lengths; losses on equal batches.

    make bench NAME=preference

Per CPU-second of one core, every engine in a process of its own with one thread, rounds alternating, the best counted.
PPO's peer is TRL 1.12, the last that had it (E = 4 epochs a rollout, answers of a fixed length); DPO's and the reward
model's peer is the newest TRL with its defaults.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import peers, preference_world

COMMON = ["torch==2.13.0", "transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0"]
PEERS = {"ppo": "1.12.0", "dpo": "1.16.0", "reward": "1.16.0"}
PRECISIONS = ("bf16", "fp32")
ROUNDS = 2
BATCH, ANSWER_LENGTH, EPOCHS = 64, 16, 4  # pairs or prompts at once; tokens; PPO's E
STEPS = {"reward": 12, "dpo": 10, "ppo": 3}  # batches measured, after WARMUP
WARMUP = {"reward": 3, "dpo": 3, "ppo": 1}


def main() -> None:
    """A table on stderr, one line of JSON on stdout."""
    scripts = Path(__file__).parent
    interpreters = {stage: peers.python(f"trl-{v}", [f"trl=={v}", *COMMON]) for stage, v in PEERS.items()}
    rates: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as workspace:
        world = preference_world.make(Path(workspace))
        for _ in range(ROUNDS):
            for stage in PEERS:
                for precision in PRECISIONS:
                    name = f"{stage}_{precision}"
                    sizes = (stage, world, precision, BATCH, ANSWER_LENGTH, EPOCHS, WARMUP[stage], STEPS[stage])
                    trl_result = peers.run(interpreters[stage], scripts / "preference_peers.py", *sizes)
                    new_rates = {"ours": rate_in_own_process(stage, world, precision), "trl": trl_result["rate"]}
                    rates[name] = {who: max(rate, rates.get(name, {}).get(who, 0.0)) for who, rate in new_rates.items()}
        difference = {stage: loss_difference(stage, interpreters[stage], world) for stage in PEERS}
    print(json.dumps(summary(rates, difference)))


def summary(rates: dict[str, dict[str, float]], difference: dict[str, float]) -> dict[str, Any]:
    """What the last line says; the table goes to stderr."""
    print(f"{'':14}{'ours':>9}{'TRL':>9}{'ratio':>8}   per CPU-second", file=sys.stderr)
    for name, pair in rates.items():
        ratio = pair["ours"] / pair["trl"]
        print(f"{name:14}{pair['ours']:9.1f}{pair['trl']:9.1f}{ratio:8.2f}", file=sys.stderr)
    ratios = {f"{stage}_vs_trl": rates[f"{stage}_bf16"] for stage in PEERS}
    return {
        **{name: round(pair["ours"] / pair["trl"], 3) for name, pair in ratios.items()},
        "max_loss_difference": max(difference.values()),
        "loss_difference": difference,
        "rates": {name: {who: round(rate, 2) for who, rate in pair.items()} for name, pair in rates.items()},
    }


def rate_in_own_process(stage: str, world: Path, precision: str) -> float:
    """Our rate, measured in a fresh process: this module with arguments."""
    return float(peers.run(Path(sys.executable), Path("-m"), "benchmarks.preference", stage, world, precision)["rate"])


def our_rate(stage: str, world: Path, precision: str) -> float:
    """Pairs, or answers, per CPU-second."""
    import torch

    torch.set_num_threads(1)
    work, params, unit = {"reward": reward_work, "dpo": dpo_work, "ppo": ppo_work}[stage](world, precision)
    clock = Clock(work, WARMUP[stage] * unit)
    from tasks.training.language import attention
    from tasks.training.loop.training_loop import run

    with TemporaryDirectory() as folder, attention.packed(getattr(work.model, "policy", work.model)):
        run(work, params, Path(folder), stage)
    return BATCH * STEPS[stage] / (time.process_time() - clock.start)


class Clock:
    """Notes the CPU time at which `work` is asked for the batches of a step."""

    def __init__(self, work: Any, step: int) -> None:
        self.start, original = 0.0, work.batches

        def batches(number: int) -> Sequence[Any]:
            if number == step:
                self.start = time.process_time()
            return list(original(number))

        work.batches = batches


def common_params(stage: str, precision: str, unit: int = 1) -> dict[str, Any]:
    """What all our stages are given; `unit` is the updates that one batch takes."""
    steps = (WARMUP[stage] + STEPS[stage]) * unit
    return {"steps": steps, "learning_rate": 1e-5, "precision": precision, "num_threads": 1, "log_every": 1000}


def reward_work(world: Path, precision: str) -> tuple[Any, Any, int]:
    """Our reward model's work and params."""
    from tasks import models
    from tasks.pairs import read_pairs
    from tasks.training.stages import reward

    params = reward.Params(global_batch_size=BATCH, **common_params("reward", precision))
    tokenizer = models.load_tokenizer(world / "tokens/tokenizer")
    pairs = read_pairs(world / "tokens/preferences/train", 512)
    model = reward.build_model(world / "models/sft", params, tokenizer)
    return reward.RewardWork(model, pairs, None, params, tokenizer.pad_token_id), params, 1


def dpo_work(world: Path, precision: str) -> tuple[Any, Any, int]:
    """Our DPO's work and params. The reference's part of the measured steps is paid inside them, once, as by TRL."""
    from tasks import models
    from tasks.pairs import read_pairs
    from tasks.training.parallel.precision import DTYPES
    from tasks.training.preferences import reference
    from tasks.training.preferences.order import step_indices
    from tasks.training.stages import dpo

    class Referring(dpo.DpoWork):
        """Asks the reference about each batch when it comes, as a first epoch does."""

        def batches(self, step: int) -> Sequence[Any]:
            indices = step_indices(len(pairs), BATCH, step, 0).tolist()
            batch_pairs = reference.PairsWithReference(part(pairs, indices), np.zeros((2, BATCH), np.float32))
            self.train = reference.PairsWithReference(pairs, self.train.reference.copy())
            self.train.reference[:, indices] = reference.reference_log_probs(batch_pairs, frozen, self.pad_id)
            return super().batches(step)

    params = dpo.Params(global_batch_size=BATCH, **common_params("dpo", precision))
    model, tokenizer = models.load_causal(world / "models/sft")
    pairs = read_pairs(world / "tokens/preferences/train", 512)
    frozen = reference.Reference(model, DTYPES[precision])
    with_reference = reference.PairsWithReference(pairs, np.zeros((2, len(pairs)), np.float32))
    return Referring(model, with_reference, None, None, params, tokenizer.pad_token_id), params, 1


def part(pairs: Any, indices: Sequence[int]) -> Any:
    """Some of the pairs."""
    from tasks.pairs import Pairs

    answers = {side: [rows[i] for i in indices] for side, rows in pairs.answers.items()}
    return Pairs([pairs.prompts[i] for i in indices], answers, [""] * len(indices), np.arange(len(indices)))


def ppo_work(world: Path, precision: str) -> tuple[Any, Any, int]:
    """Our PPO's work and params: no evaluation, and no answer that ends early, so that lengths are TRL's."""
    from tasks import models
    from tasks.training.stages import ppo

    params = ppo.Params(
        rollout_size=BATCH,
        num_epochs=EPOCHS,
        max_new_tokens=ANSWER_LENGTH,
        micro_batch_size=BATCH // 2,
        **common_params("ppo", precision, EPOCHS),
    )
    work = ppo.build(params, world, models.load_tokenizer(world / "tokens/tokenizer"))
    work.validation = None
    return work, params, EPOCHS


def loss_difference(stage: str, interpreter: Path, world: Path) -> float:
    """The largest difference between TRL's loss and ours on the batches that TRL wrote down, fp32."""
    path = world / f"oracle-{stage}.npz"
    script = Path(__file__).parent / "preference_peers.py"
    peers.run(interpreter, script, f"{stage}-oracle", world, "fp32", 16, ANSWER_LENGTH, 1, 0, 1, path)
    from benchmarks import preference_oracle

    with np.load(path) as trl_values:
        return float(getattr(preference_oracle, stage)(trl_values, world))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps({"rate": our_rate(sys.argv[1], Path(sys.argv[2]), sys.argv[3])}))
    else:
        main()
