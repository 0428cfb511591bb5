"""The base of a stage: where its weights come from, how many it has, and how long its context is."""

from pathlib import Path
from typing import Any

from tasks import models
from tasks.causal.backbone import context_of
from tasks.errors import BadParams
from tasks.files import MANIFEST, read_json
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
            # data/models/<stage>, relative to the data folder that contains this one; a round has its own inside it
            inside, own = str(stated).removeprefix("data/"), folder.resolve()
            candidates = (parent / inside for parent in own.parents[:4])
            base = next((path for path in candidates if path != own and path.is_dir()), None)
            if base is None:
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


def fit_context(params: Any, kind: str, data: Path) -> tuple[Any, list[str]]:
    """The params of a stage with lengths that fit the context of its base, and a note about each that was decreased.

    Longer pairs and prompts are then left out and counted. Raises BadParams where the length of rows is fixed, or where
    no prompt fits before an answer.
    """
    base = base_of(params, kind, data)
    if base is None or (isinstance(base, Path) and not base.is_dir()):
        return params, []  # the stage itself states that a model is missing
    context = context_of(models.load_config(base))
    if context is None:
        return params, []
    if kind in ("pretrain", "sft"):
        _check_rows(params, kind, data, base, context)
        return params, []
    # One token less, so that a policy can answer after the longest prompt.
    name, limit = "max_length", context - 1
    if kind == "ppo":
        name, limit = "max_prompt_length", context - params.max_new_tokens
    if limit < 1:
        raise BadParams(
            f"{kind}.max_new_tokens is {params.max_new_tokens}, but the context of {base} has {context} tokens, so "
            "that no prompt fits before an answer. Decrease max_new_tokens."
        )
    value = getattr(params, name)
    if value is not None and value <= limit:
        return params, []
    note = f"{kind}: {name} is {limit} instead of {value}, because the context of {base} has {context} tokens."
    return params.model_copy(update={name: limit}), [note]


def _check_rows(params: Any, kind: str, data: Path, base: str | Path, context: int) -> None:
    if kind == "pretrain":
        length, key = params.sequence_length, "pretrain.sequence_length"
    else:
        manifest = stage_files.tokens_folder(params.data, data) / MANIFEST
        length, key = read_json(manifest).get("sequence_length", 0), "tokenization.sequence_length"
    if length > context:
        raise BadParams(
            f"{key} is {length}, but the context of {base} has {context} tokens. Set it to at most {context}."
        )
