"""What a training stage reads and writes below the data folder: its base model, its tokens, its model and its report.

A stage has a name and a kind. Usually they are the same; `mid: {stage: sft, ...}` in params.yaml is a stage of the kind
sft with the name mid. The name decides the outputs, data/models/<name> and data/reports/<name>.json.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import models
from tasks.reports import Report, Timings
from tasks.training.loop import curves


def base_model(base: str | None, default: str, data: Path) -> str | Path:
    """The model that a stage starts from: `base`, or the model of the stage `default` if `base` is None."""
    # Without a look at the disk: if the default is missing, the error names its folder instead of asking the hub.
    return data / "models" / default if base is None else find_model(base, data)


def find_model(base: str, data: Path) -> str | Path:
    """The model of the stage `base` if there is one, else `base` itself, which is a model folder or a hub name."""
    folder = data / "models" / base
    return folder if folder.is_dir() else base


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
        models.save(data / "models" / name, model, tokenizer, origin)
    return curves.report(name, rows, counts, notes)


def _place_independent(base: str | Path, data: Path) -> str:
    """The name of a base model, without the place of the data folder: the same run gives the same bytes anywhere."""
    if isinstance(base, Path) and base.is_relative_to(data):
        return f"data/{base.relative_to(data).as_posix()}"
    return str(base)
