"""Data folders with a model and a report, as small as promotion accepts them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.evaluation.items import Item, write
from tasks.files import sha256, write_json
from tasks.pipeline_stages import PipelineStage

STAGES = [PipelineStage("pretrain", "pretrain", True, 1), PipelineStage("sft", "sft", True, 2)]
N = 200


def make_model(data: Path, content: str, stage: str = "sft") -> str:
    """Write a model folder with a manifest; return the sha256 of the manifest."""
    folder = data / "models" / stage
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("config.json", "{}"), ("model.safetensors", content)):
        (folder / name).unlink(missing_ok=True)  # as DVC does: older versions keep the old bytes
        (folder / name).write_text(text)
    write_json(folder / "athanor.json", {"schema_version": 1, "stage": stage, "base": "data/models/pretrain"})
    names = ("config.json", "model.safetensors", "athanor.json")
    write_json(folder / "manifest.json", {name: sha256(folder / name) for name in names})
    return sha256(folder / "manifest.json")


def make_report(data: Path, gain: float, stage: str = "sft", seed: int = 0, digest: str = "", **changes: Any) -> None:
    """Write a report of the model below `data`, whose scores are those of a fixed model plus `gain`."""
    base = np.random.default_rng(0).random(N)
    noise = np.random.default_rng(seed).normal(0, 0.05, N) if seed else 0.0
    items = [
        Item("gold", stage, f"id{index}", "", f"question {index}", "answer", float(score))
        for index, score in enumerate(base + gain + noise)
    ]
    write(data / "reports" / "evaluation" / "items" / "gold", items)
    digest = digest or sha256(data / "models" / stage / "manifest.json")
    body = {
        "schema_version": 1,
        "gates_checked": 2,
        "gates_failed": 0,
        "measured": {"models": {stage: digest}, "test": {}, "contamination": ""},
        "gold": {stage: {"value": 0.5 + gain, "low": 0.4 + gain, "high": 0.6 + gain, "n": N}},
    }
    (data / "reports").mkdir(exist_ok=True)
    (data / "reports" / "evaluation.json").write_text(json.dumps(body | changes))


def make_run(data: Path, gain: float, content: str, **changes: Any) -> None:
    """A run with another model and its report."""
    make_model(data, content)
    make_report(data, gain, **changes)
