"""Over-optimization of a planted flaw: PPO with a reward model that prefers long answers, with and without the guard.

    make bench NAME=over_optimization

It prints score, gold reward and KL by step (the curves of Gao 2022, arXiv:2210.10760) and the note of the guarded run.
Gold is the verifiable measure of the source numbers, which nothing here is trained on. It takes some minutes.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks import models, tables
from tasks.conversations import CONVERSATIONS, PREFERENCES, Conversation, Preference
from tasks.ingestion.sources import numbers
from tasks.reports import Report, Timings
from tasks.tokenization import bpe, records
from tasks.training.shape import architecture
from tasks.training.stages import ppo, reward, sft

SHAPE = architecture.Architecture(width=96, num_layers=3, num_heads=3, max_length=128)
NUMBERS = numbers.Params(max=999, num_conversations=6000, num_preferences=1500)
SPLITS = ("train",) * 9 + ("validation",)
COMMON: dict[str, Any] = {"warmup_steps": 10, "weight_decay": 0.0, "max_spike": None}
PPO_PARAMS: dict[str, Any] = {
    "steps": 120, "learning_rate": 3e-4, "rollout_size": 64, "num_epochs": 2, "max_new_tokens": 32,
    "evaluate_every": 8, "rewards": {"kl_coef": {"initial": 0.0}},
}  # fmt: skip


def main() -> None:
    """Print tables on stderr and one line of JSON on stdout."""
    with TemporaryDirectory() as workspace:
        data = write_data(Path(workspace))
        train(sft, data, steps=500, learning_rate=3e-3, global_batch_size=8)
        train(reward, data, steps=150, learning_rate=1e-3)
        unguarded = train(ppo, data, **PPO_PARAMS, guard={"max_kl": None, "min_drop": 1e9})
        show("without the guard", unguarded)
        guarded = train(ppo, data, **PPO_PARAMS, guard={"max_kl": None})
        show("with the guard", guarded)
    print(json.dumps({**ends("blind", unguarded), **ends("guarded", guarded), "says": guarded.notes[0]}))


def write_data(data: Path) -> Path:
    """Write token files of the source numbers, pairs whose chosen answer is the longer one, and a random model."""
    for kind, schema, rows in (
        ("conversations", CONVERSATIONS, list(conversations())),
        ("preferences", PREFERENCES, list(flawed_pairs())),
    ):
        with tables.Writer(data / kind / "curated", schema) as writer:
            for row in rows:
                writer.add_row(row)
    texts = (message["content"] for row in conversations() for message in row["messages"])
    tokenizer = bpe.train(texts, 340)
    bpe.save(data / "tokens/tokenizer", tokenizer)
    records.write_conversations(
        tokenizer, data / "conversations/curated", data / "tokens", records.Packing(128, False, 0)
    )
    records.write_preferences(tokenizer, data / "preferences/curated", data / "tokens/preferences")
    records.write_prompts(tokenizer, data, data / "tokens/prompts")
    (data / "tokens/manifest.json").write_text(json.dumps({"sequence_length": 128}))
    models.save(data / "models/pretrain", architecture.build(SHAPE, tokenizer, 0), tokenizer, {"stage": "pretrain"})
    return data


def conversations() -> Iterator[dict[str, Any]]:
    """Conversations of the source numbers; every tenth number is for validation."""
    for record in numbers.read(NUMBERS):
        if isinstance(record, Conversation):
            yield record.row("numbers", SPLITS[int(record.group.split(":")[1]) % len(SPLITS)])


def flawed_pairs() -> Iterator[dict[str, Any]]:
    """The flaw: the chosen answer repeats the correct answer more often than the rejected one."""
    dice = random.Random(0)
    for record in numbers.read(NUMBERS):
        if isinstance(record, Preference):
            times = dice.sample((1, 2, 3, 4), 2)
            row = record.row("numbers", SPLITS[int(record.group.split(":")[1]) % len(SPLITS)])
            yield row | {side: record.chosen * t for side, t in zip(("rejected", "chosen"), sorted(times), strict=True)}


def train(stage: Any, data: Path, **changes: Any) -> Report:
    """Train one stage, with its checkpoints in a temporary folder."""
    params = stage.Params(**{**COMMON, **changes})
    name = stage.__name__.rsplit(".", 1)[-1]
    with TemporaryDirectory() as checkpoints:
        report: Report = stage.train(params, data, Path(checkpoints), Timings(name, data / "timings"))
    return report


def show(title: str, report: Report) -> None:
    """Print the evaluations of one run."""
    print(f"\n{title}\n{'step':>6}{'score':>9}{'gold':>8}{'kl':>8}{'length':>8}", file=sys.stderr)
    for row in report.tables["curve"]:
        numbers_of = (row[name] for name in ("score", "gold", "kl", "length"))
        print(f"{row['step']:6.0f}" + "".join(f"{n:{w}.2f}" for n, w in zip(numbers_of, (9, 8, 8, 8), strict=True)),
              file=sys.stderr)  # fmt: skip


def ends(name: str, report: Report) -> dict[str, Any]:
    """The first and last score, and the first, best and last gold reward."""
    first, last = report.tables["curve"][0], report.tables["curve"][-1]
    best = max(row["gold"] for row in report.tables["curve"])
    return {
        f"{name}_steps": int(last["step"]),
        f"{name}_score": [round(first["score"], 3), round(last["score"], 3)],
        f"{name}_gold": [round(first["gold"], 3), round(best, 3), round(last["gold"], 3)],
    }


if __name__ == "__main__":
    main()
