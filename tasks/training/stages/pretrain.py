"""Pretraining on packed documents, from random weights or a checkpoint: a decoder, an encoder, or one of each.

objective: causal (the next token), masked (hidden tokens, for encoders) or span (what was cut out, for t5).
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tasks import corruption, models
from tasks.models import Objective
from tasks.reports import Report, Timings
from tasks.training.language import attention
from tasks.training.language.acceleration import AcceleratedParams, accelerated
from tasks.training.language.masked import Masked
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedRows
from tasks.training.language.spans import Spans
from tasks.training.loop import stage_files
from tasks.training.loop.training_loop import run
from tasks.training.shape import architecture, sizes
from tasks.training.shape.architecture import Architecture

USUAL_KINDS = {"masked": "modernbert", "span": "t5"}


class Params(AcceleratedParams, frozen=True):
    """The model to begin with, the batches, and the loop's dials."""

    size: sizes.Name | None = Field(None, description="says what is not said here of shape, rate, batch and steps")
    objective: Objective = "causal"
    model: Architecture = Field(default_factory=lambda: Architecture.model_validate({}))
    base: str | None = Field(None, description="a model folder or hub name to start from instead of random weights")
    data: str | None = Field(None, description="Folder of token files to train on; null is data/tokens.")
    sequence_length: int = Field(256, ge=8)
    global_batch_size: int = Field(32, ge=1, description="rows per step")
    micro_batch_size: int = Field(8, ge=1, description="rows at once")
    validation_rows: int | None = Field(64, ge=1, description="rows of an evaluation; none = all there are")
    masking: corruption.Masking = Field(default_factory=lambda: corruption.Masking.model_validate({}))
    span_corruption: corruption.SpanCorruption = Field(
        default_factory=lambda: corruption.SpanCorruption.model_validate({})
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        filled = sizes.apply_size(given)
        kind, model = USUAL_KINDS.get(str(filled.get("objective"))), filled.get("model", {})
        return {**filled, "model": {"kind": kind, **model}} if kind and isinstance(model, dict) else filled

    @model_validator(mode="after")
    def _fits(self) -> "Params":
        if self.base is None and self.model.objective != self.objective:
            kinds = [kind for kind, wanted in architecture.all_objectives().items() if wanted == self.objective]
            raise ValueError(f"objective {self.objective} needs model.kind {' or '.join(kinds)}, not {self.model.kind}")
        if (
            self.base is None
            and self.model.kind in architecture.LEARNED_POSITIONS
            and self.sequence_length > self.model.max_length
        ):
            raise ValueError(
                f"sequence_length {self.sequence_length} is more than model.max_length of {self.model.kind}"
            )
        return self


def train(params: Params, data: Path, checkpoints: Path, timings: Timings, name: str = "pretrain") -> Report:
    """data/tokens -> data/models/pretrain. Raises BadInput, BadModel."""
    tokens = stage_files.tokens_folder(params.data, data)
    tokenizer = equipped(params, stage_files.load_tokenizer(tokens, data))
    train_rows, validation_rows = rows(params, tokens / "documents", tokenizer)
    model = beginning(params, tokenizer)
    work = work_for(params, model, tokenizer, train_rows, validation_rows)
    packed = attention.packed(model) if params.objective == "causal" else nullcontext()
    with timings.measure("steps"), packed, accelerated(model, params):
        log = run(work, params, checkpoints, name, timings)
    num_tokens = params.steps * params.global_batch_size * params.sequence_length
    counts = {"num_parameters": model.num_parameters(), "num_tokens": num_tokens}
    return stage_files.finish(name, params, model, tokenizer, log, data, timings, params.base, counts, work.notes)


def equipped(params: Params, tokenizer: Any) -> Any:
    """`tokenizer` with what the objective needs: a mask token, or sentinels for the longest row."""
    if params.objective == "masked":
        return corruption.with_mask_token(tokenizer)
    if params.objective == "span":
        return corruption.with_sentinels(tokenizer, params.span_corruption.sizes(params.sequence_length)[1])
    return tokenizer


def work_for(
    params: Params, model: Any, tokenizer: Any, train_rows: PackedRows, validation_rows: PackedRows | None
) -> NextToken:
    """What the objective brings to the loop."""
    begin = model, train_rows, validation_rows, params.validation_rows
    if params.objective == "masked":
        size, mask_id = len(tokenizer), tokenizer.mask_token_id
        return Masked(*begin, masking=params.masking, mask_id=mask_id, vocab_size=size, seed=params.seed)
    if params.objective == "span":
        sentinels, end_id = corruption.sentinel_ids(tokenizer), tokenizer.eos_token_id
        return Spans(
            *begin, span_corruption=params.span_corruption, sentinels=sentinels, end_id=end_id, seed=params.seed
        )
    return NextToken(*begin)


def rows(params: Params, folder: Path, tokenizer: Any) -> tuple[PackedRows, PackedRows | None]:
    """The train rows of `folder`, and those of validation where there are any."""
    sizes = params.sequence_length, params.global_batch_size, params.micro_batch_size, params.seed
    train_rows = PackedRows.open(folder / "train", *sizes, tokenizer)
    has_validation = (folder / "validation").is_dir()
    return train_rows, PackedRows.open(
        folder / "validation", *sizes, tokenizer, needed=False
    ) if has_validation else None


def beginning(params: Params, tokenizer: Any) -> Any:
    """The model before the first step. Raises BadModel where the tokenizer or the objective does not fit the base."""
    if params.base is None:
        return architecture.build(params.model, tokenizer, params.seed)
    model, own = models.load_pretrained(params.base, objective=params.objective)
    models.fit_vocabulary(model, own, tokenizer, params.base)
    return model
