"""Curation of conversations and preferences: mask personal data, drop repeated records, and train records that reveal
held-out ones.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from tasks import tables
from tasks.curation.arrays import BoolArray, Int64Array, ObjectArray
from tasks.curation.contamination import boilerplate, contamination, leaks
from tasks.curation.duplicates import exact
from tasks.curation.privacy import pii
from tasks.curation.privacy.pii import Params as Pii
from tasks.documents import SPLITS

SIDES = ("chosen", "rejected")
TEXT_COLUMNS = ("messages", "prompt", *SIDES, "reason")
PRECEDENCE = {split: rank for rank, split in enumerate(SPLITS)}  # of equal records, test wins over validation and train


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which checks are applied to conversations and preferences."""

    exact_duplicates: bool = Field(True, description="Drop records that repeat another one.")
    contamination: bool = Field(True, description="Drop train records that share n-grams with held-out ones.")
    pii: Pii | None = Field(None, description="Settings for the masking of personal data; null skips it.")


def held_out_examples(folder: Path, name: str) -> contamination.EvaluationSet:
    """Return the held-out records (validation and test) of the table in `folder` as an evaluation set."""
    table = tables.read(folder)
    held_out = np.flatnonzero(_precedence(table) > 0)
    rows = table.take(pa.array(held_out))
    # Of a preference, the side of the chosen answer; of a bad answer that was judged alone, that answer.
    first, *others = _dialogues(rows)
    texts = pa.array([next(filter(None, sides), "") for sides in zip(first, *others, strict=True)], pa.large_string())
    return contamination.EvaluationSet(name, tuple(rows["id"].to_pylist()), texts)


def survey(folder: Path, index: contamination.Index) -> boilerplate.Survey:
    """Count in how many train records of the table in `folder` each n-gram of the index occurs."""
    table = tables.read(folder)
    train = _training_texts(table.take(pa.array(np.flatnonzero(_precedence(table) == 0))))
    return boilerplate.survey(train.texts, index, None, train.prompts)


def curate(
    raw: Path, curated: Path, dropped: Path, params: Params, comparison: leaks.Comparison | None = None
) -> Counter[str]:
    """Divide the table in `raw` into `curated` and `dropped`. Return the numbers of records read, kept, and per reason.

    A dropped record has two more columns: `drop_reason` ("exact.duplicate", "contamination" or "pii.same_answers") and
    `drop_evidence` (the id of the record that it repeats, or the set and the id of the example that it reveals). Only
    records of the train split can be contaminated. Kept records are masked, which the keys "masked_<type>" count.
    """
    table = tables.read(raw)
    reasons = np.full(table.num_rows, "", object)
    evidence = np.full(table.num_rows, "", object)
    masked, num_masked = _masked(table, params.pii)
    if params.exact_duplicates:
        _mark_repeated(masked, reasons, evidence)
    if num_masked and "chosen" in table.column_names:  # a pair may have differed in personal data only
        # Comparisons with the null of an unpaired answer give null, which is neither a pair nor equal.
        was_pair = _flags(pc.not_equal(table["chosen"], table["rejected"]))
        reasons[was_pair & _flags(pc.equal(masked["chosen"], masked["rejected"]))] = "pii.same_answers"
    if params.contamination and comparison is not None:
        _mark_contaminated(table, comparison, reasons, evidence)
    kept = reasons == ""
    tables.write(curated, table.schema, [masked.filter(pa.array(kept))])
    marked = table.append_column(_required_string("drop_reason"), pa.array(reasons.tolist(), pa.string()))
    marked = marked.append_column(_required_string("drop_evidence"), pa.array(evidence.tolist(), pa.string()))
    tables.write(dropped, marked.schema, [marked.filter(pa.array(~kept))])
    if not kept.all():
        num_masked = _masked(table.filter(pa.array(kept)), params.pii)[1]  # without those of dropped records
    counts = {f"masked_{pii_type}": n for pii_type, n in num_masked.items()}
    return Counter({"read": table.num_rows, "kept": int(kept.sum()), **Counter(reasons[~kept].tolist()), **counts})


def _masked(table: pa.Table, params: Pii | None) -> tuple[pa.Table, Counter[str]]:
    """Return the table with personal data masked, and the number of masks of each type."""
    totals: Counter[str] = Counter()
    for column, name in enumerate(table.column_names):
        if params is not None and name in TEXT_COLUMNS and table.num_rows:
            values, counts = pii.mask_column(table[name].combine_chunks(), params)
            totals += counts
            table = table.set_column(column, table.schema.field(column), values)
    return table, totals


def _mark_repeated(table: pa.Table, reasons: ObjectArray, evidence: ObjectArray) -> None:
    """Write reason and evidence of records that repeat another one."""
    texts = pa.array([" \0 ".join(parts) for parts in zip(*_full_texts(table), strict=True)], pa.large_string())
    duplicate_of = exact.duplicates(texts, _precedence(table), table["id"])
    ids = table["id"].to_pylist()
    for row in np.flatnonzero(duplicate_of >= 0):
        reasons[row], evidence[row] = "exact.duplicate", ids[duplicate_of[row]]


def _mark_contaminated(
    table: pa.Table, comparison: leaks.Comparison, reasons: ObjectArray, evidence: ObjectArray
) -> None:
    """Write reason and evidence of train records that share n-grams with the index."""
    rows = np.flatnonzero((_precedence(table) == 0) & (reasons == ""))
    train = _training_texts(table.take(pa.array(rows)))
    counted = boilerplate.survey(train.texts, comparison.index, None, train.prompts)
    for leak in leaks.find(train.texts, comparison, counted, train.prompts):
        row = rows[train.records[leak.row]]
        reasons[row], evidence[row] = "contamination", f"{leak.hits[0].set_name}/{leak.hits[0].example_id}"


def _full_texts(table: pa.Table) -> list[list[str]]:
    """Return columns of text that together hold the whole record, with the roles of its messages."""
    if "messages" in table.column_names:
        return [[_join_with_roles(messages) for messages in table["messages"].to_pylist()]]
    prompts = [_join_with_roles(prompt) for prompt in table["prompt"].to_pylist()]
    # A zero byte alone stands for the missing answer of an unpaired row, so that no pair equals it.
    sides = ([answer if answer is not None else "\0" for answer in table[side].to_pylist()] for side in SIDES)
    return [prompts, *sides]


@dataclass(frozen=True, slots=True)
class _TrainingTexts:
    """The texts of records that a model trains on: row of the record and number of the prompt of each, by prompt."""

    texts: pa.Array
    records: Int64Array
    prompts: Int64Array


def _training_texts(table: pa.Table) -> _TrainingTexts:
    """Return the texts that a model trains on: the dialogue, for both sides of a preference, and the system prompt.

    A system prompt that two records have is an instruction to the assistant, and common text; it is left out.
    """
    name = "messages" if "messages" in table.column_names else "prompt"
    messages = table[name].to_pylist()
    prompts = [_join(each[:-1] if name == "messages" else each) for each in messages]
    systems = ["\n".join(part["content"] for part in each if part["role"] == "system") for each in messages]
    num_records = Counter(systems)
    columns = [*_dialogues(table), [system if num_records[system] == 1 else "" for system in systems]]
    texts = [column[row] for row in range(len(messages)) for column in columns]
    records = np.repeat(np.arange(len(messages)), len(columns))
    number_of: dict[str, int] = {}
    numbers = np.array([number_of.setdefault(prompt, len(number_of)) for prompt in prompts], np.int64)[records]
    order = np.argsort(numbers, kind="stable")
    return _TrainingTexts(pa.array(texts, pa.large_string()).take(pa.array(order)), records[order], numbers[order])


def _dialogues(table: pa.Table) -> list[list[str]]:
    """Return columns of what user and assistant say: one for conversations, one per side of preferences.

    The text of a side without an answer is empty.
    """
    if "messages" in table.column_names:
        return [[_join(messages) for messages in table["messages"].to_pylist()]]
    prompts = [_join(prompt) for prompt in table["prompt"].to_pylist()]
    return [
        [
            "" if answer is None else f"{prompt}\n{answer}"
            for prompt, answer in zip(prompts, table[side].to_pylist(), strict=True)
        ]
        for side in SIDES
    ]


def _join(messages: list[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages if message["role"] != "system")


def _join_with_roles(messages: list[dict[str, str]]) -> str:
    # The zero bytes keep a role and a content apart that would otherwise read as one text.
    return " ".join(f"{message['role']}: \0 {message['content']} \0" for message in messages)


def _precedence(table: pa.Table) -> Int64Array:
    return np.array([PRECEDENCE[split] for split in table["split"].to_pylist()], np.int64)


def _flags(values: pa.ChunkedArray) -> BoolArray:
    return np.asarray(pc.fill_null(values, False), np.bool_)


def _required_string(name: str) -> pa.Field:
    return pa.field(name, pa.string(), nullable=False)
