"""Fine-tune a trained base with LoRA by the instructions of the README alone: does it learn the task and forget little?

    make bench NAME=finetune

The base is stories260K of llama2.c, a model of stories for children in `../shared/data`; without it, nothing is
measured. The task is to name the script in which a number is written; the data folder has chats and preferences about
it, but no story. pretrain (`steps: 0`), sft and dpo have the sections of params.yaml with the lines of the README for
one's own model; only the number of steps of sft fits the size of the data. `loss_before` is the loss of the base on
stories that it has written itself, in nats per token, with another seed than those that sft replays; `loss_after` the
larger one of the sft and the dpo model on the same stories; `task` the smaller one of their shares of right greedy
answers to prompts with other numbers.
"""

import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks import stories
from tasks import models, tables
from tasks.conversations import CONVERSATIONS, PREFERENCES, Conversation, Message, Preference
from tasks.documents import SCHEMA
from tasks.evaluation.inputs import EvaluationInputs, SamplingParams
from tasks.evaluation.metrics import accuracy
from tasks.evaluation.scoring import stream_nats
from tasks.ingestion import numerals
from tasks.reports import Report, Timings
from tasks.tokenization import tasks as tokenization
from tasks.tokens import Stream
from tasks.training import tasks as training
from tasks.training.language import base_text
from tasks.training.stages import dpo, pretrain, sft

NUM_CHATS, NUM_PREFERENCES, MAX_NUMBER = 4_000, 1_000, 99_999
NUM_TOKENS, ROW_LENGTH = 16_384, 256  # of the base's own text
SFT_STEPS = 60
WORDINGS = ("How is it written: {}", "In which script is {}?", "Tell me how this number is written: {}")
SCRIPTS: dict[str, Callable[[int], str]] = {
    "Words": numerals.english,
    "Digits": str,
    "Hexadecimal": hex,
}
STAGES: dict[str, Any] = {"pretrain": pretrain, "sft": sft, "dpo": dpo}
POLICIES = ("sft", "dpo")


def section(name: str) -> dict[str, Any]:
    """A section of params.yaml."""
    return dict(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))[name])


def train(name: str, params: dict[str, Any], data: Path) -> Report:
    """Run a stage as its flow does."""
    timings = Timings(name, data / "timings")
    report = training.train.fn(
        name, STAGES[name].Params.model_validate(params), data, data.parent / "checkpoints" / name, timings
    )
    report.write(data / "reports")
    print(name, report.scores, *report.notes, *report.warnings, sep="\n  ", flush=True)
    return report


def tokenize(data: Path, **params: Any) -> None:
    """Run the stage tokenization as its flow does."""
    settings = tokenization.Params(**params, sequence_length=ROW_LENGTH)
    timings = Timings("tokenization", data / "timings")
    tokenizer = tokenization.make_tokenizer.fn(settings, data, timings)
    counts = {
        "documents": tokenization.encode_documents.fn(tokenizer, data, timings),
        "conversations": tokenization.encode_conversations.fn(tokenizer, settings, data, timings),
        "preferences": tokenization.encode_preferences.fn(tokenizer, data, timings),
        "prompts": tokenization.encode_prompts.fn(tokenizer, data, timings),
    }
    tokenization.report.fn(settings, tokenizer, counts, data, timings)


def split_of(number: int) -> str:
    """The split of all records about a number."""
    return {0: "test", 1: "validation"}.get(random.Random(number).randrange(10), "train")


def write_curated(data: Path) -> None:
    """Write chats and preferences about numbers, and no document."""
    rng = random.Random(0)
    with (
        tables.Writer(data / "curated", SCHEMA.append(pa.field("language", pa.string()))),
        tables.Writer(data / "conversations/curated", CONVERSATIONS) as conversations,
        tables.Writer(data / "preferences/curated", PREFERENCES) as preferences,
    ):
        for index in range(NUM_CHATS + NUM_PREFERENCES):
            number, script = int(10 ** rng.uniform(0, np.log10(MAX_NUMBER))), rng.choice(list(SCRIPTS))
            prompt: list[Message] = [{"role": "user", "content": rng.choice(WORDINGS).format(SCRIPTS[script](number))}]
            group, metadata = str(number), {"task": "script", "answer": script, "closing": "."}
            if index < NUM_CHATS:
                messages: list[Message] = [*prompt, {"role": "assistant", "content": f"{script}."}]
                chat = Conversation(str(index), messages, group, metadata)
                conversations.add_row(chat.row("scripts", split_of(number)))
                continue
            wrong = rng.choice([other for other in SCRIPTS if other != script])
            pair = Preference(str(index), prompt, f"{script}.", f"{wrong}.", group, "correct", metadata)
            preferences.add_row(pair.row("scripts", split_of(number)))


def fine_tune(data: Path, base: Path) -> None:
    """Run sft and dpo on `base` with the lines of the README."""
    write_curated(data)
    tokenize(data, tokenizer=str(base.resolve()))
    adapter = {"name": "lora", "rank": 16}
    train("pretrain", {"base": str(base.resolve()), "steps": 0}, data)
    train("sft", section("sft") | {"adapter": adapter, "micro_batch_size": 4, "steps": SFT_STEPS}, data)
    train("dpo", section("dpo") | {"adapter": adapter}, data)


def own_loss(folder: Path, text: Stream) -> float:
    """The mean loss of a model on `text`."""
    model, _ = models.load_causal(folder)
    rows = range(text.num_rows(ROW_LENGTH))
    return float(np.concatenate(stream_nats(model, text, rows, ROW_LENGTH, 16)).mean())


def right_answers(data: Path) -> dict[str, float]:
    """The share of right greedy answers of each policy to the prompts of the split test."""
    params = SamplingParams.model_validate({"policies": POLICIES, "num_prompts": 200, "max_new_tokens": 16})
    scores = accuracy.measure(EvaluationInputs(data, params), accuracy.Params()).scores
    return {name: float(score.value) for name, score in scores["exact_match"].items()}


def main() -> None:
    """Print the results as one line of JSON at the end."""
    if not stories.SOURCE.is_dir():
        sys.exit(f"not measured: {stories.SOURCE} does not exist")
    with tempfile.TemporaryDirectory() as folder:
        base, data = Path(folder) / "base", Path(folder) / "task/data"
        stories.write(base)
        model, tokenizer = models.load_causal(base)
        text = base_text.sample_documents(model, tokenizer, NUM_TOKENS, ROW_LENGTH, 1, "benchmark")
        before = own_loss(base, text)
        print(f"base: loss on its own text {before:.4f}", flush=True)
        fine_tune(data, base)
        after = {name: own_loss(data / "models" / name, text) for name in POLICIES}
        task = right_answers(data)
    for name in POLICIES:
        print(f"{name}: loss on the base's text {after[name]:.4f}, right answers {task[name]:.3f}")
    body = {"loss_before": before, "loss_after": max(after.values()), "task": min(task.values())}
    print(json.dumps({key: round(value, 4) for key, value in body.items()}))


if __name__ == "__main__":
    main()
