"""Where the weights of a stage come from: from random weights of this pipeline, or from a trained checkpoint."""

from pathlib import Path
from typing import Any

from tasks import models
from tasks.files import read_json
from tasks.training.loop import stage_files


def base_of(params: Any, kind: str, data: Path) -> str | Path | None:
    """The model that a stage starts from; None for random weights. Raises BadModel."""
    if kind == "pretrain":
        return None if params.base is None else stage_files.find_model(params.base, data)
    return stage_files.base_model(params.base, stage_files.DEFAULT_BASES[kind], data)


def is_trained_base(base: str | Path | None) -> bool:
    """Whether a model descends from a checkpoint that this pipeline has not trained from random weights.

    The file athanor.json of a folder names the base of its model. A name on the hub, a folder without this file and one
    whose base cannot be found are trained bases.
    """
    while base is not None:
        folder = Path(base)
        if not (folder / models.ORIGIN).is_file():
            return folder.is_dir() or not isinstance(base, Path)
        stated = read_json(folder / models.ORIGIN).get("base")
        if stated is not None and str(stated).startswith("data/"):
            # data/models/<stage>, relative to the project of the folder
            base = folder.resolve().parent.parent / str(stated).removeprefix("data/")
            if not base.is_dir():
                return True
        else:
            base = stated
    return False


def num_weights(base: str | Path) -> int:
    """The number of weights of a checkpoint, counted on a model without memory. Raises BadModel."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        return int(AutoModel.from_config(models.load_config(base)).num_parameters())
