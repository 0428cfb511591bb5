"""Pretraining on packed documents, from random weights or from another model.

The objective decides what the model predicts: causal (the next token, for decoders), masked (masked tokens, for
encoders) or span (the text of corrupted spans, for encoder-decoders).
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tasks import corruption, models
from tasks.causal import attention, remembered
from tasks.causal.methods import PackingParams
from tasks.causal.self_check import Needs
from tasks.models import Objective
from tasks.reports import Report, Timings
from tasks.training.language import base_text, fill_in_middle, mixture, objective_check, replay
from tasks.training.language.acceleration import accelerated
from tasks.training.language.masked import Masked
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedRows
from tasks.training.language.spans import Spans
from tasks.training.loop import data_use, stage_files
from tasks.training.loop.params import resolve_device
from tasks.training.loop.replay_params import ReplayParams
from tasks.training.loop.training_loop import run
from tasks.training.shape import architecture, sizes
from tasks.training.shape.architecture import Architecture

DEFAULT_KINDS = {"masked": "modernbert", "span": "t5"}  # objective -> model.kind, unless the params set one


class Params(mixture.MixtureParams, ReplayParams, PackingParams, frozen=True):
    """Params of pretraining: the first model, the objective and the batches, besides those of the training loop."""

    size: sizes.Name | None = Field(
        None, description="Sets shape, learning rate, batch size and steps by published rules, unless they are set "
        "here; null uses the defaults.",
    )  # fmt: skip
    objective: Objective = Field(
        "causal", description="What the model predicts: causal (the next token), masked (masked tokens) or span "
        "(corrupted spans).",
    )  # fmt: skip
    model: Architecture = Field(
        default_factory=lambda: Architecture.model_validate({}),
        description="Architecture of a new model; not used if base is set.",
    )
    base: str | None = Field(
        None, description="Stage, model folder or hub name of the model to start from; null starts from random weights."
    )
    data: str | None = Field(None, description="Folder of token files to train on; null is data/tokens.")
    fill_in_middle: float = Field(
        0.0, ge=0, le=1, description="Share of the texts in which the middle comes last, after its prefix and suffix "
        "and special tokens (arXiv:2207.14255, which uses 0.5 to 0.9); for the objective causal. A new tokenizer needs "
        "tokenization.fill_in_middle.",
    )  # fmt: skip
    sequence_length: int = Field(256, ge=8, description="Tokens per row.")
    global_batch_size: int = Field(32, ge=1, description="Rows per step, over all processes.")
    micro_batch_size: int = Field(8, ge=1, description="Rows per forward and backward pass of a process.")
    validation_rows: int | None = Field(
        64, ge=1, description="Maximum number of validation rows per evaluation; null uses all."
    )
    masking: corruption.Masking = Field(
        default_factory=lambda: corruption.Masking.model_validate({}),
        description="Which tokens are masked; used by the objective masked.",
    )
    span_corruption: corruption.SpanCorruption = Field(
        default_factory=lambda: corruption.SpanCorruption.model_validate({}),
        description="Which spans are replaced by sentinels; used by the objective span.",
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, section: Any) -> Any:
        """Add the values that `size` and `objective` imply to the keys that the section sets itself."""
        if not isinstance(section, dict):
            return section
        scratch = section.get("from_scratch")
        scratch = scratch if isinstance(scratch, dict) else {}
        sized = sizes.apply_size({**scratch, **section})  # what a section states has priority over its size
        section = {key: value for key, value in sized.items() if key in section or key not in scratch}
        kind, model = DEFAULT_KINDS.get(str(section.get("objective"))), section.get("model", {})
        return {**section, "model": {"kind": kind, **model}} if kind and isinstance(model, dict) else section

    @model_validator(mode="after")
    def _is_consistent(self) -> "Params":
        if self.replay is not None and self.replay.text == "base" and (self.base is None or self.objective != "causal"):
            raise ValueError(
                "replay with text: base needs the key base and the objective causal, because the base draws the text; "
                "set replay.text: documents, or replay: null"
            )
        if self.fill_in_middle and self.objective != "causal":
            raise ValueError(f"fill_in_middle needs the objective causal, not {self.objective}; set fill_in_middle: 0")
        if self.base is not None:
            return self
        if not self.steps:
            raise ValueError(
                "steps: 0 keeps the model of `base` as it is, but base is null; set base, or steps above 0"
            )
        model = self.model
        if model.objective != self.objective:
            kinds = [kind for kind, objective in architecture.all_objectives().items() if objective == self.objective]
            raise ValueError(
                f"objective {self.objective} needs model.kind {' or '.join(kinds)}, not {model.kind}; change one"
            )
        if model.kind in architecture.LEARNED_POSITIONS and self.sequence_length > model.max_length:
            raise ValueError(
                f"sequence_length {self.sequence_length} is more than model.max_length {model.max_length}, and "
                f"{model.kind} has no positions beyond it; decrease sequence_length or increase model.max_length"
            )
        return self


def train(params: Params, data: Path, checkpoints: Path, timings: Timings, name: str = "pretrain") -> Report:
    """Train on data/tokens/documents and save data/models/<name>. Raises BadInput, BadModel."""
    tokens = stage_files.tokens_folder(params.data, data)
    tokenizer = extend_tokenizer(params, stage_files.load_tokenizer(tokens, data))
    train_rows, validation_rows = open_rows(params, tokens / "documents", tokenizer)
    train_rows = choose_rows(params, train_rows, tokens / "documents/train", tokenizer, name)
    base = None if params.base is None else stage_files.find_model(params.base, data)
    model, own_tokenizer = initial_model(params, base, tokenizer)
    with timings.measure("replay"):
        own = base_text.Base(model, own_tokenizer, resolve_device(params.device))
        train_rows = replay.with_replay(train_rows, params, own, tokens, checkpoints, name)
    with timings.measure("self_check"):
        notes = self_check(params, model, tokenizer)
    work = build_work(params, model, tokenizer, train_rows, validation_rows)
    # The other objectives pass attention masks of their own.
    packed = attention.packed(model) if params.objective == "causal" else nullcontext()
    with timings.measure("steps"), packed, accelerated(model, params):
        log = run(work, params, checkpoints, name, timings)
    num_tokens = params.steps * params.global_batch_size * params.sequence_length
    counts = {"num_parameters": model.num_parameters(), "num_tokens": num_tokens}
    report = stage_files.finish(name, params, model, tokenizer, log, data, timings, base, counts, notes + work.notes)
    data_use.describe(report, data_use.DataUse("rows", train_rows.count, replay.data_rows_per_step(params)), params)
    replay.add_to_report(train_rows, report, params)
    if isinstance(rows := replay.data_of(train_rows), fill_in_middle.MiddleRows):
        report.notes.append(rows.note())
    return report


def choose_rows(params: Params, rows: PackedRows, folder: Path, tokenizer: Any, name: str) -> PackedRows:
    """The rows by the mixture, and with fill in the middle, if params ask for them. Raises BadModel, BadParams."""
    if params.fill_in_middle:
        return fill_in_middle.MiddleRows(rows, folder, params, tokenizer, name)
    return mixture.mixed(rows, folder, params, is_packed=False, section=name)


def self_check(params: Params, model: Any, tokenizer: Any) -> list[str]:
    """Choose how a causal model is run, and check any other; notes for the report. Raises BadModel."""
    if params.objective != "causal":
        objective_check.check(model, params.objective, list(tokenizer.all_special_ids))
        return []
    needs = Needs(packing=params.packing, loss=params.loss, max_length=params.sequence_length)
    return remembered.prepare(model, tokenizer, needs)


def extend_tokenizer(params: Params, tokenizer: Any) -> Any:
    """`tokenizer` with the tokens that the objective needs: a mask token, or enough sentinels for a whole row."""
    if params.objective == "masked":
        return corruption.with_mask_token(tokenizer)
    if params.objective == "span":
        _, num_spans = params.span_corruption.sizes(params.sequence_length)
        return corruption.with_sentinels(tokenizer, num_spans)
    return tokenizer


def build_work(
    params: Params, model: Any, tokenizer: Any, train_rows: PackedRows, validation_rows: PackedRows | None
) -> NextToken:
    """The work that the objective gives to the training loop."""
    arguments = model, train_rows, validation_rows, params.validation_rows
    if params.objective == "masked":
        vocab_size, mask_id = len(tokenizer), tokenizer.mask_token_id
        return Masked(*arguments, masking=params.masking, mask_id=mask_id, vocab_size=vocab_size, seed=params.seed)
    if params.objective == "span":
        sentinels, end_id = corruption.sentinel_ids(tokenizer), tokenizer.eos_token_id
        return Spans(
            *arguments, span_corruption=params.span_corruption, sentinels=sentinels, end_id=end_id, seed=params.seed
        )
    return NextToken(*arguments)


def open_rows(params: Params, folder: Path, tokenizer: Any) -> tuple[PackedRows, PackedRows | None]:
    """The training rows in `folder`, and the validation rows if there are any. Raises BadInput."""
    sizes = params.sequence_length, params.global_batch_size, params.micro_batch_size, params.seed
    train_rows = PackedRows.open(folder / "train", *sizes, tokenizer)
    if not (folder / "validation").is_dir():
        return train_rows, None
    return train_rows, PackedRows.open(folder / "validation", *sizes, tokenizer, needed=False)


def initial_model(params: Params, base: str | Path | None, tokenizer: Any) -> tuple[Any, Any]:
    """The model before the first step, and the tokenizer that it was made with.

    Raises BadModel if `base` does not fit the objective or the tokenizer.
    """
    if base is None:
        return architecture.build(params.model, tokenizer, params.seed), tokenizer
    model, own_tokenizer = models.load_pretrained(base, objective=params.objective)
    models.fit_vocabulary(model, own_tokenizer, tokenizer, base)
    return model, own_tokenizer
