"""What a training stage reads and writes below the data folder: its base model, its tokens, its model and its report.

A stage has a name and a kind. Usually they are the same; `mid: {stage: sft, ...}` in params.yaml is a stage of the kind
sft with the name mid. The name decides the outputs, data/models/<name> and data/reports/<name>.json.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tasks import models
from tasks.errors import BadModel
from tasks.files import MANIFEST, read_json
from tasks.reports import Report, Timings
from tasks.training.loop import curves

# Kind of stage -> the table of tokens that it reads -> the count that says whether there is anything in it.
NEEDED = {
    "pretrain": {"documents": "num_documents"},
    "sft": {"conversations": "num_conversations"},
    "reward": {"preferences": "num_pairs"},
    "dpo": {"preferences": "num_pairs"},
    "ppo": {"prompts": "num_prompts"},
}
DEFAULT_BASES = {"sft": "pretrain", "reward": "sft", "dpo": "sft", "ppo": "sft"}


def base_model(base: str | None, default: str, data: Path) -> str | Path:
    """The model that a stage starts from: `base`, or the model of the stage `default` if `base` is None.

    If that stage was left out, its own base is the model. Raises BadModel if it has none.
    """
    # Without a look at the disk: if the default is missing, the error names its folder instead of asking the hub.
    return _resolve(data / "models" / default, data) if base is None else find_model(base, data)


def find_model(base: str, data: Path) -> str | Path:
    """The model of the stage `base` if there is one, else `base` itself, which is a model folder or a hub name."""
    folder = data / "models" / base
    return _resolve(folder if folder.is_dir() else base, data)


def _resolve(model: str | Path, data: Path) -> str | Path:
    """`model`, or the model that a stage would have started from that was left out. Raises BadModel."""
    reason = models.left_out(Path(model))
    if reason is None:
        return model
    base = models.base_of_left_out(Path(model))
    if base is None:
        raise BadModel(
            f"there is no model to start from: the stage {Path(model).name} was left out ({reason}). Set `base` of "
            f"this stage or of {Path(model).name} in params.yaml to a model, a folder or a name on the hub."
        )
    return _resolve(data / base.removeprefix("data/") if base.startswith("data/") else base, data)


def left_out(kind: str, params: Any, data: Path) -> str | None:
    """Why a stage of the kind `kind` has nothing to train on; None if it has.

    That is so if no record of its kind reached tokenization. If curation drops all of them, it ends with an error.
    """
    manifest = tokens_folder(getattr(params, "data", None), data) / MANIFEST
    counts = read_json(manifest) if manifest.is_file() else {}
    for table, count in NEEDED.get(kind, {}).items():
        by_split = counts.get(table, {}).values()
        if by_split and not any(of_split[count] + of_split.get("num_dropped", 0) for of_split in by_split):
            num_unpaired = sum(of_split.get("num_unpaired", 0) for of_split in by_split)
            if not num_unpaired:
                return f"the data has no {table}"
            if getattr(params, "loss", None) != "kto":
                return f"the data has no preference pairs, only {num_unpaired} answers for dpo with loss: kto"
    if kind == "ppo" and params.reward_model_weight and params.reward_model is None:
        reason = models.left_out(data / "models" / "reward")
        return reason and f"there is no reward model, because {reason}"
    return None


def leave_out(name: str, kind: str, params: Any, data: Path, reason: str) -> Report:
    """Write data/models/<name> without a model, and return the report that says why."""
    base = params.base
    if kind != "pretrain" and base is None:
        base = data / "models" / DEFAULT_BASES[kind]
    models.write_left_out(data / "models" / name, reason, None if base is None else _place_independent(base, data))
    # The table is there because DVC warns of an empty folder.
    tables = {"left_out": [{"stage": name, "reason": reason}]}
    return Report(name, counts={"steps": 0, "left_out": 1}, notes=[f"LEFT OUT: {reason}"], tables=tables)


def tokens_folder(tokens: str | None, data: Path) -> Path:
    """The folder of token files that a stage reads."""
    return data / "tokens" if tokens is None else Path(tokens)


def load_tokenizer(tokens: Path, data: Path) -> Any:
    """The tokenizer in a folder of token files, or that of the run if the folder has none. Raises BadModel."""
    folder = tokens / "tokenizer"
    return models.load_tokenizer(folder if folder.is_dir() else data / "tokens/tokenizer")


def finish(
    name: str,
    params: Any,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    data: Path,
    timings: Timings,
    base: str | Path | None,
    counts: Mapping[str, int],
    notes: Sequence[str] = (),
) -> Report:
    """Save the trained model to data/models/<name> and return the report of its step log `rows`."""
    origin = {
        "stage": name,
        "kind": type(params).__module__.rsplit(".", 1)[-1],
        "base": None if base is None else _place_independent(base, data),
        "params": params.model_dump(mode="json"),
    }
    with timings.measure("save"):
        models.save(data / "models" / name, model, tokenizer, origin, saved_dtype(params.save_dtype, base))
    return curves.report(name, rows, counts, notes)


def saved_dtype(name: str, base: str | Path | None) -> Any:
    """The precision for the files of a model: `name`, or that of its base if that has 16 bits; None is fp32."""
    if name == "base":
        return None if base is None else models.base_dtype(base)
    return getattr(torch, name)


def _place_independent(base: str | Path, data: Path) -> str:
    """The name of a base model, without the place of the data folder: the same run gives the same bytes anywhere."""
    if isinstance(base, Path) and base.is_relative_to(data):
        return f"data/{base.relative_to(data).as_posix()}"
    return str(base)
