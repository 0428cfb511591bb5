"""TRL on the data of `benchmarks.preference`; this file runs in separate environments.

python preference_peers.py STAGE DATA PRECISION BATCH ANSWER_LENGTH EPOCHS WARMUP STEPS [FILE] -> {"rate": ...}

STAGE-oracle writes one batch with its loss and the inputs of the loss to FILE instead.
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
        """Record the time; every trainer calls this."""
        if state.global_step == self.warmup:
            self.start = time.process_time()
        self.end = time.process_time()


def settings(scratch: Path, precision: str, batch: int) -> Any:
    """The settings of all trainers: no saving, no logging, no recomputation of activations."""
    return {
        "output_dir": scratch, "per_device_train_batch_size": batch, "learning_rate": 1e-5, "bf16": precision == "bf16",
        "use_cpu": True, "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
        "gradient_checkpointing": False, "seed": 0,
    }  # fmt: skip


def tokenizer_of(data: Path) -> Any:
    """The tokenizer in `data`."""
    return AutoTokenizer.from_pretrained(data / "tokens/tokenizer")


def causal(data: Path, name: str = "sft") -> Any:
    """A causal model in `data`, in fp32."""
    return AutoModelForCausalLM.from_pretrained(data / "models" / name, dtype=torch.float32)


def reward_model(data: Path) -> Any:
    """The reward model in `data`, in fp32."""
    return AutoModelForSequenceClassification.from_pretrained(data / "models/reward", num_labels=1, dtype=torch.float32)


def reward_trainer(data: Path, scratch: Path, precision: str, batch: int, steps: int, **more: Any) -> Any:
    """A RewardTrainer with all pairs."""
    from trl import RewardConfig, RewardTrainer

    rows = load_dataset("json", data_files=str(data / "pairs.jsonl"), split="train")
    rows = rows.map(lambda row: {side: row["prompt"] + row[side] for side in ("chosen", "rejected")})
    args = RewardConfig(**settings(scratch, precision, batch), max_steps=steps, max_length=512, **more)
    return RewardTrainer(
        reward_model(data), args=args, train_dataset=rows.remove_columns("prompt"), processing_class=tokenizer_of(data)
    )


def dpo_trainer(data: Path, scratch: Path, precision: str, batch: int, steps: int, policy: Any = None) -> Any:
    """A DPOTrainer with all pairs, which evaluates the reference on every batch, as by default."""
    from trl import DPOConfig, DPOTrainer

    rows = load_dataset("json", data_files=str(data / "pairs.jsonl"), split="train")
    args = DPOConfig(**settings(scratch, precision, batch), max_steps=steps, max_length=512, beta=0.1)
    return DPOTrainer(
        policy or causal(data), causal(data), args=args, train_dataset=rows, processing_class=tokenizer_of(data)
    )


def ppo_trainer(data: Path, scratch: Path, precision: str, batch: int, length: int, epochs: int, steps: int) -> Any:
    """A PPOTrainer with the four models that it requires: policy, reference, reward model and value model."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = tokenizer_of(data)
    tokenizer.padding_side = "left"
    rows = load_dataset("json", data_files=str(data / "pairs.jsonl"), split="train")["prompt"]
    prompts = Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in rows])
    args = PPOConfig(
        **settings(scratch, precision, batch), total_episodes=batch * steps, num_ppo_epochs=epochs, num_mini_batches=1,
        local_rollout_forward_batch_size=batch, response_length=length, num_sample_generations=0, stop_token="eos",
        kl_coef=0.05,
    )  # fmt: skip
    return PPOTrainer(
        args=args, processing_class=tokenizer, model=causal(data), ref_model=causal(data),
        reward_model=reward_model(data), value_model=reward_model(data), train_dataset=prompts, eval_dataset=prompts,
    )  # fmt: skip


def trainer_of(
    stage: str, data: Path, scratch: Path, precision: str, batch: int, length: int, epochs: int, steps: int
) -> Any:
    """Build the trainer of a stage."""
    if stage == "ppo":
        return ppo_trainer(data, scratch, precision, batch, length, epochs, steps)
    trainer = reward_trainer if stage == "reward" else dpo_trainer
    return trainer(data, scratch, precision, batch, steps)


def rate(
    stage: str,
    data: Path,
    scratch: Path,
    precision: str,
    batch: int,
    length: int,
    epochs: int,
    warmup: int,
    steps: int,
) -> Any:
    """Measure pairs or answers per CPU-second."""
    trainer = trainer_of(stage, data, scratch, precision, batch, length, epochs, warmup + steps)
    clock = Clock(warmup)
    trainer.add_callback(clock)
    trainer.train()
    return batch * steps / (clock.end - clock.start)


def reward_oracle(data: Path, scratch: Path, batch: int, length: int) -> Any:
    """A batch of pairs and the ranking loss with centering."""
    trainer = reward_trainer(data, scratch, "fp32", batch, 1, center_rewards_coefficient=0.01)
    inputs = next(iter(trainer.get_train_dataloader()))
    ids, mask = inputs["input_ids"].clone(), inputs["attention_mask"].clone()
    return {"loss": trainer.compute_loss(trainer.model, inputs), "ids": ids, "mask": mask}


def dpo_oracle(data: Path, scratch: Path, batch: int, length: int) -> Any:
    """A batch of pairs and the loss of a policy that differs from its reference."""
    policy = causal(data)
    torch.manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    policy.save_pretrained(data / "models/changed")
    trainer = dpo_trainer(data, scratch, "fp32", batch, 1, policy)
    inputs = next(iter(trainer.get_train_dataloader()))
    kept = {"ids": inputs["input_ids"].clone(), "mask": inputs["completion_mask"].clone()}
    return {"loss": trainer.compute_loss(trainer.model, inputs), **kept}


class BackwardReached(BaseException):
    """Carries the local variables of the training loop of PPO at its backward pass."""


def ppo_oracle(data: Path, scratch: Path, batch: int, length: int) -> Any:
    """The intermediate values of the second of two epochs, in which probability ratios are no longer 1."""
    trainer = ppo_trainer(data, scratch, "fp32", batch, length, 2, 1)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 3e-3
    backward = trainer.accelerator.backward
    calls: list[Any] = []

    def record_backward(loss: Any, **more: Any) -> Any:
        frame = sys._getframe(1).f_locals
        if calls:
            raise BackwardReached(dict(frame))
        calls.append(loss)
        return backward(loss, **more)

    trainer.accelerator.backward = record_backward
    try:
        trainer.train()
    except BackwardReached as reached:
        frame = reached.args[0]
    rows = frame["micro_batch_inds"]
    kept = {name: frame[name] for name in ("rewards", "values", "advantages", "returns", "padding_mask")}
    kept |= {"value_mask": frame["padding_mask_p1"], "rows": torch.as_tensor(rows)}
    kept |= {name: frame[name] for name in ("new_logprobs", "mb_logprobs", "mb_advantage", "vpred", "mb_values")}
    return {**kept, "mb_return": frame["mb_return"], "loss": frame["pg_loss"], "value_loss": frame["vf_loss"]}


def main() -> None:
    """Print JSON on the last line."""
    stage, data, precision, *sizes = sys.argv[1:]
    path = sizes.pop() if stage.endswith("-oracle") else None
    batch, length, epochs, warmup, steps = map(int, sizes)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if path is None:
            print(
                json.dumps({"rate": rate(stage, Path(data), scratch, precision, batch, length, epochs, warmup, steps)})
            )
            return
        oracles = {"reward-oracle": reward_oracle, "dpo-oracle": dpo_oracle, "ppo-oracle": ppo_oracle}
        values = oracles[stage](Path(data), scratch, batch, length)
        np.savez(path, **{name: value.detach().numpy() for name, value in values.items()})
        print(json.dumps({"written": path}))


if __name__ == "__main__":
    main()
