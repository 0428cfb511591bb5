"""Replay: rows of the text that a trained base knows, among the rows of a stage, so that it forgets less of it.

Training on one task moves all weights, also where the task says nothing about them. A small share of general text
prevents most of that (arXiv:2403.08763, arXiv:1910.00116). The text on which a base was trained is rarely at hand, but
the base itself can write such text: samples at temperature 1 have the distribution that must not change
(arXiv:2403.01244). They are drawn once before the first step and kept beside the checkpoints.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.causal import attention, remembered
from tasks.causal.backbone import context_length
from tasks.causal.self_check import Needs
from tasks.errors import BadInput, BadModel, BadParams
from tasks.generation import generate
from tasks.progress import Progress
from tasks.reports import Report
from tasks.tokens import Stream, ids_dtype, read_records, read_stream
from tasks.training.language import mixture
from tasks.training.language.rows import PackedRows
from tasks.training.parallel import processes

MAX_EPOCHS = 2  # how often samples of the base are read, unless they are limited by `max_tokens`
NUM_HELD_OUT = 16  # rows that are not trained on: their loss shows what the base forgets
MIN_SAMPLES = 16  # that are drawn at once
MAX_RISE = 0.05  # nats of the loss on held-out rows, above which the report warns


@dataclass(frozen=True)
class Base:
    """A trained model before the first step, the tokenizer of its checkpoint, and the device on which it is used."""

    model: Any
    tokenizer: Any
    device: torch.device


class ReplayedRows(PackedRows):
    """The rows of `data` with rows of `replayed` among them, evenly spread: a share `share` of all rows.

    A replayed row has a negative number. held_out: rows of the replayed text that are not trained on, if any.
    """

    def __init__(self, data: PackedRows, replayed: PackedRows, held_out: PackedRows | None, share: float) -> None:
        self.__dict__.update(data.__dict__)  # the sizes of batches
        self.data, self.replayed, self.held_out, self.share = data, replayed, held_out, share

    def num_replayed(self, num_rows: int) -> int:
        """The number of replayed rows among the first `num_rows` of the run."""
        return int(num_rows * self.share + 1e-9)

    def _chosen(self, place: int) -> int:
        before = self.num_replayed(place)
        if self.num_replayed(place + 1) > before:
            return -1 - self.replayed._chosen(before)
        return self.data._chosen(place - before)

    def _row(self, row: int) -> tuple[npt.NDArray[Any], ...]:
        return self.replayed._row(-1 - row) if row < 0 else self.data._row(row)


def with_replay(rows: PackedRows, params: Any, base: Base, tokens: Path, checkpoints: Path, section: str) -> PackedRows:
    """`rows` with the replay that `params` ask for, or `rows` alone. Raises BadInput, BadModel, BadParams.

    tokens: the folder of token files.
    """
    replay = params.replay
    if replay is None or not params.steps:
        return rows
    num_tokens = int(params.steps * params.global_batch_size * rows.length * replay.share) + 1
    if replay.text == "documents":
        train, validation = _documents(tokens / "documents", replay.sources, num_tokens, section)
    else:
        size = min(-(-num_tokens // MAX_EPOCHS), replay.max_tokens) + NUM_HELD_OUT * rows.length
        samples = _stored_samples(base, size, rows.length, params.seed, checkpoints, section)
        train, validation = _split(samples, NUM_HELD_OUT * rows.length)
    sizes = rows.length, params.global_batch_size, params.micro_batch_size, params.seed, rows.pad
    held_out = PackedRows(validation, *sizes) if validation is not None and len(validation.ids) > 1 else None
    return ReplayedRows(rows, PackedRows(train, *sizes), held_out, replay.share)


def data_of(rows: PackedRows) -> PackedRows:
    """The rows of the stage's own data, without the replayed ones."""
    return rows.data if isinstance(rows, ReplayedRows) else rows


def data_rows_per_step(params: Any) -> float:
    """The mean number of rows of a step that are not replayed."""
    return float(params.global_batch_size * (1 - (params.replay.share if params.replay is not None else 0)))


def add_to_report(rows: PackedRows, report: Report, params: Any) -> None:
    """Add the table of a mixture, the counts of the replay and what the base has forgotten to the report of a stage."""
    num_rows = report.counts["steps"] * params.global_batch_size
    if not isinstance(rows, ReplayedRows):
        mixture.add_to_report(rows, report.tables, num_rows)
        return
    mixture.add_to_report(rows.data, report.tables, num_rows - rows.num_replayed(num_rows))
    num_replayed, size = rows.num_replayed(num_rows), len(rows.replayed.stream.ids)
    epochs = num_replayed / max(1, rows.replayed.count)
    report.counts |= {"replayed_rows": num_replayed, "replay_tokens": size}
    kind = "samples of the base" if params.replay.text == "base" else "documents of the pipeline"
    name = report.stage
    text = f"{name}: {num_replayed:,} of {num_rows:,} rows were {kind} ({size:,} tokens, {epochs:.2g} epochs)"
    losses = [row["validation_replay_loss"] for row in report.tables["steps"] if row.get("validation_replay_loss")]
    if len(losses) > 1:
        text += f"; the loss of held-out text of this kind was {losses[0]:.4g} at first and is {losses[-1]:.4g}"
        if losses[-1] > losses[0] + MAX_RISE:
            report.warnings.append(
                f"{name} forgets: the loss of the text that it replays has risen from {losses[0]:.4g} to "
                f"{losses[-1]:.4g}. Increase `{name}.replay.share`, or decrease `{name}.learning_rate` or "
                f"`{name}.steps`."
            )
    report.notes.append(f"{text}.")


def _documents(
    folder: Path, sources: Sequence[str] | None, num_tokens: int, section: str
) -> tuple[Stream, Stream | None]:
    """The training documents, of some sources only, and the documents for validation."""
    if not (folder / "train").is_dir() or not len(read_stream(folder / "train").ids):
        raise BadInput(
            f"{section}.replay.text is documents, but {folder / 'train'} contains none. Set text: base, or add a "
            "source of documents."
        )
    splits = [folder / split for split in ("train", "validation")]
    train, validation = (
        _of_sources(split, sources, num_tokens, section) if split.is_dir() else None for split in splits
    )
    assert train is not None
    return train, validation


def _of_sources(folder: Path, sources: Sequence[str] | None, num_tokens: int, section: str) -> Stream | None:
    """The stream in `folder`, or about `num_tokens` tokens of the documents of some sources, in a random order."""
    stream = read_stream(folder)
    if sources is None:
        return stream
    records = read_records(folder)
    names = records.names["source"]
    unknown = [name for name in sources if name not in names]
    if unknown and folder.name == "train":
        raise BadParams(
            f"{section}.replay.sources names {', '.join(unknown)}, but the documents have the sources "
            f"{', '.join(names)}"
        )
    codes = [names.index(name) for name in sources if name in names]
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(records.groups["source"], codes)))
    chosen = chosen[: int(np.searchsorted(records.lengths[chosen].cumsum(), num_tokens)) + 1]
    parts = [slice(int(records.starts[i]), int(records.starts[i] + records.lengths[i])) for i in chosen]
    if not parts:
        return None
    columns = (stream.ids, stream.positions, stream.loss_mask)
    return Stream(*(np.concatenate([column[part] for part in parts]) for column in columns))


def _stored_samples(base: Base, num_tokens: int, length: int, seed: int, checkpoints: Path, section: str) -> Stream:
    """Samples of `base`, from the folder of checkpoints if they are there, so that a resumed run has the same ones."""
    path = checkpoints / "replay.npy"
    if processes.rank() == 0 and not _is_complete(path, num_tokens):
        with processes.on_device(base.model, base.device):
            stream = sample_documents(base.model, base.tokenizer, num_tokens, length, seed, section)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, np.stack([stream.ids.astype(np.uint32), stream.positions]))
        temporary.replace(path)
    processes.any_rank(False)  # the others wait for the file
    ids, positions = np.load(path)
    return Stream(ids.astype(ids_dtype(int(ids.max()) + 1)), positions, np.ones(len(ids), np.uint8))


def _is_complete(path: Path, num_tokens: int) -> bool:
    try:
        return bool(np.load(path, mmap_mode="r").shape[1] >= num_tokens)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, IndexError) as error:
        print(f"{path} cannot be read and is drawn again: {error}", file=sys.stderr, flush=True)
        return False


def sample_documents(model: Any, tokenizer: Any, num_tokens: int, length: int, seed: int, section: str) -> Stream:
    """Documents of at most `length` tokens that `model` draws from its own distribution, at least `num_tokens` in all.

    tokenizer: that of the model's checkpoint. A text ends before the first token that is special or not of this
    tokenizer, other than its end token. Raises BadModel if the model writes nothing else.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise BadModel(
            f"{section}.replay needs samples of the base, but its tokenizer has neither a beginning nor an end token. "
            f"Set {section}.replay.text: documents, or replay: null."
        )
    remembered.prepare(model, tokenizer, Needs(generation="auto", max_length=length))
    end = tokenizer.eos_token_id
    forbidden = set(tokenizer.all_special_ids) - {end}
    size, context = len(tokenizer), min(length, context_length(model))
    generator = torch.Generator().manual_seed(seed)
    texts: list[list[int]] = []
    count = 0
    with attention.packed(model), Progress(f"{section}, text of the base", num_tokens, "tokens") as progress:
        while count < num_tokens:
            num_samples = max(MIN_SAMPLES, -(-(num_tokens - count) // length))
            generated = generate(
                model, [[start]] * num_samples, max_new_tokens=context - 1,
                end_ids=[] if end is None else [end], pad_id=tokenizer.pad_token_id or 0, generator=generator,
            )  # fmt: skip
            before = count
            for answer in generated.answers:
                bad = (place for place, one in enumerate(answer) if one in forbidden or one >= size)
                texts.append([start, *answer[: next(bad, len(answer))]])
                count += len(texts[-1])
            if count - before < 3 * num_samples:
                raise BadModel(
                    f"{section}.replay needs samples of the base, but the base writes nothing after its first token. "
                    f"Set {section}.replay.text: documents, or replay: null."
                )
            progress.advance(count - before)
    ids = np.concatenate([np.asarray(text, np.uint32) for text in texts])
    positions = np.concatenate([np.arange(len(text), dtype=np.uint32) for text in texts])
    return Stream(ids, positions, np.ones(len(ids), np.uint8))


def _split(stream: Stream, num_last: int) -> tuple[Stream, Stream]:
    """The stream in two parts, of which the second one has `num_last` tokens."""
    columns = (stream.ids, stream.positions, stream.loss_mask)
    return Stream(*(column[:-num_last] for column in columns)), Stream(*(column[-num_last:] for column in columns))
