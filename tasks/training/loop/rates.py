"""The optimizer's settings by the origin of the weights: random weights of this pipeline, or a trained base.

Rates that are right for a small model with random weights destroy a trained one. Published rates of trained models with
about 7e9 weights are: continued pretraining 5e-5 (re-warmed as in arXiv:2403.08763), sft 2e-5 (Alpaca, Llama 2,
arXiv:2307.09288), reward model 1e-5 (Llama 2), ppo 1e-6 (Llama 2), dpo 5e-7 (Zephyr, arXiv:2310.16944). Larger models
have smaller rates; the cube root of the number of weights fits 13e9 and 70e9, too. LoRA takes about ten times the rate
(QLoRA, arXiv:2305.14314: 2e-4 for 7e9 weights; "LoRA Without Regret", Thinking Machines 2025).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from tasks.errors import GateFailed
from tasks.reports import Report
from tasks.training.loop import optimizers
from tasks.training.loop.replay_params import Replay

PUBLISHED = {"pretrain": 5e-5, "sft": 2e-5, "reward": 1e-5, "ppo": 1e-6, "dpo": 5e-7}
PUBLISHED_WEIGHTS = 7e9
MAX_FACTOR = 10.0  # of the published rate, for small models
ADAPTER_FACTOR = 10.0
WARMUP_SHARE = 0.03
# Share of rows with text of the base in a stage that would forget it, unless params.yaml states another.
REPLAY_SHARES = {"pretrain": 0.05, "sft": 0.35}


class FromScratch(BaseModel, frozen=True, extra="forbid"):
    """Settings of the optimizer for weights that this pipeline has trained from random ones."""

    optimizer: optimizers.Name | None = Field(None, description="As `optimizer` of the stage.")
    learning_rate: float | None = Field(None, gt=0, description="As `learning_rate` of the stage.")
    embedding_learning_rate: float | None = Field(None, gt=0, description="As `embedding_learning_rate` of the stage.")
    warmup_steps: int | None = Field(None, ge=0, description="As `warmup_steps` of the stage.")
    min_learning_rate_ratio: float | None = Field(
        None, ge=0, le=1, description="As `min_learning_rate_ratio` of the stage."
    )
    weight_decay: float | None = Field(None, ge=0, description="As `weight_decay` of the stage.")


def apply_from_scratch(section: Any) -> Any:
    """A section of params.yaml with the settings of its `from_scratch` for the keys that it does not state itself.

    `from_scratch` then contains only these settings, so that a trained base can replace them.
    """
    stated = section.get("from_scratch") if isinstance(section, Mapping) else None
    if isinstance(stated, FromScratch):
        return section  # it was applied already
    if not isinstance(stated, Mapping):
        return section
    applied = {key: value for key, value in stated.items() if section.get(key) is None}
    return {**section, **applied, "from_scratch": applied}


def resolve(params: Any, kind: str, data: Path) -> tuple[Any, list[str]]:
    """The params of a stage for the origin of its weights, and a note for the report if that is a trained base.

    Settings that params.yaml states in the section itself stay as they are. Raises BadModel.
    """
    from tasks.training.loop import origins

    base = origins.base_of(params, kind, data)
    if base is None or not origins.is_trained_base(base):
        return params.model_copy(update={"from_scratch": None}), []
    count, adapter = origins.num_weights(base), getattr(params, "adapter", None)
    settings: dict[str, Any] = {
        "optimizer": "adamw",
        "learning_rate": published_rate(kind, count, adapter is not None),
        "embedding_learning_rate": None,
        "warmup_steps": math.ceil(WARMUP_SHARE * params.steps),
        "min_learning_rate_ratio": 0.1,
        "weight_decay": 0.1 if kind == "pretrain" else 0.0,
        "evaluate_first": kind in ("pretrain", "sft", "reward"),
    }
    if kind in REPLAY_SHARES and getattr(params, "objective", "causal") == "causal":
        settings["replay"] = Replay.model_validate({"share": REPLAY_SHARES[kind]})
    applied = params.from_scratch.model_fields_set if params.from_scratch is not None else set()
    stated = params.model_fields_set - applied
    update = {key: value for key, value in settings.items() if key not in stated}
    resolved = params.model_copy(update={**update, "from_scratch": None})
    note = (
        f"{kind}: the weights descend from {base} ({count:.2g} weights), so that the optimizer is "
        f"{resolved.optimizer} with the learning rate {resolved.learning_rate:.2g}"
    )
    return resolved, [note + (", as params.yaml states." if "learning_rate" in stated else ".")]


def published_rate(kind: str, num_weights: float, has_adapter: bool) -> float:
    """The learning rate for a trained base with this number of weights, to two digits."""
    factor = min(MAX_FACTOR, (PUBLISHED_WEIGHTS / max(1.0, num_weights)) ** (1 / 3))
    return float(f"{PUBLISHED[kind] * factor * (ADAPTER_FACTOR if has_adapter else 1):.2g}")


def check_gain(report: Report, params: Any) -> None:
    """Raise GateFailed if the validation loss is higher at the end than before the first step, unless that is allowed.

    To be called after the report is written.
    """
    rows = [row for row in report.tables.get("steps", []) if row.get("validation_loss") is not None]
    if len(rows) < 2 or rows[0]["step"] != 0 or getattr(params, "may_end_worse", True):
        return
    name = report.stage
    first, last = rows[0]["validation_loss"], rows[-1]["validation_loss"]
    if getattr(params, "keep_best", False):
        last = min(row["validation_loss"] for row in rows)
    if not last <= first:
        raise GateFailed(
            f"{name} has made its base worse: the validation loss was {first:.4g} before the first step and is "
            f"{last:.4g} after the last one. Everything is written; see data/reports/{name}. Lower "
            f"`{name}.learning_rate` or `{name}.steps`, set `{name}.keep_best: true`, or accept it by "
            f"`{name}.may_end_worse: true`."
        )
