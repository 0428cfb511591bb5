"""Supervised fine-tuning (SFT) on conversations: the model learns to predict the messages of the assistant only."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tasks import models
from tasks.causal import attention, remembered
from tasks.causal.methods import PackingParams
from tasks.causal.self_check import Needs
from tasks.files import MANIFEST, read_json
from tasks.reports import Report, Timings
from tasks.training import adapters
from tasks.training.language import base_text, mixture, replay, template_tokens
from tasks.training.language.acceleration import accelerated
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedRows
from tasks.training.loop import data_use, origins, stage_files
from tasks.training.loop.params import resolve_device
from tasks.training.loop.replay_params import ReplayParams
from tasks.training.loop.training_loop import run


class Params(mixture.MixtureParams, ReplayParams, PackingParams, frozen=True):
    """Params of SFT: the base model, the adapter and the batches, besides those of the training loop."""

    base: str | None = Field(
        None, description="Stage, model folder or hub name of the model to start from; null is the stage pretrain."
    )
    data: str | None = Field(None, description="Folder of token files to train on; null is data/tokens.")
    adapter: adapters.AdapterParams | None = Field(
        None, description="PEFT method, a file of tasks/training/adapters/, with its params; null trains all weights."
    )
    global_batch_size: int = Field(
        32, ge=1, description="Rows per step, over all processes. tokenization.sequence_length is their length."
    )
    micro_batch_size: int = Field(8, ge=1, description="Rows per forward and backward pass of a process.")
    validation_rows: int | None = Field(
        64, ge=1, description="Maximum number of validation rows per evaluation; null uses all."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> "Params":
        if self.gradient_checkpointing and self.adapter is not None and self.adapter.name == "prefix_tuning":
            raise ValueError(
                "gradient_checkpointing does not work with adapter prefix_tuning, because the recomputation would add "
                "the prefix a second time; set gradient_checkpointing: false"
            )
        return self


def train(params: Params, data: Path, checkpoints: Path, timings: Timings, name: str = "sft") -> Report:
    """Train on data/tokens/conversations and save data/models/<name>. Raises BadInput, BadModel."""
    tokens = stage_files.tokens_folder(params.data, data)
    tokenizer = stage_files.load_tokenizer(tokens, data)
    base = stage_files.base_model(params.base, "pretrain", data)
    model, own_tokenizer = models.load_causal(base)
    models.fit_vocabulary(model, own_tokenizer, tokenizer, base)
    train_rows, validation_rows = open_rows(params, tokens, tokenizer)
    train_rows = mixture.mixed(train_rows, tokens / "conversations/train", params, is_packed=True, section=name)
    needs = Needs(packing=params.packing, loss=params.loss, max_length=train_rows.length)
    # Samples of the base come first: nothing may have changed it.
    device = resolve_device(params.device)
    with timings.measure("replay"):
        own = base_text.Base(model, own_tokenizer, device)
        all_rows = replay.with_replay(train_rows, params, own, tokens, checkpoints, name)
    notes = list[str]()
    if params.steps and (params.adapter is not None or origins.is_trained_base(base)):
        notes += template_tokens.begin_with_mean(model, tokenizer, train_rows, needs, device)
    model = adapters.attach(model, params.adapter, params.seed)
    with timings.measure("self_check"):
        notes += remembered.prepare(model, tokenizer, needs)
    work = NextToken(model, all_rows, validation_rows, params.validation_rows)
    with timings.measure("steps"), attention.packed(model), accelerated(model, params):
        log = run(work, params, checkpoints, name, timings)
    num_tokens = params.steps * params.global_batch_size * train_rows.length  # of rows, with their padding
    counts = adapters.parameter_counts(model) | {"num_tokens": num_tokens}
    report = stage_files.finish(name, params, model, tokenizer, log, data, timings, base, counts, notes + work.notes)
    num_cut = read_json(tokens / MANIFEST).get("conversations", {}).get("train", {}).get("num_truncated", 0)
    use = data_use.DataUse("rows", train_rows.count, replay.data_rows_per_step(params), num_cut=num_cut)
    data_use.describe(report, use, params)
    replay.add_to_report(all_rows, report, params)
    return report


def open_rows(params: Params, tokens: Path, tokenizer: Any) -> tuple[PackedRows, PackedRows | None]:
    """The packed conversations for training and for validation. Raises BadInput."""
    # Tokenization has packed the conversations into rows, so the length of the rows is fixed.
    length = int(read_json(tokens / MANIFEST)["sequence_length"])
    sizes = length, params.global_batch_size, params.micro_batch_size, params.seed
    train_rows = PackedRows.open(tokens / "conversations/train", *sizes, tokenizer)
    return train_rows, PackedRows.open(tokens / "conversations/validation", *sizes, tokenizer, needed=False)
