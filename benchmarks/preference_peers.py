"""TRL on the world of `benchmarks.preference`; run in environments of its own.

python preference_peers.py STAGE WORLD PRECISION BATCH ANSWER_LENGTH EPOCHS WARMUP STEPS [FILE] -> {"rate": ...}

STAGE-oracle writes one batch, its loss and what it was made from into FILE instead.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
warnings.filterwarnings("ignore")
torch.set_num_threads(1)


class Clock(TrainerCallback):  # type: ignore[misc]
    """CPU seconds from the end of step `warmup` to the end of training."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.start, self.end = warmup, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer, PPO's too."""
        if state.global_step == self.warmup:
            self.start = time.process_time()
        self.end = time.process_time()


def settings(scratch: Path, precision: str, batch: int) -> Any:
    """What all trainers are given: no saving, no logging, no recomputed activations."""
    return {
        "output_dir": scratch, "per_device_train_batch_size": batch, "learning_rate": 1e-5, "bf16": precision == "bf16",
        "use_cpu": True, "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
        "gradient_checkpointing": False, "seed": 0,
    }  # fmt: skip


def tokenizer_of(world: Path) -> Any:
    """The tokenizer of the world."""
    return AutoTokenizer.from_pretrained(world / "tokens/tokenizer")


def causal(world: Path, name: str = "sft") -> Any:
    """A causal model of the world, fp32."""
    return AutoModelForCausalLM.from_pretrained(world / "models" / name, dtype=torch.float32)


def judge(world: Path) -> Any:
    """The reward model of the world, fp32."""
    return AutoModelForSequenceClassification.from_pretrained(
        world / "models/reward", num_labels=1, dtype=torch.float32
    )


def reward_trainer(world: Path, scratch: Path, precision: str, batch: int, steps: int, **more: Any) -> Any:
    """RewardTrainer on all pairs."""
    from trl import RewardConfig, RewardTrainer

    rows = load_dataset("json", data_files=str(world / "pairs.jsonl"), split="train")
    rows = rows.map(lambda row: {side: row["prompt"] + row[side] for side in ("chosen", "rejected")})
    args = RewardConfig(**settings(scratch, precision, batch), max_steps=steps, max_length=512, **more)
    return RewardTrainer(
        judge(world), args=args, train_dataset=rows.remove_columns("prompt"), processing_class=tokenizer_of(world)
    )


def dpo_trainer(world: Path, scratch: Path, precision: str, batch: int, steps: int, policy: Any = None) -> Any:
    """DPOTrainer on all pairs, its reference asked about every batch, as it does by default."""
    from trl import DPOConfig, DPOTrainer

    rows = load_dataset("json", data_files=str(world / "pairs.jsonl"), split="train")
    args = DPOConfig(**settings(scratch, precision, batch), max_steps=steps, max_length=512, beta=0.1)
    return DPOTrainer(
        policy or causal(world), causal(world), args=args, train_dataset=rows, processing_class=tokenizer_of(world)
    )


def ppo_trainer(world: Path, scratch: Path, precision: str, batch: int, length: int, epochs: int, steps: int) -> Any:
    """PPOTrainer: policy, reference, reward model and value model, four models as it wants them."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = tokenizer_of(world)
    tokenizer.padding_side = "left"
    rows = load_dataset("json", data_files=str(world / "pairs.jsonl"), split="train")["prompt"]
    prompts = Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in rows])
    args = PPOConfig(
        **settings(scratch, precision, batch), total_episodes=batch * steps, num_ppo_epochs=epochs, num_mini_batches=1,
        local_rollout_forward_batch_size=batch, response_length=length, num_sample_generations=0, stop_token="eos",
        kl_coef=0.05,
    )  # fmt: skip
    return PPOTrainer(
        args=args, processing_class=tokenizer, model=causal(world), ref_model=causal(world),
        reward_model=judge(world), value_model=judge(world), train_dataset=prompts, eval_dataset=prompts,
    )  # fmt: skip


def trainer_of(
    stage: str, world: Path, scratch: Path, precision: str, batch: int, length: int, epochs: int, steps: int
) -> Any:
    """The trainer of a stage."""
    if stage == "ppo":
        return ppo_trainer(world, scratch, precision, batch, length, epochs, steps)
    trainer = reward_trainer if stage == "reward" else dpo_trainer
    return trainer(world, scratch, precision, batch, steps)


def rate(
    stage: str,
    world: Path,
    scratch: Path,
    precision: str,
    batch: int,
    length: int,
    epochs: int,
    warmup: int,
    steps: int,
) -> Any:
    """Pairs, or answers, per CPU-second."""
    trainer = trainer_of(stage, world, scratch, precision, batch, length, epochs, warmup + steps)
    clock = Clock(warmup)
    trainer.add_callback(clock)
    trainer.train()
    return batch * steps / (clock.end - clock.start)


def reward_oracle(world: Path, scratch: Path, batch: int, length: int) -> Any:
    """A batch of pairs and the ranking loss with centering."""
    trainer = reward_trainer(world, scratch, "fp32", batch, 1, center_rewards_coefficient=0.01)
    inputs = next(iter(trainer.get_train_dataloader()))
    ids, mask = inputs["input_ids"].clone(), inputs["attention_mask"].clone()
    return {"loss": trainer.compute_loss(trainer.model, inputs), "ids": ids, "mask": mask}


def dpo_oracle(world: Path, scratch: Path, batch: int, length: int) -> Any:
    """A batch of pairs and the loss of a policy that has moved away from its reference."""
    policy = causal(world)
    torch.manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    policy.save_pretrained(world / "models/moved")
    trainer = dpo_trainer(world, scratch, "fp32", batch, 1, policy)
    inputs = next(iter(trainer.get_train_dataloader()))
    kept = {"ids": inputs["input_ids"].clone(), "mask": inputs["completion_mask"].clone()}
    return {"loss": trainer.compute_loss(trainer.model, inputs), **kept}


class Caught(BaseException):
    """Carries what PPO's training loop held when it came to its backward pass."""


def ppo_oracle(world: Path, scratch: Path, batch: int, length: int) -> Any:
    """The inner values of the second of two epochs, where ratios are no longer 1."""
    trainer = ppo_trainer(world, scratch, "fp32", batch, length, 2, 1)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 3e-3
    backward = trainer.accelerator.backward
    calls: list[Any] = []

    def listening(loss: Any, **more: Any) -> Any:
        frame = sys._getframe(1).f_locals
        if calls:
            raise Caught(dict(frame))
        calls.append(loss)
        return backward(loss, **more)

    trainer.accelerator.backward = listening
    try:
        trainer.train()
    except Caught as caught:
        frame = caught.args[0]
    rows = frame["micro_batch_inds"]
    kept = {name: frame[name] for name in ("rewards", "values", "advantages", "returns", "padding_mask")}
    kept |= {"value_mask": frame["padding_mask_p1"], "rows": torch.as_tensor(rows)}
    kept |= {name: frame[name] for name in ("new_logprobs", "mb_logprobs", "mb_advantage", "vpred", "mb_values")}
    return {**kept, "mb_return": frame["mb_return"], "loss": frame["pg_loss"], "value_loss": frame["vf_loss"]}


def main() -> None:
    """Print JSON on the last line."""
    stage, world, precision, *sizes = sys.argv[1:]
    path = sizes.pop() if stage.endswith("-oracle") else None
    batch, length, epochs, warmup, steps = map(int, sizes)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if path is None:
            print(
                json.dumps({"rate": rate(stage, Path(world), scratch, precision, batch, length, epochs, warmup, steps)})
            )
            return
        oracles = {"reward-oracle": reward_oracle, "dpo-oracle": dpo_oracle, "ppo-oracle": ppo_oracle}
        values = oracles[stage](Path(world), scratch, batch, length)
        np.savez(path, **{name: value.detach().numpy() for name, value in values.items()})
        print(json.dumps({"written": path}))


if __name__ == "__main__":
    main()
