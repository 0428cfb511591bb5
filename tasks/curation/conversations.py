"""Curation of conversations and preferences: mask personal data, drop repeated records, and train records that reveal
held-out ones.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import BaseModel, Field

from tasks import tables
from tasks.curation import text_files
from tasks.curation.arrays import BoolArray, Int64Array, ObjectArray
from tasks.curation.contamination import boilerplate, contamination, leaks
from tasks.curation.duplicates import exact
from tasks.curation.privacy import pii
from tasks.curation.privacy.pii import Params as Pii
from tasks.curation.privacy.pii_patterns import PII_TYPES
from tasks.curation.text.words import byte_lengths, take
from tasks.documents import SPLITS

SIDES = ("chosen", "rejected")
TEXT_COLUMNS = ("messages", "prompt", *SIDES, "reason")
SHARD_BYTES, PART_BYTES = 256 << 20, 4 << 20
PRECEDENCE = {split: rank for rank, split in enumerate(SPLITS)}  # of equal records, test wins over validation and train


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which checks are applied to conversations and preferences."""

    exact_duplicates: bool = Field(True, description="Drop records that repeat another one.")
    contamination: bool = Field(True, description="Drop train records that share n-grams with held-out ones.")
    pii: Pii | None = Field(None, description="Settings for the masking of personal data; null skips it.")


def held_out_examples(folder: Path, name: str) -> contamination.EvaluationSet:
    """Return the held-out records (validation and test) of the table in `folder` as an evaluation set."""
    ids, texts = list[str](), list[str]()
    for table in tables.row_groups(folder):
        rows = table.filter(pa.array(_precedence(table) > 0))
        ids += rows["id"].to_pylist()
        # Of a preference, the side of the chosen answer; of a bad answer that was judged alone, that answer.
        texts += [next(filter(None, sides), "") for sides in zip(*_spoken(rows).dialogues, strict=True)]
    return contamination.EvaluationSet(name, tuple(ids), pa.array(texts, pa.large_string()))


def survey(folder: Path, index: contamination.Index, scratch: Path) -> boilerplate.Survey:
    """Count in how many train records of the table in `folder` each n-gram of the index occurs.

    scratch: a folder for files with the texts.
    """
    train = (table.filter(pa.array(_precedence(table) == 0)) for table in tables.row_groups(folder))
    texts = _training_texts(train, scratch)
    return boilerplate.survey(texts.texts, index, None, texts.prompts)


def curate(
    raw: Path,
    curated: Path,
    dropped: Path,
    params: Params,
    scratch: Path,
    comparison: leaks.Comparison | None = None,
) -> Counter[str]:
    """Divide the table in `raw` into `curated` and `dropped`. Return the numbers of records read, kept, and per reason.

    A dropped record has two more columns: `drop_reason` ("exact.duplicate", "contamination" or "pii.same_answers") and
    `drop_evidence` (the id of the record that it repeats, or the set and the id of the example that it reveals). Only
    records of the train split can be contaminated. Kept records are masked, which the keys "masked_<type>" count. Texts
    are in files in `scratch`, which is deleted at the end, so that memory holds a row group, a shard that is written,
    and a few bytes per record.
    """
    schema = tables.schema(raw)
    records = _mask_records(raw, schema, params, scratch)
    if params.exact_duplicates:
        _mark_repeated(records)
    records.reasons[records.has_same_answers] = "pii.same_answers"
    if params.contamination and comparison is not None:
        _mark_contaminated(raw, records, comparison, scratch)
    kept, num_masked = records.reasons == "", _MaskCounts()
    marked_schema = schema.append(_required_string("drop_reason")).append(_required_string("drop_evidence"))
    with (
        # One row group per shard: readers of conversations read a shard at once.
        tables.Writer(curated, schema, group_bytes=SHARD_BYTES) as kept_writer,
        tables.Writer(dropped, marked_schema, group_bytes=SHARD_BYTES) as dropped_writer,
    ):
        first = 0
        for table, counts in zip(tables.row_groups(raw), records.num_masked, strict=True):
            rows = slice(first, first := first + table.num_rows)
            masked = records.masked.slice(rows.start, table.num_rows)
            kept_writer.add_table(masked.filter(pa.array(kept[rows])))
            for name in ("reasons", "evidence"):
                values = pa.array(getattr(records, name)[rows].tolist(), pa.string())
                table = table.append_column(_required_string(f"drop_{name.removesuffix('s')}"), values)
            dropped_writer.add_table(table.filter(pa.array(~kept[rows])))
            if not kept[rows].all():  # without the masks of dropped records
                counts = _masked(table.select(schema.names).filter(pa.array(kept[rows])), params.pii)[1]
            num_masked.add(counts)
    shutil.rmtree(scratch)
    masks = {f"masked_{pii_type}": n for pii_type, n in num_masked.totals().items()}
    dropped_for = Counter(records.reasons[~kept].tolist())
    return Counter({"read": len(kept), "kept": int(kept.sum()), **dropped_for, **masks})


class _MaskCounts(dict[str, Counter[str]]):
    """The number of masks of each type by column, in the order of the table."""

    def add(self, other: "_MaskCounts") -> None:
        """Add the counts of another part of the table."""
        for column, counts in other.items():
            self.setdefault(column, Counter()).update(counts)

    def totals(self) -> Counter[str]:
        """Return the number of masks of each type that occurs, in the order of PII_TYPES within a column."""
        result: Counter[str] = Counter()
        for counts in self.values():
            result += Counter({pii_type: counts[pii_type] for pii_type in PII_TYPES})
        return result


@dataclass(slots=True)
class _Records:
    """The records of a table: `masked` and `full_texts` in files, and one entry per record in memory.

    num_masked: of each row group. has_same_answers: of a pair that differed in personal data only.
    """

    masked: pa.Table
    full_texts: pa.ChunkedArray
    ids: pa.ChunkedArray
    precedence: Int64Array
    has_same_answers: BoolArray
    num_masked: list[_MaskCounts]
    reasons: ObjectArray
    evidence: ObjectArray


def _mask_records(raw: Path, schema: pa.Schema, params: Params, scratch: Path) -> _Records:
    """Mask the table in `raw`, one row group at a time."""
    scratch.mkdir(parents=True, exist_ok=True)
    path, num_masked = scratch / "masked.arrow", list[_MaskCounts]()
    ids, precedence, same = list[pa.Array](), [np.empty(0, np.int64)], [np.empty(0, np.bool_)]

    def full_texts(writer: pa.ipc.RecordBatchFileWriter) -> Iterator[pa.Array]:
        for table in tables.row_groups(raw):
            masked, counts = _masked(table, params.pii)
            writer.write_table(masked)
            num_masked.append(counts)
            ids.extend(table["id"].chunks)
            precedence.append(_precedence(table))
            same.append(_has_same_answers(table, masked))
            if params.exact_duplicates:
                texts = (" \0 ".join(parts) for parts in zip(*_full_texts(masked), strict=True))
                yield pa.array(list(texts), pa.large_string())

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        texts = text_files.write(scratch / "records.arrow", full_texts(writer))
    num_rows = sum(map(len, precedence))
    return _Records(
        masked=pa.ipc.open_file(pa.memory_map(str(path))).read_all(),
        full_texts=texts,
        ids=pa.chunked_array(ids, pa.string()),
        precedence=np.concatenate(precedence),
        has_same_answers=np.concatenate(same),
        num_masked=num_masked,
        reasons=np.full(num_rows, "", object),
        evidence=np.full(num_rows, "", object),
    )


def _masked(table: pa.Table, params: Pii | None) -> tuple[pa.Table, _MaskCounts]:
    """Return the table with personal data masked, and the number of masks of each type."""
    totals = _MaskCounts()
    for column, name in enumerate(table.column_names):
        if params is not None and name in TEXT_COLUMNS and table.num_rows:
            values, totals[name] = pii.mask_column(table[name].combine_chunks(), params)
            table = table.set_column(column, table.schema.field(column), values)
    return table, totals


def _has_same_answers(table: pa.Table, masked: pa.Table) -> BoolArray:
    """Whether each record is a pair that differed in personal data only."""
    if "chosen" not in table.column_names:
        return np.zeros(table.num_rows, np.bool_)
    # Comparisons with the null of an unpaired answer give null, which is neither a pair nor equal.
    was_pair = _flags(pc.not_equal(table["chosen"], table["rejected"]))
    return was_pair & _flags(pc.equal(masked["chosen"], masked["rejected"]))


def _mark_repeated(records: _Records) -> None:
    """Write reason and evidence of records that repeat another one."""
    duplicate_of = exact.duplicates(records.full_texts, records.precedence, records.ids)
    rows = np.flatnonzero(duplicate_of >= 0)
    records.reasons[rows] = "exact.duplicate"
    records.evidence[rows] = np.array(records.ids.take(pa.array(duplicate_of[rows])).to_pylist(), object)


def _mark_contaminated(raw: Path, records: _Records, comparison: leaks.Comparison, scratch: Path) -> None:
    """Write reason and evidence of train records that share n-grams with the index."""
    is_compared = (records.precedence == 0) & (records.reasons == "")

    def compared() -> Iterator[pa.Table]:
        first = 0
        for table in tables.row_groups(raw):
            yield table.filter(pa.array(is_compared[first : first + table.num_rows]))
            first += table.num_rows

    rows, train = np.flatnonzero(is_compared), _training_texts(compared(), scratch)
    counted = boilerplate.survey(train.texts, comparison.index, None, train.prompts)
    for leak in leaks.find(train.texts, comparison, counted, train.prompts):
        row = rows[train.records[leak.row]]
        records.reasons[row] = "contamination"
        records.evidence[row] = f"{leak.hits[0].set_name}/{leak.hits[0].example_id}"


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

    texts: pa.ChunkedArray
    records: Int64Array
    prompts: Int64Array


def _training_texts(parts: Iterable[pa.Table], scratch: Path) -> _TrainingTexts:
    """Return the texts that a model trains on: the dialogue, for both sides of a preference, and the system prompt.

    A system prompt that two records have is an instruction to the assistant, and common text; it is left out. The texts
    are in a file in `scratch`, and in memory are 32 bytes per record for the digests of its prompt and system prompt.
    """
    prompts, systems, num_columns = list[bytes](), list[bytes](), 1

    def texts_of_records() -> Iterator[pa.Array]:
        nonlocal num_columns
        for table in parts:
            spoken = _spoken(table)
            prompts.append(_digests(spoken.prompts))
            systems.append(_digests(spoken.systems))
            columns = [*spoken.dialogues, spoken.systems]
            num_columns = len(columns)
            yield pa.array([text for texts in zip(*columns, strict=True) for text in texts], pa.large_string())

    texts = text_files.write(scratch / "by-record.arrow", texts_of_records())
    numbers, _ = _first_occurrences(b"".join(prompts))
    is_repeated = _first_occurrences(b"".join(systems))[1] > 1
    records = np.repeat(np.arange(len(numbers)), num_columns)
    order = np.argsort(numbers[records], kind="stable")
    # The last text of a record is its system prompt.
    is_left_out = is_repeated[records] & (np.arange(len(records)) % num_columns == num_columns - 1)

    def texts_by_prompt() -> Iterator[pa.Array]:
        parts_of_bytes = np.cumsum(byte_lengths(texts)[order]) // PART_BYTES
        for rows in np.split(order, np.flatnonzero(np.diff(parts_of_bytes)) + 1):
            yield pc.if_else(pa.array(is_left_out[rows]), pa.scalar("", pa.large_string()), take(texts, rows))

    by_prompt = text_files.write(scratch / "by-prompt.arrow", texts_by_prompt())
    return _TrainingTexts(by_prompt, records[order], numbers[records][order])


def _digests(texts: list[str]) -> bytes:
    """Return the 16 bytes of the hash of each text, one after another."""
    return b"".join(xxhash.xxh3_128_digest(text.encode()) for text in texts)


def _first_occurrences(digests: bytes) -> tuple[Int64Array, Int64Array]:
    """Number the values of 16 bytes by their first occurrence; return number and frequency of each: int64[n] both."""
    _, firsts, groups, counts = np.unique(
        np.frombuffer(digests, "V16"), return_index=True, return_inverse=True, return_counts=True
    )
    ranks = np.empty(len(firsts), np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    return ranks[groups], counts[groups]


@dataclass(frozen=True, slots=True)
class _Spoken:
    """What is said in some records. prompts, systems: of each record; dialogues: columns of user and assistant.

    Conversations have one column, preferences one per side; the text of a side without an answer is empty.
    """

    prompts: list[str]
    systems: list[str]
    dialogues: list[list[str]]


def _spoken(table: pa.Table) -> _Spoken:
    is_conversation = "messages" in table.column_names
    messages = table["messages" if is_conversation else "prompt"].to_pylist()
    systems = ["\n".join(part["content"] for part in each if part["role"] == "system") for each in messages]
    if is_conversation:
        return _Spoken([_join(each[:-1]) for each in messages], systems, [[_join(each) for each in messages]])
    prompts = [_join(each) for each in messages]
    dialogues = [
        [
            "" if answer is None else f"{prompt}\n{answer}"
            for prompt, answer in zip(prompts, table[side].to_pylist(), strict=True)
        ]
        for side in SIDES
    ]
    return _Spoken(prompts, systems, dialogues)


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
