"""The curation of conversations and preferences: what is said twice is kept once, what is held out stays held out."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel

from tasks import tables
from tasks.curation.arrays import Int64Array
from tasks.curation.contamination import contamination
from tasks.curation.duplicates import exact
from tasks.documents import SPLITS

PRECEDENCE = {split: place for place, split in enumerate(SPLITS)}  # of a repeated record, test keeps it, train does not


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which of the two judges records are asked."""

    exact_duplicates: bool = True
    contamination: bool = True


def examples(folder: Path, name: str) -> contamination.Examples:
    """The held-out records (validation and test) of the table in `folder`, as something to be kept out of training."""
    table = tables.read(folder)
    held = np.flatnonzero(_precedence(table) > 0)
    rows = table.take(pa.array(held))
    return contamination.Examples(name, tuple(rows["id"].to_pylist()), pa.array(_texts(rows)[0], pa.large_string()))


def curate(
    raw: Path, curated: Path, dropped: Path, params: Params, index: contamination.Index | None = None
) -> Counter[str]:
    """Divide the table in `raw` into `curated` and `dropped`; how many records were read, kept and dropped why.

    A dropped record has two more columns: `drop_reason` ("exact.duplicate" or "contamination") and `drop_evidence`
    (the id of the record it repeats, or the set and the id of the example it gives away). Only records of the train
    split can be contaminated.
    """
    table = tables.read(raw)
    reasons = np.full(table.num_rows, "", object)
    evidence = np.full(table.num_rows, "", object)
    if params.exact_duplicates:
        _mark_repeated(table, reasons, evidence)
    if params.contamination and index is not None:
        _mark_contaminated(table, index, reasons, evidence)
    kept = reasons == ""
    tables.write(curated, table.schema, [table.filter(pa.array(kept))])
    marked = table.append_column(_required("drop_reason"), pa.array(reasons.tolist(), pa.string()))
    marked = marked.append_column(_required("drop_evidence"), pa.array(evidence.tolist(), pa.string()))
    tables.write(dropped, marked.schema, [marked.filter(pa.array(~kept))])
    return Counter({"read": table.num_rows, "kept": int(kept.sum()), **Counter(reasons[~kept].tolist())})


def _mark_repeated(table: pa.Table, reasons: npt.NDArray[Any], evidence: npt.NDArray[Any]) -> None:
    texts = pa.array([" \0 ".join(parts) for parts in zip(*_columns(table), strict=True)], pa.large_string())
    repeats = exact.duplicates(texts, _precedence(table), table["id"])
    ids = table["id"].to_pylist()
    for row in np.flatnonzero(repeats >= 0):
        reasons[row], evidence[row] = "exact.duplicate", ids[repeats[row]]


def _mark_contaminated(
    table: pa.Table, index: contamination.Index, reasons: npt.NDArray[Any], evidence: npt.NDArray[Any]
) -> None:
    rows = np.flatnonzero((_precedence(table) == 0) & (reasons == ""))
    train = table.take(pa.array(rows))
    for texts in _texts(train):
        for hit in contamination.scan_records(pa.array(texts, pa.large_string()), index):
            reasons[rows[hit.row]], evidence[rows[hit.row]] = "contamination", f"{hit.set}/{hit.example}"


def _columns(table: pa.Table) -> list[list[str]]:
    """What is said, as columns of text: all of it, roles included."""
    if "messages" in table.column_names:
        return [[_said(messages, roles=True) for messages in table["messages"].to_pylist()]]
    prompts = [_said(prompt, roles=True) for prompt in table["prompt"].to_pylist()]
    return [prompts, table["chosen"].to_pylist(), table["rejected"].to_pylist()]


def _texts(table: pa.Table) -> list[list[str]]:
    """What a model would learn to say, after what: one text for a conversation, one for each side of a preference."""
    if "messages" in table.column_names:
        return [[_said(messages) for messages in table["messages"].to_pylist()]]
    prompts = [_said(prompt) for prompt in table["prompt"].to_pylist()]
    return [
        [f"{prompt}\n{answer}" for prompt, answer in zip(prompts, table[side].to_pylist(), strict=True)]
        for side in ("chosen", "rejected")
    ]


def _said(messages: list[dict[str, str]], roles: bool = False) -> str:
    if not roles:
        return "\n".join(message["content"] for message in messages)
    return " ".join(f"{message['role']}: \0 {message['content']} \0" for message in messages)


def _precedence(table: pa.Table) -> Int64Array:
    return np.array([PRECEDENCE[split] for split in table["split"].to_pylist()], np.int64)


def _required(name: str) -> pa.Field:
    return pa.field(name, pa.string(), nullable=False)
