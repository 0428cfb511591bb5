"""Read curated tables and write token files: one function per kind of record, which returns its counts by split."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks import pairs, tables, tokens
from tasks.conversations import Message
from tasks.documents import SPLITS
from tasks.tokenization import columns, packing
from tasks.tokenization.chat import EncodedBatch, Encoder, Refusals
from tasks.tokenization.merge_kernels import UInt32Array
from tasks.tokenization.patterns import Int64Array, UInt8Array
from tasks.tokenization.prompts import DistinctPrompts, Prompt
from tasks.tokenization.refusals import RefusalLog
from tasks.tokenization.writers import StreamWriter

CountsBySplit = dict[str, dict[str, int]]
"""split -> name of a count -> count"""

T = TypeVar("T")

BATCH_ROWS = 1024  # records that are encoded at once
BATCH_BYTES = 2 << 20  # of text that are encoded at once


@dataclass(frozen=True, slots=True)
class Packing:
    """row_length: tokens per row; drop_too_long: whether to drop longer conversations, otherwise they are truncated."""

    row_length: int
    drop_too_long: bool
    seed: int


def train_texts(data: Path, share: float) -> Iterator[str]:
    """Yield the train texts: the first `share` of each shard's documents, then of the conversations, by message."""
    for table in _read_shards(data / "curated", ("text", "split")):
        texts = _select_split(table, "train")["text"]
        yield from texts.slice(0, share_of(len(texts), share)).to_pylist()
    yield from train_messages(data, share)


def train_messages(data: Path, share: float) -> Iterator[str]:
    """Yield the messages of the first `share` of the train conversations of each shard."""
    for table in _read_shards(data / "conversations/curated", ("messages", "split")):
        conversations = _select_split(table, "train")["messages"]
        for messages in conversations.slice(0, share_of(len(conversations), share)).to_pylist():
            yield from (message["content"] for message in messages)


def write_conversations(tokenizer: Any, source: Path, folder: Path, params: Packing) -> CountsBySplit:
    """Write the conversations of the table `source` as one packed stream per split, <folder>/conversations/<split>/."""
    encoder = Encoder(tokenizer)
    size, num_dropped = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    with ExitStack() as stack:
        folders = {split: folder / "conversations" / split for split in SPLITS}
        writers = {split: open_stream(stack, folders[split], encoder) for split in SPLITS}
        lists = {split: stack.enter_context(closing(packing.StoredLists(folders[split]))) for split in SPLITS}
        log = stack.enter_context(RefusalLog(encoder, folder, "conversations"))
        for split, table in read_batches(source, ("messages", "metadata", "source", *log.columns)):
            conversations, refused = columns.from_table(table), Refusals()
            size[split] += num_bytes(conversations.contents)
            ids, mask, starts = encoder.encode_columns(conversations, refused)
            accepted = np.array(log.accepted(split, table, refused), np.bool_)
            labels = {"source": table["source"].to_pylist(), "language": conversations.languages()}
            if params.drop_too_long or refused:
                fits = (np.diff(starts) <= params.row_length) | (not params.drop_too_long)
                num_dropped[split] += int((~fits).sum())
                fits &= accepted
                ids, mask, starts = _select_lists(ids, mask, starts, fits)
                labels = {kind: list(itertools.compress(values, fits)) for kind, values in labels.items()}
            lists[split].append(ids, mask, starts)
            writers[split].add_records(np.minimum(np.diff(starts), params.row_length), labels)
        counts = CountsBySplit()
        for split in SPLITS:
            counts[split] = {"num_conversations": 0, "num_dropped": num_dropped[split], "num_bytes": size[split]}
            counts[split] |= {**_pack(encoder, lists[split], writers[split], params), **log.counts(split)}
        return counts


def _pack(encoder: Encoder, lists: packing.StoredLists, writer: StreamWriter, params: Packing) -> dict[str, int]:
    """Write the packed stream of one split; return counts of it."""
    plan, num_targets = packing.plan_rows(lists.finish(), params.row_length, params.seed), 0
    writer.add_starts(plan.starts)
    for part in packing.packed_parts(plan, lists, encoder.pad, encoder.vocab_size):
        writer.append(part)
        num_targets += int(part.loss_mask.sum())
    return {
        "num_conversations": len(plan.lengths),
        "num_tokens": writer.num_tokens - plan.num_padding,
        "num_targets": num_targets,
        "num_rows": plan.num_rows,
        "num_truncated": plan.num_truncated,
        "num_padding": plan.num_padding,
    }


def _select_lists(
    ids: UInt32Array, mask: UInt8Array, starts: Int64Array, is_selected: npt.NDArray[np.bool_]
) -> EncodedBatch:
    """Return the selected ones of concatenated lists."""
    lengths = np.diff(starts)
    is_kept = np.repeat(is_selected, lengths)
    new_starts = np.concatenate(([0], np.cumsum(lengths[is_selected])))
    return ids[is_kept], mask[is_kept], new_starts


def open_stream(stack: ExitStack, folder: Path, encoder: Encoder) -> StreamWriter:
    """Return the writer of the stream of one split, which `stack` closes."""
    return stack.enter_context(StreamWriter(folder, encoder.vocab_size, ("source", "language")))


def num_bytes(texts: pa.Array) -> int:
    """Return the bytes of all texts."""
    return int(pc.sum(pc.binary_length(texts)).as_py() or 0)


def write_preferences(tokenizer: Any, source: Path, folder: Path) -> CountsBySplit:
    """Write the preferences of the table `source`: <folder>/<split>/{prompt,chosen,rejected}/ as ragged lists.

    reasons.json has the reason of each pair. lists.json has the id of the ranked list that a pair comes from, and null
    for a pair that was given alone. Answers that were judged alone are in <folder>/<split>/unpaired/.
    """
    encoder, counts, names = Encoder(tokenizer), CountsBySplit(), ("prompt", "chosen", "rejected", "reason", "metadata")
    with ExitStack() as stack:
        writers = {split: stack.enter_context(_pair_writer(folder / split, encoder)) for split in SPLITS}
        log = stack.enter_context(RefusalLog(encoder, folder.parent, "preferences"))
        for split, rows in read_batches(source, (*names, *log.columns)):
            has_both = pc.and_(pc.is_valid(rows["chosen"]), pc.is_valid(rows["rejected"]))
            _add_pairs(encoder, writers[split], log, split, rows.filter(has_both))
            _add_unpaired(encoder, writers[split], log, split, rows.filter(pc.invert(has_both)))
        for split, writer in writers.items():
            counts[split] = {"num_pairs": len(writer.reasons), "num_unpaired": len(writer.is_good)}
            counts[split] |= {"num_tokens": writer.num_tokens, **log.counts(split)}
    return counts


def _pair_writer(folder: Path, encoder: Encoder) -> pairs.PairWriter:
    return pairs.PairWriter(folder, encoder.vocab_size)


def _add_pairs(encoder: Encoder, writer: pairs.PairWriter, log: RefusalLog, split: str, rows: pa.Table) -> None:
    texts = (rows["prompt"].to_pylist(), rows["chosen"].to_pylist(), rows["rejected"].to_pylist())
    refused = Refusals()
    ids = encoder.encode_answered(*texts, refused=refused)
    accepted = log.accepted(split, rows, refused)
    reasons = rows["reason"].to_pylist()
    lists = [json.loads(metadata).get("list") for metadata in rows["metadata"].to_pylist()]
    columns = dict(zip(("prompt", "chosen", "rejected"), (_compress(column, accepted) for column in ids), strict=True))
    writer.add_pairs(columns, _compress(reasons, accepted), _compress(lists, accepted))


def _add_unpaired(encoder: Encoder, writer: pairs.PairWriter, log: RefusalLog, split: str, rows: pa.Table) -> None:
    answers, refused = pc.coalesce(rows["chosen"], rows["rejected"]).to_pylist(), Refusals()
    prompts, ids = encoder.encode_answered(rows["prompt"].to_pylist(), answers, refused=refused)
    accepted = log.accepted(split, rows, refused)
    is_good = pc.is_valid(rows["chosen"]).to_pylist()
    writer.add_unpaired(_compress(prompts, accepted), _compress(ids, accepted), _compress(is_good, accepted))


def _compress(values: Sequence[T], accepted: Sequence[bool]) -> list[T]:
    return list(itertools.compress(values, accepted))


def write_prompts(tokenizer: Any, data: Path, folder: Path) -> CountsBySplit:
    """Write the distinct prompts of conversations and preferences as ragged lists, <folder>/<split>/.

    metadata.json has a dict for each prompt: the metadata of its record, with `text` (the last message of the user) and
    `reference` (a good answer, if there is one).
    """
    encoder, counts = Encoder(tokenizer), CountsBySplit()
    preferences = _read_shards(data / "preferences/curated", ("source",))
    preference_sources = {name for table in preferences for name in pc.unique(table["source"]).to_pylist()}
    with RefusalLog(encoder, folder.parent, "prompts") as log:
        for split in SPLITS:
            with closing(DistinctPrompts(folder / split)) as prompts:
                ids = _encode_in_batches(encoder.encode_prompts, prompts.add(_read_prompts(data, split, log)))
                metadata, sources = prompts.metadata(), prompts.sources
                num_tokens = pairs.write_prompts(
                    folder / split, ids, metadata, encoder.vocab_size, sources, preference_sources
                )
                counts[split] = {"num_prompts": len(prompts), "num_tokens": num_tokens, **log.counts(split)}
    return counts


def _read_prompts(data: Path, split: str, log: RefusalLog) -> Iterator[Prompt]:
    """Yield every prompt with its metadata and source, first of conversations, then of preferences."""
    names = ("messages", "metadata", "source", *log.columns)
    for _, rows in read_batches(data / "conversations/curated", names, (split,)):
        for row in rows.to_pylist():
            *prompt, answer = row["messages"]
            if log.accepts_prompt(split, row.get("id"), prompt):
                yield prompt, _prompt_metadata(row, prompt, answer["content"]), row["source"]
    names = ("prompt", "chosen", "metadata", "source", *log.columns)
    for _, rows in read_batches(data / "preferences/curated", names, (split,)):
        for row in rows.to_pylist():
            if log.accepts_prompt(split, row.get("id"), row["prompt"]):
                yield row["prompt"], _prompt_metadata(row, row["prompt"], row["chosen"]), row["source"]


def _prompt_metadata(row: dict[str, Any], prompt: Sequence[Message], reference: str | None) -> dict[str, Any]:
    metadata = {**json.loads(row["metadata"]), "text": prompt[-1]["content"] if prompt else ""}
    return metadata if reference is None else {**metadata, "reference": reference}


def _encode_in_batches(
    encode: Callable[[Sequence[Sequence[Message]]], Sequence[tokens.Ids]], rows: Iterator[Sequence[Message]]
) -> Iterator[tokens.Ids]:
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield from encode(batch)


def read_batches(folder: Path, names: Sequence[str], splits: Sequence[str] = SPLITS) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each split as tables of about BATCH_BYTES; nothing if the data has no records of this kind."""
    if folder.is_dir():
        yield from by_split(tables.batches(folder, BATCH_BYTES, with_split(names)), splits)


def with_split(names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that `by_split` needs."""
    return (*names, "split")


def by_split(batches: Iterable[pa.Table], splits: Sequence[str] = SPLITS) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each split of each batch, where there are any."""
    for table in batches:
        for split in splits:
            rows = _select_split(table, split)
            if len(rows):
                yield split, rows


def _read_shards(folder: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the shards of a table; nothing if the data has no records of this kind."""
    if folder.is_dir():
        yield from tables.shards(folder, columns)


def _select_split(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))


def share_of(count: int, share: float) -> int:
    """Return count * share, rounded up."""
    return -int(-count * share // 1)
