"""Replay: rows of the text that a trained base knows, among the rows of a stage, so that it forgets less of it.

Training on one task moves all weights, also where the task says nothing about them. A small share of general text
prevents most of that (arXiv:2403.08763, arXiv:1910.00116). The text on which a base was trained is rarely at hand, but
the base itself can write such text: samples at temperature 1 have the distribution that must not change
(arXiv:2403.01244). They are drawn once before the first step and kept beside the checkpoints. On them, the loss is the
divergence from the base (tasks/training/language/base_text.py), so that few samples suffice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import BadInput, BadParams
from tasks.reports import Report
from tasks.tokens import Stream, read_records, read_stream
from tasks.training.language import mixture
from tasks.training.language.base_text import Base, BaseText, stored_text
from tasks.training.language.rows import PackedRows

MAX_EPOCHS = 2  # how often text of the base is read, unless it is limited by `max_tokens`
NUM_HELD_OUT = 16  # rows that are not trained on: their loss shows what the base forgets
MAX_RISE = 0.05  # nats of the loss on held-out rows, above which the report warns


class ReplayedRows(PackedRows):
    """The rows of `data` with rows of `replayed` among them, evenly spread: a share `share` of all rows.

    Replayed row i has the number -1 - i. held_out: rows of the replayed text that are not trained on, if any.
    text: what the base would say in the replayed rows, if it has written them.
    """

    def __init__(
        self, data: PackedRows, replayed: PackedRows, held_out: PackedRows | None, share: float,
        text: BaseText | None = None,
    ) -> None:  # fmt: skip
        self.__dict__.update(data.__dict__)  # the sizes of batches
        self.data, self.replayed, self.held_out, self.share, self.text = data, replayed, held_out, share, text

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
    text = None
    if replay.text == "documents":
        train, validation = _documents(tokens / "documents", replay.sources, num_tokens, section)
    else:
        size = min(-(-num_tokens // MAX_EPOCHS), replay.max_tokens)
        num_rows = -(-size // rows.length), NUM_HELD_OUT
        text = stored_text(base, num_rows, rows.length, params.seed, checkpoints / "replay.npz", section)
        train, validation = text.train, text.held_out
    sizes = rows.length, params.global_batch_size, params.micro_batch_size, params.seed, rows.pad
    held_out = PackedRows(validation, *sizes) if validation is not None and len(validation.ids) > 1 else None
    return ReplayedRows(rows, PackedRows(train, *sizes), held_out, replay.share, text)


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
    text = f"{num_replayed:,} of {num_rows:,} rows were {kind} ({size:,} tokens, {epochs:.2g} epochs)"
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
