"""Reward model, DPO and PPO beside TRL: speed with equal precision, model and lengths; losses on equal batches.

    make bench NAME=preference

Rates are per CPU-second of one core. Each engine runs in its own process with one thread; rounds alternate, and the
best round of each engine counts. PPO is compared with TRL 1.12, the last version that has it (4 epochs per rollout,
answers of a fixed length); DPO and the reward model are compared with the newest TRL and its defaults.
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
BATCH, ANSWER_LENGTH, EPOCHS = 64, 16, 4  # pairs or prompts per batch; tokens; epochs per rollout of PPO
STEPS = {"reward": 12, "dpo": 10, "ppo": 3}  # number of batches that are measured, after WARMUP
WARMUP = {"reward": 3, "dpo": 3, "ppo": 1}


def main() -> None:
    """Print a table on stderr and one line of JSON on stdout."""
    scripts = Path(__file__).parent
    interpreters = {stage: peers.python(f"trl-{v}", [f"trl=={v}", *COMMON]) for stage, v in PEERS.items()}
    rates: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as workspace:
        data = preference_world.make(Path(workspace))
        for _ in range(ROUNDS):
            for stage in PEERS:
                for precision in PRECISIONS:
                    name = f"{stage}_{precision}"
                    sizes = (stage, data, precision, BATCH, ANSWER_LENGTH, EPOCHS, WARMUP[stage], STEPS[stage])
                    trl_result = peers.run(interpreters[stage], scripts / "preference_peers.py", *sizes)
                    new_rates = {"ours": rate_in_own_process(stage, data, precision), "trl": trl_result["rate"]}
                    rates[name] = {who: max(rate, rates.get(name, {}).get(who, 0.0)) for who, rate in new_rates.items()}
        difference = {stage: loss_difference(stage, interpreters[stage], data) for stage in PEERS}
    print(json.dumps(summary(rates, difference)))


def summary(rates: dict[str, dict[str, float]], difference: dict[str, float]) -> dict[str, Any]:
    """Print the table on stderr; return the content of the last line."""
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


def rate_in_own_process(stage: str, data: Path, precision: str) -> float:
    """Our rate, measured in a new process that runs this module with arguments."""
    return float(peers.run(Path(sys.executable), Path("-m"), "benchmarks.preference", stage, data, precision)["rate"])


def our_rate(stage: str, data: Path, precision: str) -> float:
    """Measure our pairs or answers per CPU-second."""
    import torch

    torch.set_num_threads(1)
    work, params, unit = {"reward": reward_work, "dpo": dpo_work, "ppo": ppo_work}[stage](data, precision)
    clock = Clock(work, WARMUP[stage] * unit)
    from tasks.causal import attention
    from tasks.training.loop.training_loop import run

    with TemporaryDirectory() as folder, attention.packed(getattr(work.model, "policy", work.model)):
        run(work, params, Path(folder), stage)
    return BATCH * STEPS[stage] / (time.process_time() - clock.start)


class Clock:
    """Records the CPU time at which the loop requests the batches of a given step from `work`."""

    def __init__(self, work: Any, step: int) -> None:
        self.start, original = 0.0, work.batches

        def batches(number: int) -> Sequence[Any]:
            if number == step:
                self.start = time.process_time()
            return list(original(number))

        work.batches = batches


def common_params(stage: str, precision: str, unit: int = 1) -> dict[str, Any]:
    """The params that all our stages get; `unit` is the number of updates per batch."""
    steps = (WARMUP[stage] + STEPS[stage]) * unit
    return {"steps": steps, "learning_rate": 1e-5, "precision": precision, "num_threads": 1, "log_every": 1000}


def reward_work(data: Path, precision: str) -> tuple[Any, Any, int]:
    """Work and params of our reward model, and the updates per batch."""
    from tasks import models
    from tasks.pairs import read_pairs
    from tasks.training.stages import reward

    params = reward.Params(global_batch_size=BATCH, **common_params("reward", precision))
    tokenizer = models.load_tokenizer(data / "tokens/tokenizer")
    pairs = read_pairs(data / "tokens/preferences/train", 512)
    model = reward.build_model(data / "models/sft", params, tokenizer)
    return reward.RewardWork(model, pairs, None, params, tokenizer.pad_token_id), params, 1


def dpo_work(data: Path, precision: str) -> tuple[Any, Any, int]:
    """Work and params of our DPO. As in TRL, the measured steps include the reference's log-probabilities, once."""
    from tasks import models
    from tasks.pairs import read_pairs
    from tasks.training.parallel.precision import DTYPES
    from tasks.training.preferences import reference
    from tasks.training.preferences.order import step_indices
    from tasks.training.stages import dpo

    class DpoWithReference(dpo.DpoWork):
        """Computes the log-probabilities of the reference batch by batch, as the first epoch of TRL does."""

        def batches(self, step: int) -> Sequence[Any]:
            indices = step_indices(len(pairs), BATCH, step, 0).tolist()
            batch_pairs = reference.WithReference(part(pairs, indices), np.zeros((2, BATCH), np.float32))
            self.train = reference.WithReference(pairs, self.train.reference.copy())
            self.train.reference[:, indices] = reference.reference_log_probs(batch_pairs, frozen, self.pad_id)
            return super().batches(step)

    params = dpo.Params(global_batch_size=BATCH, **common_params("dpo", precision))
    model, tokenizer = models.load_causal(data / "models/sft")
    pairs = read_pairs(data / "tokens/preferences/train", 512)
    frozen = reference.Reference(model, DTYPES[precision])
    with_reference = reference.WithReference(pairs, np.zeros((2, len(pairs)), np.float32))
    return DpoWithReference(model, with_reference, None, None, params, tokenizer.pad_token_id), params, 1


def part(pairs: Any, indices: Sequence[int]) -> Any:
    """The pairs with these numbers."""
    from tasks.pairs import Pairs

    answers = {side: [rows[i] for i in indices] for side, rows in pairs.answers.items()}
    return Pairs([pairs.prompts[i] for i in indices], answers, [""] * len(indices), np.arange(len(indices)))


def ppo_work(data: Path, precision: str) -> tuple[Any, Any, int]:
    """Work and params of our PPO, without evaluation. Random models do not end answers, so that lengths equal TRL's."""
    from tasks import models
    from tasks.training.stages import ppo

    params = ppo.Params(
        rollout_size=BATCH,
        num_epochs=EPOCHS,
        max_new_tokens=ANSWER_LENGTH,
        micro_batch_size=BATCH // 2,
        **common_params("ppo", precision, EPOCHS),
    )
    work = ppo.build(params, data, models.load_tokenizer(data / "tokens/tokenizer"))
    work.validation = None
    return work, params, EPOCHS


def loss_difference(stage: str, interpreter: Path, data: Path) -> float:
    """The largest difference between our loss and that of TRL, on batches that TRL has written to a file, in fp32."""
    path = data / f"oracle-{stage}.npz"
    script = Path(__file__).parent / "preference_peers.py"
    peers.run(interpreter, script, f"{stage}-oracle", data, "fp32", 16, ANSWER_LENGTH, 1, 0, 1, path)
    from benchmarks import preference_oracle

    with np.load(path) as trl_values:
        return float(getattr(preference_oracle, stage)(trl_values, data))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps({"rate": our_rate(sys.argv[1], Path(sys.argv[2]), sys.argv[3])}))
    else:
        main()
