"""Supervised fine-tuning on conversations: only what the assistant says is learned."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tasks import models
from tasks.files import MANIFEST, read_json
from tasks.reports import Report, Timings
from tasks.training import adapters
from tasks.training.language import attention
from tasks.training.language.acceleration import AcceleratedParams, accelerated
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedRows
from tasks.training.loop import stage_files
from tasks.training.loop.training_loop import run


class Params(AcceleratedParams, frozen=True):
    """The batches, the adapter if there is one, and the loop's dials."""

    base: str | None = Field(None, description="a model folder or hub name; none = what pretrain made")
    data: str | None = Field(None, description="Folder of token files to train on; null is data/tokens.")
    adapter: adapters.AdapterParams | None = Field(
        None, description="a file of tasks/training/adapters/ and its params"
    )
    global_batch_size: int = Field(32, ge=1, description="rows per step, each as long as tokenization packed them")
    micro_batch_size: int = Field(8, ge=1, description="rows at once")
    validation_rows: int | None = Field(64, ge=1, description="rows of an evaluation; none = all there are")

    @model_validator(mode="after")
    def _can_be_recomputed(self) -> "Params":
        if self.gradient_checkpointing and self.adapter is not None and self.adapter.name == "prefix_tuning":
            raise ValueError("gradient_checkpointing would add the prefix twice; not with adapter prefix_tuning")
        return self


def train(params: Params, data: Path, checkpoints: Path, timings: Timings, name: str = "sft") -> Report:
    """data/tokens and data/models/pretrain -> data/models/sft. Raises BadInput, BadModel."""
    tokens = stage_files.tokens_folder(params.data, data)
    tokenizer = stage_files.load_tokenizer(tokens, data)
    base = stage_files.base_model(params.base, "pretrain", data)
    model, own = models.load_causal(base)
    models.fit_vocabulary(model, own, tokenizer, base)
    model = adapters.attach(model, params.adapter, params.seed)
    work = NextToken(model, *rows(params, tokens, tokenizer), params.validation_rows)
    with timings.measure("steps"), attention.packed(model), accelerated(model, params):
        log = run(work, params, checkpoints, name, timings)
    counts = adapters.parameter_counts(model)
    return stage_files.finish(name, params, model, tokenizer, log, data, timings, base, counts, work.notes)


def rows(params: Params, folder: Path, tokenizer: Any) -> tuple[PackedRows, PackedRows | None]:
    """The packed conversations of train, and of validation where there are any."""
    length = int(read_json(folder / MANIFEST)["sequence_length"])
    sizes = length, params.global_batch_size, params.micro_batch_size, params.seed
    places = folder / "conversations/train", folder / "conversations/validation"
    return PackedRows.open(places[0], *sizes, tokenizer), PackedRows.open(places[1], *sizes, tokenizer, needed=False)
